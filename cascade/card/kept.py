"""`card.json`: what was gathered from shards, logs and reports, which do not travel with the weights. The command writes it.
What is not about these weights is dropped."""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from data.errors import first_error
from data.files import replace_text
from stages.config import SampleConfig
from stages.strict import Strict
from stages.texts import as_text

from .chain import Chain

KEPT = "card.json"

Estimate = tuple[float, float]  # a value and its standard error


class DataFacts(Strict):
    """Of a data set's index. size: (h, w) in px; pack: options of data.pack that differ from their defaults.

    hidden: pictures of the splits that are not trained on, by the fact `part`, where the data tell it ("unseen pair").
    captions: of up to three of these pictures."""

    name: str
    num_images: dict[str, int]
    size: tuple[int, int] | None
    channels: int
    classes: int
    text_encoder: str | None
    pack: tuple[str, ...]
    hidden: dict[str, int]
    captions: tuple[str, ...]


class RunFacts(Strict):
    """Of a run's log up to the weights. seconds: of all its log lines; img_per_s: their median; world: processes."""

    device: str
    threads: int
    world: int
    seconds: float
    img_per_s: float


class BriefScores(Strict):
    """Of a stage's pictures against the true ones: see `cascade.judge.brief.Brief`."""

    num: int
    match: Estimate
    sharpness: Estimate
    grain: Estimate
    swd: Estimate
    kid: Estimate | None


class StageScores(Strict):
    """A stage in a report; on_true_low_res: its pictures of true low_res, null for a base stage."""

    name: str
    sha256: str
    settings: SampleConfig
    brief: BriefScores
    swd_floor: Estimate
    on_true_low_res: BriefScores | None


class Share(Strict):
    """A share of answers with its interval of 95 %."""

    right: int
    num: int
    share: float | None
    low: float
    high: float


class RulerLine(Strict):
    """Right thing, right style and both, of one set of pictures."""

    name: str
    num: int
    concept: Share
    style: Share
    both: Share


class RulerScores(Strict):
    """What a ruler of things and styles says: the pictures first, then what stands beside them."""

    ruler: str
    ruler_sha256: str
    style_ceiling: Share
    lines: tuple[RulerLine, ...]


class ReportFacts(Strict):
    """Of the JSON of `cascade.judge report`: N, what it depends on, scores by stage, neighbours among the training pictures."""

    data: str
    fingerprint: str
    split: str
    seed: int
    num: int
    background: str
    judge_sha256: str
    ruler: dict[str, str]
    stages: tuple[StageScores, ...]
    nearer_than_real: dict[str, Estimate]
    concepts: RulerScores | None


class Kept(Strict):
    """The content of card.json. data: by fingerprint; runs, notices (of what the weights were trained on from): by sha256."""

    version: Literal[1] = 1
    data: dict[str, DataFacts] = Field(default_factory=dict)
    runs: dict[str, RunFacts] = Field(default_factory=dict)
    reports: tuple[ReportFacts, ...] = ()
    notices: dict[str, str] = Field(default_factory=dict)

    def about(self, chain: Chain) -> "Kept":
        """What of this is about the cascade's weights, with the settings that it has now."""
        own = {stage.sidecar.sha256 for stage in chain.stages}
        reports = tuple(report for report in self.reports if why_not(report, chain) is None)
        known = chain.fingerprints | {report.fingerprint for report in reports}
        ancestors = {each.sha256 for stage in chain.stages for each in stage.sidecar.provenance.ancestors}
        return Kept(
            data={fingerprint: self.data[fingerprint] for fingerprint in sorted(self.data.keys() & known)},
            runs={sha256: self.runs[sha256] for sha256 in sorted(self.runs.keys() & own)},
            reports=reports,
            notices={sha256: self.notices[sha256] for sha256 in sorted(self.notices.keys() & ancestors)},
        )


def why_not(report: ReportFacts, chain: Chain) -> str | None:
    """Why a report is not one of this cascade, or of its first stages, as it samples now; None if it is."""
    if len(report.stages) > len(chain.stages):
        return f"it has {len(report.stages)} stages, the cascade {len(chain.stages)}"
    for told, stage in zip(report.stages, chain.stages, strict=False):
        if told.sha256 != stage.sidecar.sha256:
            return f"stage {stage.name} had other weights there ({told.sha256[:12]})"
        if told.settings != stage.entry.sample:
            return f"stage {stage.name} sampled with other settings there"
    return None


def read_kept(folder: Path) -> Kept:
    """FOLDER/card.json; nothing without one. Raises ValueError if it is damaged."""
    path = folder / KEPT
    fix = "remove it, and gather anew with --data, --runs and --report"
    if not path.is_file():
        return Kept()
    try:
        return Kept.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{path}: {first_error(error)}; {fix}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); {fix}") from None


def write_kept(folder: Path, kept: Kept) -> None:
    """Write card.json; remove it if there is nothing to keep."""
    if kept == Kept():
        (folder / KEPT).unlink(missing_ok=True)
    else:
        replace_text(folder / KEPT, as_text(kept))
