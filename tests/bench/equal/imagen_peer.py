"""The worker of imagen-pytorch: the unconditional cascade of its README at 16 and 64 px, with fewer channels.

As the README runs it: Unet with linear attention and SRUnet256, cosine schedules, predicted noise with its default min-SNR weights,
ImagenTrainer at 1e-4 with its EMA, batch 16, 1,000 steps, conditions enlarged and shrunk by nearest neighbour. The parts of the
networks that only read text are left out or made small.
Tuned: v-prediction, 1e-3 with warm-up and cosine, clipping, EMA at every update, area resizing, one level of noise on the condition
for each picture, 50 steps, bfloat16 where a probe finds it faster.

The library asks a hub for the width of a text encoder while it is imported; the answer is given here, as no text is used.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from clock import Budget
from torch import Tensor
from transformers import T5Config
from worker import (
    LARGE,
    SMALL,
    Request,
    Trained,
    batches,
    chunks,
    num_parameters,
    run_worker,
    train_pictures,
    warm_cosine,
    write_whole,
)

T5Config.from_pretrained = classmethod(lambda cls, name, **kwargs: cls(d_model=768))  # before the import below
from imagen_pytorch import Imagen, ImagenTrainer, SRUnet256, Unet  # noqa: E402

STEPS = 50
NUMBERS = {"base": 1, "sr": 2}


def build(request: Request) -> Imagen:
    common = {"layer_cross_attns": False, "attn_pool_text": False, "max_text_len": 1}
    base = Unet(
        dim=32, dim_mults=(1, 2), num_resnet_blocks=2, layer_attns=(False, True), use_linear_attn=True,
        attn_heads=5, attn_dim_head=32, **common,
    )  # fmt: skip
    sr = SRUnet256(
        dim=8, dim_mults=(1, 2, 4), num_resnet_blocks=(1, 2, 4), layer_attns=False, attn_heads=2, attn_dim_head=16,
        **common,
    )  # fmt: skip
    own = {"pred_objectives": "v", "resize_mode": "area", "per_sample_random_aug_noise_level": True}
    return Imagen(
        condition_on_text=False, unets=(base, sr), image_sizes=(SMALL, LARGE), text_embed_dim=768,
        timesteps=request.steps or (STEPS if request.tuned else 1000), **(own if request.tuned else {}),
    )  # fmt: skip


class Training:
    """One stage in training; `update` takes a batch of 64 px in [0, 1]."""

    def __init__(self, request: Request, *, fast: bool):
        self.number, self.fast = NUMBERS[request.part], fast
        own = {"ema_update_after_step": 0, "ema_update_every": 1, "max_grad_norm": 1.0, "lr": 1e-3}
        self.trainer = ImagenTrainer(
            build(request), only_train_unet_number=self.number, verbose=False,
            **(own if request.tuned else {}),
        )  # fmt: skip

    def update(self, pictures: Tensor, lr: float | None) -> None:
        with torch.autocast("cpu", torch.bfloat16) if self.fast else nullcontext():
            self.trainer(pictures, unet_number=self.number)
        if lr is not None:
            getattr(self.trainer, f"optim{self.number - 1}").param_groups[0]["lr"] = lr
        self.trainer.update(unet_number=self.number)


def update_s(request: Request, pictures: Tensor, *, fast: bool) -> float:
    """CPU seconds of an update, by three of them after the first."""
    training = Training(request, fast=fast)
    training.update(pictures, 0.0)
    probe = Budget(1.0)
    for _ in range(3):
        training.update(pictures, 0.0)
    return probe.used_s / 3


def train_stage(request: Request) -> Trained:
    pictures = (train_pictures(request) + 1) / 2
    batch = 8 if request.tuned and request.part == "sr" else 16
    fast = request.tuned and update_s(request, pictures[:batch], fast=True) < update_s(
        request, pictures[:batch], fast=False
    )
    torch.manual_seed(request.seed)
    budget = Budget(request.budget_s)
    training, updates = Training(request, fast=fast), 0
    for each in batches(pictures, batch, flip=request.tuned and request.part == "sr", seed=request.seed):
        if budget.is_over:
            break
        training.update(each, warm_cosine(1e-3, updates, budget.share, 60) if request.tuned else None)
        updates += 1
    used_s, index = budget.used_s, training.number - 1
    raw = training.trainer.imagen.unets[index]
    weights = {"raw": raw.state_dict(), "ema": training.trainer.ema_unets[index].ema_model.state_dict()}
    write_whole(Path(request.out) / f"{request.part}.pt", lambda path: torch.save(weights, path))
    return Trained(
        images=updates * batch, cpu_s=used_s, parameters=num_parameters(raw),
        precision="bf16" if fast else "fp32",
    )  # fmt: skip


def paint(request: Request) -> Tensor:
    imagen = build(request)
    for part, number in NUMBERS.items():
        weights = torch.load(Path(request.out) / f"{part}.pt", weights_only=True)
        imagen.unets[number - 1].load_state_dict(weights["raw" if request.raw else "ema"])
    painted = [imagen.sample(batch_size=num, use_tqdm=False) for num in chunks(request.num)]
    return 2 * torch.cat(painted) - 1


if __name__ == "__main__":
    run_worker(train_stage, paint)
