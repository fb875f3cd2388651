"""Prints the costs of a stage (stages/tools/cost.py) for `train.py --dry-run`, and images a second if measured."""

import time
from itertools import count
from statistics import median

import torch

from data.batch import Batch, Cond
from data.errors import RunError
from data.line import say
from data.read.shards import Reader
from stages.build import build_stage
from stages.config import SampleConfig, StageConfig
from stages.tools.cost import BACKWARD, StageCost, cost_of, mfu, peak_flops
from stages.training.checks import micro_batch
from stages.training.controlled import beside
from stages.training.engine import LocalEngine

from ..config import CascadeConfig, stage_of

UPDATES = 3  # timed updates, after a warm-up
MEASURE_S = 20.0  # after this time no further update is started
DAY_S = 86400


def print_costs(
    config: CascadeConfig, stage: str, *, world: int = 1, measure: bool = False, device: torch.device | None = None
) -> None:
    """Print a table of one stage's costs on `world` devices, and a line about the cascade. measure: also images a second on
    `device`.

    Raises ValueError for an unknown stage or a number of processes that does not fit, RunError if measuring runs out of memory.
    """
    stage_config = stage_of(config, stage)
    if world < 1:
        raise ValueError(f"--world {world}: at least one process trains")
    micro_batch(stage_config, world)
    costs = {name: cost_of(shared(entry, world)) for name, entry in config.stages.items()}
    cost = costs[stage]
    say(f"{config.name} / {stage}")
    for label, amount, note in (
        ("parameters", number_text(cost.parameters), ""),
        ("forward, an image", flop_text(cost.forward_flops), f"at {cost.train_size} px"),
        ("training, an image", flop_text(cost.train_flops), f"{BACKWARD} x forward"),
        ("training, whole run", flop_text(cost.train_flops * cost.images), f"{number_text(cost.images)} images"),
        ("sampling, an image", flop_text(cost.sample_flops), sampling_note(cost, stage_config.sample)),
        ("weights", bytes_text(cost.weight_bytes), "float32"),
        ("gradients", bytes_text(cost.weight_bytes), "float32"),
        ("optimizer", bytes_text(cost.adam_bytes), "Adam's two moments"),
        ("EMA", bytes_text(cost.ema_bytes), f"{cost.num_ema} copies, never divided"),
        ("activations", bytes_text(cost.activation_bytes), activation_note(cost, stage_config.train.precision)),
        ("memory of a process", bytes_text(cost.train_bytes), "sum of the five lines above, at ZeRO 0"),
        ("bundle", bytes_text(cost.bundle_bytes), "on disk"),
    ):
        print_line(label, amount, note)
    print_zero(cost, world)
    if measure:
        print_measured(stage_config, cost, world, device or torch.device("cpu"))
    say(
        f"cascade of {len(costs)}: {number_text(sum(p.parameters for p in costs.values()))} parameters, "
        f"{flop_text(sum(p.sample_flops for p in costs.values()))} to sample an image, "
        f"{bytes_text(sum(p.bundle_bytes for p in costs.values()))} of bundles"
    )
    say("1 FLOP = half a multiply-add, convolutions and matrix products only; 1 GB = 10^9 bytes")


def print_sharing(reader: Reader, micro: int) -> None:
    """Print how a batch is divided among processes and micro-batches, and the numbers of shards and streams."""
    share, shards = reader.batch // reader.world, sum(reader.shape.shards)
    pictures = reader.index.num_images[reader.split]
    say(f"data {reader.opened.name}: {pictures:,} pictures in {shards} shards, {reader.streams} streams")
    say(
        f"a batch of {reader.batch}: {share} for each of {reader.world} processes, micro-batch {micro} x {share // micro}"
    )


def print_zero(cost: StageCost, world: int) -> None:
    """Print the memory of each of `world` devices by ZeRO stage, with and without offload."""
    say(f"memory of each of {world} devices, in GB; on top come temporaries, and a CUDA context of about 0.5")
    names = ("weights", "gradients", "optimizer", "ema", "activations", "buffers", "device", "host")
    say(f"  {'':14}" + "".join(f"{name:>12}" for name in names))
    for zero, offload in ((0, False), (1, False), (2, False), (3, False), (1, True), (2, True), (3, True)):
        memory = cost.memory(zero=zero, world=world, offload=offload)
        kind = f"ZeRO {zero}" + (" offload" if offload else "")
        say(f"  {kind:14}" + "".join(f"{getattr(memory, name) / 1e9:12.2f}" for name in names))


def print_measured(config: StageConfig, cost: StageCost, world: int, device: torch.device) -> None:
    """Measure and print images a second, MFU if the device's peak is known, and how long the whole run would take."""
    rate, count = measure_rate(config, cost.micro_batch, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print_line(
        "measured",
        f"{rate:.3g} img/s",
        f"median of {count} updates of {cost.micro_batch} random pictures, eager, on {name}",
    )
    peak = peak_flops(device)
    if peak:
        print_line("MFU", f"{100 * mfu(rate, cost.train_flops, peak):.1f} %", f"of {peak / 1e12:.0f} TFLOP/s")
    days = cost.images / (rate * world) / DAY_S
    ideal = f"on {world} such devices, if they lose nothing to each other" if world > 1 else "on this device"
    print_line("whole run", days_text(days), f"{number_text(cost.images)} images {ideal}, data and saves not counted")


def measure_rate(
    config: StageConfig, micro_batch: int, device: torch.device, *, least_s: float = 0.0
) -> tuple[float, int]:
    """Images a second of real updates of one micro-batch in one process, and the number of timed updates: UPDATES, or as many as
    `least_s` seconds hold. Raises RunError if memory does not suffice."""
    stage = build_stage(beside(config).stand_in())
    stage.set_precision(config.train.precision)
    stage.net.checkpointed = config.train.checkpoint_activations
    batch = random_batch(config, micro_batch)
    seconds: list[float] = []
    started = time.monotonic()
    try:
        engine = LocalEngine(stage, config.train, device)
        for k in count():
            start = time.monotonic()
            engine.update([batch], config.train.lr if k else 0.0)  # reads the loss, so it waits for the device
            seconds.append(time.monotonic() - start)
            spent = time.monotonic() - started
            if k and (spent > MEASURE_S or (k >= UPDATES and spent > least_s)):
                break
        engine.close()
    except torch.OutOfMemoryError:
        raise RunError(
            f"--measure: a micro-batch of {micro_batch} at {config.resolution} px does not fit {device}; "
            "set train.micro_batch lower, or train.checkpoint_activations=true",
            3,
        ) from None
    return micro_batch / median(seconds[1:]), len(seconds) - 1


def random_batch(config: StageConfig, num: int) -> Batch:
    """A batch of noise pictures, with conditions of the right shapes."""
    text, generator = config.cond.text, torch.Generator().manual_seed(0)
    size = (num, *config.space.stored(config.channels, config.gives))
    classes = config.cond.num_classes
    image = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    cond = Cond.of(
        torch.ones(num, dtype=torch.bool),
        label=torch.randint(0, classes, (num,), generator=generator) if classes else None,
        text=torch.randn(num, text.tokens, text.dim, generator=generator) if text else None,
        text_mask=torch.ones(num, text.tokens, dtype=torch.bool) if text else None,
    )
    if config.cond.maps:
        shape = (num, config.cond.maps.channels, *size[-2:])
        cond = cond.given(maps=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))
    return Batch(
        image=image,
        cond=cond,
        index=torch.arange(num),
        keys=tuple(str(k) for k in range(num)),
    )


def shared(config: StageConfig, world: int) -> StageConfig:
    """The config with its micro-batch filled in: if it has none, the share of one of `world` processes."""
    train = config.train
    micro = train.micro_batch or max(1, train.batch // world)
    return config.model_copy(update={"train": train.model_copy(update={"micro_batch": micro})})


def activation_note(cost: StageCost, precision: str) -> str:
    """The note beside the memory of activations: what the estimate assumes."""
    note = "blocks computed again" if cost.checkpointed else f"{bytes_text(cost.checkpointed_bytes)} if checkpointed"
    return f"estimate; micro-batch {cost.micro_batch}, {precision}, {note}, fused attention, no temporaries"


def sampling_note(cost: StageCost, settings: SampleConfig) -> str:
    """The note beside the cost of sampling: size, sampler, calls, and how many of them are guided."""
    guided = cost.rows - cost.nfe
    guided_note = f", {guided} of them guided, which costs two" if guided else ""
    return f"at {cost.resolution} px; {settings.sampler}, {cost.nfe} calls{guided_note}"


def print_line(what: str, amount: str, note: str) -> None:
    """Print a row of the table."""
    say(f"  {what:20} {amount:>12}  {note}".rstrip())


def days_text(days: float) -> str:
    """A duration in days, hours or minutes."""
    return f"{days:.1f} days" if days >= 1 else f"{days * 24:.1f} hours" if days >= 1 / 24 else f"{days * 1440:.1f} min"


def number_text(number: float) -> str:
    """A number in billions (B), millions (M) or thousands (k)."""
    return scaled(number, (("B", 1e9), ("M", 1e6), ("k", 1e3), ("", 1)))


def flop_text(number: float) -> str:
    """FLOPs with a decimal prefix."""
    return scaled(
        number, (("ZFLOP", 1e21), ("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))
    )


def bytes_text(number: float) -> str:
    """Bytes in kB, MB or GB, powers of 1000."""
    return scaled(number, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))


def scaled(number: float, units: tuple[tuple[str, float], ...]) -> str:
    """A number with three digits, in the largest unit that is not above it."""
    unit, factor = next((u for u in units if number >= u[1]), units[-1])
    value = number / factor
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}".rstrip()
