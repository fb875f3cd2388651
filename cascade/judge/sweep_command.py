"""The command that chooses how the stages of a cascade sample, and writes it into the manifest with the evidence.

python -m cascade.judge sweep CASCADE --data SHARDS --minutes 20
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.line import say

if TYPE_CHECKING:
    from cascade.judge.estimate import Estimate
    from cascade.judge.halves import Half
    from cascade.judge.sweep import Outcome
    from cascade.judge.sweep_rule import Trial
    from cascade.judge.sweep_setup import Setup
    from cascade.judge.sweep_weights import Weights
    from cascade.link import Link
    from cascade.manifest import Manifest, StageEntry
    from cascade.pipeline import Cascade

RULE = "fewest calls of those within two standard errors of the best; spoils no other score"
REPORT_SEED = 0  # what a report paints with, unless told otherwise


def sweep_main(
    cascade: Annotated[Path, typer.Argument(help="a folder of bundles: the --out of train.py")],
    data: Annotated[str, typer.Option(help="shards with the conditions of the cascade")] = "",
    minutes: Annotated[float, typer.Option(help="time for all stages, also over interruptions")] = 20.0,
    split: Annotated[str, typer.Option(help="of the data; its dev half is used, the other is for reports")] = "val",
    num: Annotated[int, typer.Option(help="most pictures; 0: all of the half")] = 480,
    seed: Annotated[int, typer.Option(help="of sampling; another one than a report's")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(help="change only this, for instance guidance_scale, or STAGE=sampler,sigma_min; may be repeated"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="leave the cascade as it is, show what would be written")
    ] = False,
    state: Annotated[
        Path | None, typer.Option(help="file of what was tried so far; CASCADE/sweep.json by default")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where it is faster")] = "fp32",
) -> None:
    """Choose guidance, aug_sigma, sigma_max, sampler, steps and half-life of each stage, on what the stages below it paint.

    The same command again goes on where it was.
    """
    from cascade.engine.devices import choose_device
    from cascade.judge.sweep import least_seconds, sweep
    from cascade.judge.sweep_store import Store
    from cascade.manifest import MANIFEST, read_manifest, write_swept
    from cascade.pipeline import Cascade
    from data.files import held

    if not data:
        raise ValueError("--data SHARDS is needed: on whose pictures and conditions the settings are chosen")
    if num < 0:
        raise ValueError(f"--num {num}: give a number of pictures, or 0 for all of the half")
    if not 0 < minutes < 1e6:
        raise ValueError(f"--minutes {minutes:g}: give the minutes that the sweep may take")
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"--precision {precision}: allowed are fp32 and bf16")
    if seed == REPORT_SEED:
        raise ValueError(
            f"--seed {seed} is what reports paint with, and what is chosen on it flatters there; give another"
        )
    manifest = read_manifest(cascade)
    model = Cascade.load(cascade, device=choose_device(device), precision=precision)
    coordinates = _only(only, model.names) if only else None
    path = state or cascade / "sweep.json"
    if not path.parent.is_dir():
        raise ValueError(f"--state {path}: there is no folder {path.parent}; make it, or name another file")
    with held(path.with_name(path.name + ".lock"), f"sweep {path}"):
        half = _read(model, data, split, num)
        store = Store(path, _identity(manifest, model, half, data, split, seed))
        if store.is_written:
            say(f"{cascade / MANIFEST} has the settings of this sweep; to begin anew remove {path}")
            return
        _say(half, split, seed)
        need = least_seconds(model.links, half.pictures, store, seed)
        if need > 60 * minutes:
            raise ValueError(
                f"--minutes {minutes:g}: each of {len(model.links)} stages as it is and in one other way, with "
                f"{len(half.pictures):,} pictures, takes about {need / 60:.1f} minutes here; give more minutes, or a smaller --num"
            )
        weights = _weights(model, cascade, manifest)
        outcomes = []
        found = sweep(
            model.links, weights, half.pictures, seed=seed, store=store, minutes=minutes, told=_told, only=coordinates
        )
        for outcome in found:
            outcomes.append(outcome)
            if _is_swept(outcome, coordinates):
                _conclude(outcome)
        outcomes = [each for each in outcomes if _is_swept(each, coordinates)]
        entries = {each.link.name: _entry(each, manifest, half, data, split, seed, precision) for each in outcomes}
        if dry_run:
            say(f"--dry-run: {cascade / MANIFEST} stays as it is; the same command without it writes the settings")
            return
        if read_manifest(cascade) != manifest:
            raise ValueError(f"{cascade / MANIFEST} was changed while the sweep ran; start it again")
        for outcome in outcomes:
            if half_life := outcome.chosen.setup.half_life:
                weights[outcome.link.name].save(half_life, cascade / entries[outcome.link.name].bundle)
        write_swept(cascade, entries)
        store.finish(_cascade(read_manifest(cascade), Cascade.load(cascade)))
        say(f"written to {cascade / MANIFEST}, with the evidence")


def _only(wanted: Sequence[str], stages: Sequence[str]) -> dict[str, set[str]]:
    """The coordinates that are changed, by stage: of NAME,NAME for all stages and STAGE=NAME,NAME for one. Raises ValueError."""
    from cascade.judge.sweep_setup import COORDINATES

    found: dict[str, set[str]] = {}
    for text in wanted:
        stage, named, names = text.rpartition("=")
        if named and stage not in stages:
            raise ValueError(f"--only {text}: there is no stage {stage!r}; the cascade has {', '.join(stages)}")
        for name in names.split(","):
            if name not in COORDINATES:
                raise ValueError(f"--only {text}: {name!r} is not one of {', '.join(COORDINATES)}")
            for each in [stage] if named else stages:
                found.setdefault(each, set()).add(name)
    return found


def _is_swept(outcome: "Outcome", coordinates: dict[str, set[str]] | None) -> bool:
    """Whether anything of this stage might be changed; one that only paints for those above it needs no evidence."""
    return coordinates is None or outcome.link.name in coordinates


def _read(model: "Cascade", data: str, split: str, num: int) -> "Half":
    """The pictures to choose on. Raises ValueError if they are too few, or lack what the cascade needs."""
    from cascade.judge.halves import DEV, read_half
    from cascade.judge.sweep_rule import FEWEST
    from data.read.mixture import facts

    configs = [link.sidecar.config for link in model.links]
    if configs[0].takes is not None:
        raise ValueError(
            f"cascade {', '.join(model.names)}: it begins with a super-resolution stage; a base stage is needed"
        )
    texts = [config.cond.text.tokens for config in configs if config.cond.text]
    wanted = next((link.contract.text_encoder for link in model.links if link.contract.text_encoder), None)
    index = facts(data)
    if wanted and index.text_encoder and index.text_encoder.id != wanted:
        raise ValueError(
            f"data {data} has text features of {index.text_encoder.id}, the cascade was trained with {wanted}; "
            "pack the data with that encoder"
        )
    half = read_half(
        data, split, DEV, resolution=max(config.resolution for config in configs), num=num,
        label=any(config.cond.num_classes for config in configs), text_tokens=max(texts, default=0),
        maps=any(config.cond.maps for config in configs),
    )  # fmt: skip
    if len(half.pictures) < FEWEST:
        raise ValueError(
            f"data {data}: {len(half.pictures)} pictures to choose on (the dev half of {half.total:,} of split {split}); "
            f"at least {FEWEST} are needed: pack with a larger --val, or name another --split"
        )
    return half


def _say(half: "Half", split: str, seed: int) -> None:
    from cascade.judge.sweep_rule import ENOUGH

    num = len(half.pictures)
    say(f"{num:,} pictures: the dev half of split {split} ({half.total:,} pictures, {half.how}); seed {seed}")
    if num < ENOUGH:
        say(f"KID would need {ENOUGH} pictures: the finest level of SWD decides, and PSNR on true low_res bounds it")
    say(f"rule: {RULE}")


def _told(link: "Link", trial: "Trial", start: "Setup") -> None:
    scores = "  ".join(f"{name} {each.value:.4f} +- {each.error:.4f}" for name, each in trial.scores.items())
    say(f"{link.name:<12}{trial.setup.told(start):<40}{trial.calls:>5} calls  {scores}  {trial.seconds:.1f} s")


def _conclude(outcome: "Outcome") -> None:
    """What was chosen for a stage, and where its faults come from."""
    name, chosen = outcome.link.name, outcome.chosen
    say(f"{name}: {chosen.setup.told(outcome.trials[0].setup)}: {outcome.verdict}")
    if outcome.skipped:
        say(f"{name}: no time for {outcome.skipped} more setups; more --minutes would try them")
    for bound, scores in outcome.bounds.items():
        deciding = chosen.deciding
        difference = chosen.scores[deciding] - scores[deciding]
        values = ", ".join(_score(each, scores[each]) for each in scores)
        say(
            f"{name}: on {bound}: {values}; the chosen is {difference.value:+.4f} +- {difference.error:.4f} to it in {deciding}"
        )


def _score(name: str, estimate: "Estimate") -> str:
    return f"{name} {estimate.value:.4f} +- {estimate.error:.4f}"


def _identity(manifest: "Manifest", model: "Cascade", half: "Half", data: str, split: str, seed: int) -> dict[str, Any]:
    """What the numbers of a sweep depend on."""
    from hashlib import sha256

    from cascade.judge.sweep_rule import JUDGE
    from data.read.mixture import facts

    keys = sha256("\n".join(half.pictures.keys).encode()).hexdigest()
    return {
        "cascade": _cascade(manifest, model),
        "data": {"fingerprint": facts(data).fingerprint, "split": split, "pictures": keys},
        "seed": seed,
        "judge": JUDGE,
        "precision": model.precision,
    }


def _cascade(manifest: "Manifest", model: "Cascade") -> dict[str, Any]:
    """Weights and settings of the stages, by name."""
    from stages.texts import as_values

    return {
        link.name: {
            "weights": link.host.sha256, "beside": link.beside, "sample": as_values(manifest.stages[link.name].sample),
        }
        for link in model.links
    }  # fmt: skip


def _weights(model: "Cascade", folder: Path, manifest: "Manifest") -> Mapping[str, "Weights"]:
    from cascade.judge.sweep_weights import Weights

    return {
        link.name: Weights(
            link=link, run=(folder / manifest.stages[link.name].bundle).parent, precision=model.precision
        )
        for link in model.links
    }


def _entry(
    outcome: "Outcome", manifest: "Manifest", half: "Half", data: str, split: str, seed: int, precision: str
) -> "StageEntry":
    """The manifest's entry of a stage, with the evidence."""
    from cascade.judge.sweep_rule import JUDGE
    from cascade.manifest import Evidence, Tried
    from data.read.mixture import facts

    link, start, old = outcome.link, outcome.trials[0].setup, manifest.stages[outcome.link.name]
    tried = tuple(
        Tried(
            settings={k: v for k, v in trial.setup.differences(start).items() if k != "half_life"},
            half_life=trial.setup.half_life, calls=trial.calls, scores=_rounded(trial.scores),
        )
        for trial in outcome.trials
    )  # fmt: skip
    evidence = Evidence(
        judge=JUDGE, rule=RULE, verdict=outcome.verdict, data=facts(data).fingerprint, split=split, half=half.name,
        halves=half.how, num=len(half.pictures), seed=seed, weights=link.host.sha256, before=start.sample, tried=tried,
        chosen=outcome.trials.index(outcome.chosen),
        bounds={name: _rounded(scores) for name, scores in outcome.bounds.items()}, precision=precision,
    )  # fmt: skip
    chosen = outcome.chosen.setup
    bundle = f"{Path(old.bundle).parent.as_posix()}/swept" if chosen.half_life else old.bundle
    return old.model_copy(update={"bundle": bundle, "sample": chosen.sample, "evidence": evidence})


def _rounded(scores: Mapping[str, "Estimate"]) -> dict[str, tuple[float, float]]:
    """Values and errors to five digits: more are noise."""
    return {name: (float(f"{each.value:.5g}"), float(f"{each.error:.2g}")) for name, each in scores.items()}
