"""What each super-resolution stage makes of true low-res pictures, and of those that the stages below it painted.

Over the strength of augmentation, aug_sigma, quality falls on true low_res and first rises on painted ones (Ho et al. 2021): a
level chosen on true pictures is wrong by construction. Both stand here side by side, from one set of painted low_res, with the
noise of the same images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.judge.brief import brief
from cascade.judge.each import mean_error
from cascade.judge.fidelity import low_res_consistency, psnr
from cascade.judge.painted import at_size, paint, read_conditions
from cascade.link import Link
from cascade.pipeline import Cascade
from data.alpha import on_background

TRUE, PAINTED = "true", "painted"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of `num` pictures of a stage at one aug_sigma, given true or painted low_res.

    psnr: dB against the true pictures, of true low_res only. consistency: dB of THE downsample against low_res. sharpness: over
    the true pictures'. grain: std of the high-pass in flat regions. swd: of the finest Laplacian level against the true
    pictures. kid: by `look`; None for too few pictures. NAME_error: the standard error over pictures.
    """

    stage: str
    low_res: str
    aug_sigma: float
    num: int
    psnr: float | None
    consistency: float
    sharpness: float
    grain: float
    swd: float
    kid: float | None
    psnr_error: float | None
    consistency_error: float
    sharpness_error: float
    grain_error: float
    swd_error: float
    kid_error: float | None

    def as_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)

    def line(self, header: bool = False) -> str:
        """The row of a table, under its header if that is wanted."""
        names = f"{'stage':<12}{'low_res':<9}{'aug_sigma':>9}{'N':>6}{'PSNR':>8}{'consist.':>10}"
        names += f"{'sharp':>8}{'grain':>8}{'SWD':>8}  KID"
        kid = f"{self.kid:.4f} +- {self.kid_error:.4f}" if self.kid is not None else "-"
        one = f"{self.psnr:8.2f}" if self.psnr is not None else f"{'-':>8}"
        text = f"{self.stage:<12}{self.low_res:<9}{self.aug_sigma:>9g}{self.num:>6,}{one}{self.consistency:>10.2f}"
        text += f"{self.sharpness:>8.3f}{self.grain:>8.4f}{self.swd:>8.3f}  {kid}"
        return f"{names}\n{text}" if header else text


def mismatch(
    model: Cascade, data: str, *, split: str = "val", num: int = 0, levels: Sequence[float], seed: int = 0
) -> Iterator[Row]:
    """The rows of each super-resolution stage, in the order of the chain. Levels above a stage's largest are left out for it.

    num: most pictures, 0 for all of the split. The other settings are the manifest's. Raises ValueError if the cascade has no
    super-resolution stage, or one has no level to try.
    """
    upper = model.links[1:] if model.links[0].sidecar.config.takes is None else model.links
    if not upper or upper == model.links:
        raise ValueError(
            f"cascade {', '.join(model.names)}: a base stage and one above it are needed to compare their pictures"
        )
    for link in upper:
        if not _levels(link, levels):
            most = link.sidecar.config.max_aug_sigma
            raise ValueError(
                f"stage {link.name}: it was trained up to aug_sigma {most:g}, all of {list(levels)} are above it"
            )
    batches = list(read_conditions(model, data, split, num))
    painted = [paint(model.links[0], batch, seed=seed) for batch in batches]
    for link in upper:
        config = link.sidecar.config
        assert config.takes is not None
        truth = torch.cat([at_size(batch.image, config.gives) for batch in batches])
        low_res = {TRUE: [at_size(batch.image, config.takes) for batch in batches], PAINTED: painted}
        for level in _levels(link, levels):
            for name, below in low_res.items():
                pairs = zip(batches, below, strict=True)
                made = [paint(link, batch, each, seed=seed, aug_sigma=level) for batch, each in pairs]
                yield _row(link.name, name, level, torch.cat(made), torch.cat(below), truth, seed)
        painted = [paint(link, batch, each, seed=seed) for batch, each in zip(batches, painted, strict=True)]


def _levels(link: Link, levels: Sequence[float]) -> list[float]:
    return [level for level in levels if level <= link.sidecar.config.max_aug_sigma]


def _row(stage: str, name: str, level: float, made: Tensor, low_res: Tensor, truth: Tensor, seed: int) -> Row:
    scores = brief(on_background(made), on_background(truth), seed)  # PSNR and consistency are of all channels
    one = mean_error(psnr(made, truth)) if name == TRUE else (None, None)
    consistent = mean_error(low_res_consistency(made, low_res))
    kid = scores.kid or (None, None)
    return Row(
        stage=stage, low_res=name, aug_sigma=level, num=len(made), psnr=one[0], consistency=consistent[0],
        sharpness=scores.sharpness[0], grain=scores.grain[0], swd=scores.swd[0], kid=kid[0],
        psnr_error=one[1], consistency_error=consistent[1], sharpness_error=scores.sharpness[1],
        grain_error=scores.grain[1], swd_error=scores.swd[1], kid_error=kid[1],
    )  # fmt: skip
