"""Notes on settings that are allowed but rarely intended, printed before the first update."""

from collections.abc import Iterator

from ..config import TrainConfig
from .schedule import lr_at

JUMP = 1.5  # factor between two learning rates that is worth a note
LOW = 0.05  # share of the largest learning rate; an rsqrt schedule that ends below it had too short a warm-up


def notes(settings: TrainConfig, before: TrainConfig | None, nimg: int) -> Iterator[str]:
    """Yield notes, one line each. settings: those from image `nimg` on; before: those up to there, None for a new run."""
    warmup, images = settings.warmup, settings.images
    if warmup >= images:
        yield (
            f"train.warmup {warmup:,} is not shorter than train.images {images:,}, so the learning rate only reaches "
            f"{lr_at(settings, images):.3g} of {settings.lr:.3g}"
        )
    elif settings.schedule == "rsqrt" and lr_at(settings, images) < LOW * settings.lr:
        yield (
            f"train.schedule rsqrt falls from the end of the warm-up on, image {warmup:,}, and ends at "
            f"{lr_at(settings, images):.3g} of {settings.lr:.3g}; a longer train.warmup keeps it higher"
        )
    if before is not None:
        old_lr, new_lr = lr_at(before, nimg), lr_at(settings, nimg)
        if max(old_lr, new_lr) > JUMP * min(old_lr, new_lr):
            reason = f"the {before.schedule} schedule was over {before.images:,} images and now is over {images:,}"
            changed = (before.lr, before.schedule, before.warmup) != (settings.lr, settings.schedule, warmup)
            yield (
                f"the learning rate jumps from {old_lr:.3g} to {new_lr:.3g} at image {nimg:,}: "
                f"{'its settings have changed' if changed else reason}"
            )
