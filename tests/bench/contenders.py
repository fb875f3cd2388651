"""The two networks of bench_update.py, and the process that does one update of one of them each time it is asked.

`python contenders.py JSON` answers "ready", then each line of its input with the milliseconds that an update took, by the wall's
clock and of processor time, and the end of its input with the memory of the process. The update is the same code for both:
forward, mean squared error, backward, clipping, AdamW.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import IO, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WARM = 3  # updates before the clock: allocator, lazy kernels, compilation, gains that start at 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained. widths, attention: channels of each level and levels with self-attention, finest first, for both;
    layers, blocks: residual blocks of a level, theirs and ours, so that the parameters match; in super-resolution ours stand
    mostly on the coarse levels, as in Imagen's Efficient U-Net (Saharia et al. 2022, appendix B). target: ratio to reach."""

    name: str
    size: int
    batch: int
    num_in: int
    widths: tuple[int, ...]
    attention: tuple[int, ...]
    layers: int
    blocks: tuple[int, ...]
    target: float


TASKS = (
    Task(name="base", size=16, batch=32, num_in=3, widths=(64, 128, 192), attention=(1, 2), layers=2, blocks=(3, 3, 4), target=1.2),
    Task(name="sr", size=64, batch=8, num_in=6, widths=(64, 96, 128), attention=(), layers=2, blocks=(1, 3, 5), target=1.7),
)  # fmt: skip
GPU_TASKS = (
    Task(
        name="base", size=64, batch=64, num_in=3, widths=(192, 384, 576, 768), attention=(2, 3), layers=2, blocks=(2, 3, 4, 4),
        target=1.05,
    ),
    Task(
        name="sr", size=256, batch=16, num_in=6, widths=(128, 256, 512, 768), attention=(), layers=2, blocks=(1, 4, 4, 4),
        target=1.05,
    ),
)  # fmt: skip
HEAD_DIM = 32


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How it is computed."""

    precision: str = "bf16"
    channels_last: bool = True
    compiled: bool = False

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.precision}, {layout}, {'compiled' if self.compiled else 'eager'}"


Forward = Callable[[Tensor, Tensor], Tensor]


def build_ours(task: Task) -> nn.Module:
    from stages.nets.ports import Ports
    from stages.nets.unet import UNet
    from stages.nets.unet_config import UNetConfig

    config = UNetConfig(widths=task.widths, blocks=task.blocks, self_attention=task.attention, head_dim=HEAD_DIM)
    return UNet(config, Ports(inputs=task.num_in, outputs=3))


def build_diffusers(task: Task) -> nn.Module:
    from diffusers import UNet2DModel

    kinds = ["Attn" if level in task.attention else "" for level in range(len(task.widths))]
    return UNet2DModel(
        sample_size=task.size,
        in_channels=task.num_in,
        out_channels=3,
        layers_per_block=task.layers,
        block_out_channels=task.widths,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=HEAD_DIM,
        add_attention=len(task.widths) - 1 in task.attention,
    )


BUILD = {"ours": build_ours, "diffusers": build_diffusers}


def forward_of(peer: str, net: nn.Module, task: Task, precision: str, device: str) -> Forward:
    """(x, noise (b,)) to the network's output, each network in bfloat16 by its own means."""
    if peer == "ours":
        from data.batch import Cond

        if precision == "bf16":
            net.compute_dtype = torch.bfloat16
        cond = Cond.empty(task.batch)
        return lambda x, noise: net(x, noise, cond)
    cast = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()

    def forward(x: Tensor, noise: Tensor) -> Tensor:
        with cast:
            return net(x, noise).sample

    return forward


def make_update(peer: str, task: Task, setting: Setting, device: str = "cpu") -> Callable[[], float]:
    """One training update, giving its loss."""
    torch.manual_seed(0)
    net = BUILD[peer](task)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    net = net.to(device, memory_format=layout)
    forward = forward_of(peer, net, task, setting.precision, device)
    if setting.compiled:
        net.compile(dynamic=False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    x = torch.randn(task.batch, task.num_in, task.size, task.size).to(device, memory_format=layout)
    target, noise = torch.randn(task.batch, 3, task.size, task.size).to(device), torch.rand(task.batch).to(device)

    def update() -> float:
        loss = F.mse_loss(forward(x, noise).float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return update


def peak_mb(device: str) -> int:
    """Peak memory of the GPU so far, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def serve(request: dict) -> None:
    """Updates on demand, until the input ends."""
    torch.set_num_threads(request["threads"])
    torch.set_flush_denormal(True)
    task = Task(**{key: tuple(v) if isinstance(v, list) else v for key, v in request["task"].items()})
    device = request["device"]
    update = make_update(request["peer"], task, Setting(**request["setting"]), device)
    imported = peak_mb(device)
    for _ in range(WARM):
        assert update() < 10
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        update()
        print(1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu), flush=True)
    print(json.dumps({"peak_mb": peak_mb(device), "imported_mb": imported}), flush=True)


@dataclass(frozen=True, kw_only=True)
class Times:
    """Milliseconds of one update: by the wall's clock, and of processor time, which a busy machine disturbs less."""

    wall: float
    cpu: float


class Worker:
    """A process with one contender, warmed up. Ask it for updates, then close it for its memory."""

    def __init__(self, peer: str, task: Task, setting: Setting, threads: int, device: str):
        request = {"peer": peer, "task": asdict(task), "setting": asdict(setting), "threads": threads, "device": device}
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(request)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.input: IO[str] = self.process.stdin  # type: ignore[assignment]
        self.output: IO[str] = self.process.stdout  # type: ignore[assignment]
        if self.output.readline() != "ready\n":
            raise RuntimeError(f"{peer}, {setting}: the process ended with {self.process.wait()}; its errors are above")

    def update(self) -> Times:
        print("go", file=self.input, flush=True)
        wall, cpu = self.output.readline().split()
        return Times(wall=float(wall), cpu=float(cpu))

    def close(self) -> dict[str, int]:
        self.input.close()
        memory = json.loads(self.output.readline())
        self.output.close()
        self.process.wait()
        return memory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
