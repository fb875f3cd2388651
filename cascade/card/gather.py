"""Gathers what a card tells from files that do not travel with the weights: shards, the logs of runs, the JSON of a report."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from cascade.judge.about import About, read_about
from data.errors import first_error
from data.index import Index
from data.pack.settings import PackSettings
from data.read.mixture import facts, parse
from stages.bundle import find_bundle, read_sidecar
from stages.runs import read_lines
from stages.training.checkpoints import read_object

from .chain import Chain, StageFacts
from .hand import LICENCE
from .kept import DataFacts, Kept, ReportFacts, RunFacts, why_not

RESOLVED = (
    "size",
    "source",
    "shards",
)  # settings of data.pack that the index has as they were chosen, not as they were given
EXAMPLES = 3  # captions
REPORTED = (
    "data", "fingerprint", "num", "background", "judge_sha256", "ruler", "nearer_than_real"
)  # of a report's JSON, as they are  # fmt: skip
OF_STAGES = ("name", "sha256", "settings", "brief", "swd_floor", "on_true_low_res")


def gathered(
    chain: Chain, kept: Kept, *, data: Sequence[str], runs: Path | None, reports: Sequence[tuple[str, Any]]
) -> Kept:
    """What was kept with what these places add. runs: a folder with the runs of stages, by default the cascade's own.

    reports: contents of JSON files, with what to call them in messages. Raises ValueError for what is not about this cascade.
    """
    of_reports = [read_report(name, content, chain) for name, content in reports]
    known = chain.fingerprints | {report.fingerprint for report in of_reports}
    same = {(each.fingerprint, each.split, len(each.stages)) for each in of_reports}
    older = tuple(each for each in kept.reports if (each.fingerprint, each.split, len(each.stages)) not in same)
    logs = {stage.sidecar.sha256: log for stage in chain.stages if (log := read_run(chain, stage, runs))}
    if runs and not logs:
        raise ValueError(
            f"--runs {runs}: no run of {', '.join(s.name for s in chain.stages)} in it; give the --out of train.py"
        )
    return Kept(
        data=kept.data | read_data(data, known, chain.folder),
        runs=kept.runs | logs,
        reports=(*older, *of_reports),
        notices=kept.notices | inherited(chain),
    ).about(chain)


def read_data(places: Sequence[str], known: set[str], folder: Path) -> dict[str, DataFacts]:
    """Data sets by fingerprint: each place alone, or all that are none alone as one mixture. Raises ValueError for others."""
    found: dict[str, DataFacts] = {}
    rest = []
    for place in places:
        index = facts(parse([place]))
        if index.fingerprint in known:
            found[index.fingerprint] = data_facts(place, index)
        else:
            rest.append(place)
    if rest:
        index = facts(parse(rest))
        if index.fingerprint not in known:
            raise ValueError(
                f"data {' + '.join(rest)}: fingerprint {index.fingerprint[:12]}, but {folder} was trained and judged on "
                f"{', '.join(sorted(each[:12] for each in known))}; name these, or leave it out"
            )
        found[index.fingerprint] = data_facts(" + ".join(rest), index)
    return found


def data_facts(place: str, index: Index) -> DataFacts:
    """What an index says; of the splits that are not trained on, what each picture says."""
    parts: Counter[str] = Counter()
    held: list[About] = []
    for split in sorted(index.num_images.keys() - {"train"}) if " + " not in place else ():
        held += read_about(place, split).values()
    parts.update(str(each.facts["part"]) for each in held if "part" in each.facts)
    captions = dict.fromkeys(each.caption for each in held if each.caption)
    return DataFacts(
        name=" + ".join(os.path.basename(os.path.abspath(part)) for part in place.split(" + ")),
        num_images=index.num_images,
        size=index.size,
        channels=index.channels,
        classes=len(index.classes or ()),
        text_encoder=index.text_encoder.id if index.text_encoder else None,
        pack=tuple(pack_options(index.settings)),
        hidden=dict(sorted(parts.items())),
        captions=tuple(captions)[:EXAMPLES],
    )


def pack_options(settings: dict[str, Any]) -> list[str]:
    """The options of data.pack that give these settings; none where other tools made the shards.

    A folder of maps is somebody's own, as that of the pictures is, and is called MAPS; of tars it is a name of members.
    """
    if "size" not in settings:
        return []
    options = ["--size", str(settings["size"])]
    for name, default in PackSettings().model_dump().items():
        value, flag = settings.get(name, default), f"--{name.replace('_', '-')}"
        if name in RESOLVED or value == default or value is None:
            continue
        if isinstance(value, bool):
            options.append(flag if value else f"--no-{flag[2:]}")
        elif name == "maps" and settings.get("source") != "tars":
            options += [flag, "MAPS"]
        elif isinstance(value, list | tuple):
            options += [word for each in value for word in (flag, str(each))]
        else:
            options += [flag, str(value)]
    return options


def read_run(chain: Chain, stage: StageFacts, runs: Path | None) -> RunFacts | None:
    """The log of the run that gave a stage's weights; None where there is none. Raises ValueError for a run of other weights.

    Weights in the run's own folder are its own, also where a sweep chose others than its bundle.
    """
    run = (runs or chain.folder) / stage.name
    if not (run / "metrics.jsonl").is_file() or not (run / "environment.json").is_file():
        return None
    is_its_own = (chain.folder / stage.entry.bundle).parent == run
    if not is_its_own and (own := read_sidecar(find_bundle(run / "bundle"))).sha256 != stage.sidecar.sha256:
        raise ValueError(
            f"{run}: its bundle has other weights ({own.sha256[:12]}) than stage {stage.name} of {chain.folder} "
            f"({stage.sidecar.sha256[:12]}); name the --out that these came from"
        )
    environment = read_object(
        run / "environment.json", "restore it, or remove it, and the card says nothing of the run"
    )
    seconds, rates, before = 0.0, [], 0
    for line in read_lines(run):
        if before < line["nimg"] <= stage.sidecar.provenance.nimg and (rate := line.get("img_per_s")):
            seconds, before = seconds + (line["nimg"] - before) / rate, line["nimg"]
            rates.append(rate)
    if not rates:
        return None
    try:
        told = {key: environment.get(key) for key in ("device", "threads", "world")}
        return RunFacts.model_validate(told | {"seconds": round(seconds, 1), "img_per_s": round(median(rates), 1)})
    except ValidationError as error:
        raise ValueError(f"{run / 'environment.json'}: {first_error(error)}; restore it, or remove it") from None


def inherited(chain: Chain) -> dict[str, str]:
    """The licence files of cascades whose weights a stage was trained on from, by sha256, where they still lie there."""
    found = {}
    for stage in chain.stages:
        place, ancestors = stage.sidecar.config.train.init, stage.sidecar.provenance.ancestors
        if not place or not ancestors:
            continue
        bundle = find_bundle(Path(place)).resolve()
        try:
            own = read_sidecar(bundle).sha256 == ancestors[0].sha256
        except ValueError:  # it is gone: what was kept of it stays
            continue
        files = [folder / LICENCE for folder in (bundle, *bundle.parents[:2]) if (folder / LICENCE).is_file()]
        if own and files:
            found[ancestors[0].sha256] = files[0].read_text(encoding="utf-8").strip()
    return found


def read_report(name: str, content: Any, chain: Chain) -> ReportFacts:
    """What a card needs of a report's JSON. Raises ValueError if it is none, or one of other weights or settings."""
    try:
        told: dict[str, Any] = {key: content[key] for key in REPORTED}
        told |= {"split": content["wanted"]["split"], "seed": content["wanted"]["seed"]}
        told["data"] = Path(told["data"]).name
        told["stages"] = [{key: stage[key] for key in OF_STAGES} for stage in content["stages"]]
        told["concepts"] = content["concepts"] and _of_ruler(content["concepts"])
        report = ReportFacts.model_validate(json.loads(json.dumps(told)))
    except ValidationError as error:
        raise ValueError(f"{name}: {first_error(error)}; {_MAKE}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: not a report's JSON (it lacks {error}); {_MAKE}") from None
    if why := why_not(report, chain):
        raise ValueError(f"{name}: {why}; {_MAKE}")
    return report


def _of_ruler(told: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "num", "concept", "style", "both")
    lines = [{key: line[key] for key in names} for line in told["lines"]]
    return {key: told[key] for key in ("ruler", "ruler_sha256", "style_ceiling")} | {"lines": lines}


_MAKE = "make it with: python -m cascade.judge report CASCADE --data SHARDS --json report.json"
