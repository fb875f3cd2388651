"""The sections of a card, in Markdown, each from what is known; a section of which nothing is known is empty."""

from collections.abc import Iterable, Iterator

from stages.bundle import read_sidecar

from ..manifest import MANIFEST, Evidence, Tried
from .chain import Chain, StageFacts
from .commands import THIS, place_of, sampling, training
from .hand import Hand
from .kept import DataFacts, Kept, ReportFacts, RulerScores, RunFacts, Share, StageScores

SHORT = 12  # characters of a hash that names something; whole ones stand in the table of stages
JUDGING = "judging"
MANY = 12  # classes, beyond which the card names no more
Row = Iterable[object]


def title(chain: Chain, hand: Hand) -> str:
    """The cascade's name with what it does."""
    sides = " -> ".join(str(stage.sidecar.contract.resolution) for stage in chain.stages)
    kind = "pictures from text" if chain.has_text else "pictures of a class" if chain.classes else "pictures"
    return f"# {chain.manifest.name}: {hand.head.title or kind}, {sides} px"


def opening(chain: Chain, kept: Kept, hand: Hand) -> str:
    """What was written by hand, and the command that samples."""
    place = place_of(chain.folder)
    words = f"{THIS} is the folder with this card." if place == THIS else ""
    not_run = "<!-- not run: needs the cascade -->\n" if place == THIS else ""
    block = f"{not_run}```bash\n{sampling(chain, kept, hand)}\n```"
    return "\n\n".join(part for part in (hand.opening, words, block) if part)


def stages(chain: Chain) -> str:
    """Sizes, conditions, what was seen; the hashes of the weights."""
    rows = [
        (
            f"`{stage.name}`", _gives(stage), f"{stage.num_parameters / 1e6:.2f} M", f"{stage.num_bytes / 1e6:.1f} MB",
            _given(stage), f"{stage.sidecar.provenance.nimg:,}", stage.sidecar.config.train.batch,
            f"{stage.sidecar.provenance.ema:,}", _loss(stage),
        )
        for stage in chain.stages
    ]  # fmt: skip
    names = ("stage", "px", "parameters", "on disk", "given", "images seen", "batch", "EMA, images", "held-out loss")
    hashes = [
        (f"`{stage.name}`", f"`{stage.sidecar.sha256}`", f"`{stage.sidecar.provenance.data[:SHORT]}`")
        for stage in chain.stages
    ]
    parts = [table(names, rows), table(("stage", "sha256 of ema.safetensors", "data, fingerprint"), hashes)]
    return "\n\n".join((*parts, *_beside(chain)))


def _beside(chain: Chain) -> Iterator[str]:
    """The networks that a stage has beside its own."""
    for stage in chain.stages:
        if control := stage.sidecar.config.controlnet:
            yield f"`{stage.name}` is a control net beside frozen weights `{control.sha256[:SHORT]}`, which lie in its bundle."
        if stage.entry.guide:
            guide = read_sidecar(chain.folder / stage.entry.guide)
            yield (
                f"`{stage.name}` has a guide for autoguidance, `{stage.entry.guide}`: weights `{guide.sha256[:SHORT]}` after "
                f"{guide.provenance.nimg:,} images."
            )


def train(chain: Chain, kept: Kept) -> str:
    """Where and how long, as logged; versions; commands."""
    logs = [
        (stage.name, kept.runs[stage.sidecar.sha256]) for stage in chain.stages if stage.sidecar.sha256 in kept.runs
    ]
    columns = ("stage", "device", "processes", "threads", "hours", "images a second")
    parts = [table(columns, [(f"`{name}`", *_log(run)) for name, run in logs])] if logs else []
    versions: dict[str, list[str]] = {}
    for stage in chain.stages:
        told = ", ".join(f"{name} {version}" for name, version in stage.sidecar.provenance.versions.items())
        versions.setdefault(told, []).append(f"`{stage.name}`")
    parts += [f"{', '.join(names)}: {told}." for told, names in versions.items() if told]
    for stage in chain.stages:
        for ancestor in stage.sidecar.provenance.ancestors[:1]:
            parts.append(
                f"`{stage.name}` began from weights `{ancestor.sha256[:SHORT]}` after {ancestor.nimg:,} images of data "
                f"`{ancestor.data[:SHORT]}`."
            )
    if lines := "\n".join(training(chain, kept)):
        parts.append(f"<!-- not run: trains for hours -->\n```bash\n{lines}\n```")
    return "\n\n".join(parts)


def data(chain: Chain, kept: Kept) -> str:
    """The data sets, what is held out, and what is hidden from training."""
    rows = [
        (
            f"{each.name}",
            f"`{fingerprint[:SHORT]}`",
            _used(chain, fingerprint),
            *_counts(each),
            _size(each),
            _said(each),
        )
        for fingerprint, each in sorted(kept.data.items(), key=lambda pair: _used(chain, pair[0]) == JUDGING)
    ]
    parts = [table(("data", "fingerprint", "for", "train", "held out", "px", "with"), rows)] if rows else []
    for each in kept.data.values():
        if each.hidden:
            told = " and ".join(f"{num:,} of part *{part}*" for part, num in each.hidden.items())
            parts.append(f"Held out of {each.name}: {told}.")
    missing = {stage.sidecar.provenance.data for stage in chain.stages} - kept.data.keys()
    if missing:
        names = ", ".join(f"`{each[:SHORT]}`" for each in sorted(missing))
        parts.append(f"Of the data {names} only the fingerprint is known.")
    return "\n\n".join(parts)


def settings(chain: Chain) -> str:
    """How the stages sample in this cascade, and why, where a sweep chose it."""
    rows = []
    for stage in chain.stages:
        own = stage.entry.sample
        rows.append(
            (f"`{stage.name}`", own.sampler, own.num_steps, f"{own.sigma_max:g} to {own.sigma_min:g}", f"{own.guidance_scale:g}",
             f"{own.aug_sigma:g}", "a sweep" if stage.entry.evidence else "the config" if _as_config(stage) else MANIFEST)
        )  # fmt: skip
    parts = [table(("stage", "sampler", "steps", "sigma", "guidance", "aug_sigma", "chosen by"), rows)]
    parts += [evidence(stage, stage.entry.evidence) for stage in chain.stages if stage.entry.evidence]
    return "\n\n".join(parts)


def evidence(stage: StageFacts, found: Evidence) -> str:
    """What a sweep tried, on which pictures, by which judge; whether the weights are still those."""
    names = sorted({name for each in found.tried for name in each.scores})
    rows = [_tried(each, names, k == found.chosen) for k, each in enumerate(found.tried)]
    rows += [(place, "", *_scores(scores, names)) for place, scores in found.bounds.items()]
    still = "" if found.weights == stage.sidecar.sha256 else " **The weights are others now.**"
    told = (
        f"`{stage.name}`: {found.verdict}. Rule: {found.rule}. N = {found.num} pictures of half `{found.half}` of split "
        f"`{found.split}` (data `{found.data[:SHORT]}`), seed {found.seed}, {found.precision}, judge `{found.judge[:SHORT]}`; "
        f"value +- standard error over pictures.{still}"
    )
    return f"{told}\n\n{table(('settings', 'calls', *names), rows)}"


def scores(kept: Kept) -> str:
    """What reports say: N, errors, floors, what the ruler can tell at all, and whether training pictures are repeated."""
    return "\n\n".join(_report(report) for report in kept.reports)


def _report(report: ReportFacts) -> str:
    rows = []
    for stage in report.stages:
        rows.append((f"`{stage.name}`", *_brief(stage)))
    names = ("stage", "N", "match", "sharpness", "grain", "SWD, finest", "its floor", "KID by look")
    parts = [
        f"{' -> '.join(f'`{stage.name}`' for stage in report.stages)} on {report.num} pictures of split `{report.split}` of "
        f"{report.data} (`{report.fingerprint[:SHORT]}`), seed {report.seed}, on {report.background}, by "
        f"`python -m cascade.judge report`, judge `{report.judge_sha256[:SHORT]}`; value +- standard error over pictures.",
        table(names, rows),
    ]
    if report.concepts:
        parts.append(_ruler(report.concepts))
    if near := report.nearer_than_real:
        told = ", ".join(f"{name} {_estimate(value)}" for name, value in near.items())
        parts.append(
            f"Nearer to a training picture than training pictures are to each other (0.5: like new ones, 1: copies): {told}."
        )
    return "\n\n".join(parts)


def _ruler(found: RulerScores) -> str:
    rows = [(each.name, each.num, *map(_share, (each.concept, each.style, each.both))) for each in found.lines]
    return (
        f"By ruler `{found.ruler}` (`{found.ruler_sha256[:SHORT]}`), intervals of 95 %; it is right about "
        f"{_share(found.style_ceiling)} of the styles of true pictures, which is the ceiling.\n\n"
        + table(("", "N", "right thing", "right style", "both"), rows)
    )


def limits(chain: Chain, kept: Kept) -> str:
    """What the files themselves say that it cannot do."""
    lines = []
    tokens = {stage.sidecar.config.cond.text.tokens for stage in chain.stages if stage.sidecar.config.cond.text}
    if tokens:
        lines.append(f"Captions are cut at {min(tokens)} tokens.")
    elif not chain.classes:
        lines.append("It takes neither captions nor classes.")
    if names := chain.classes:
        more = f" and {len(names) - MANY:,} more" if len(names) > MANY else ""
        lines.append(f"It knows no other classes than {', '.join(names[:MANY])}{more}.")
    if not kept.reports:
        lines.append(
            "No report was made of these weights as they sample now: nothing here says how far they repeat pictures."
        )
    return " ".join(lines)


def licence(chain: Chain, kept: Kept, hand: Hand) -> str:
    """The weights' licence, what was inherited, and the notices."""
    own = hand.head
    name = own.license_name or own.license
    parts = [f"`{name}`" if name else "No licence of these weights is stated: `card.md` is the place for it."]
    for stage in chain.stages:
        for ancestor in stage.sidecar.provenance.ancestors:
            parts.append(
                f"`{stage.name}` was trained on from weights `{ancestor.sha256[:SHORT]}`, licence: "
                f"{ancestor.licence or 'not stated there'}; its terms hold for this stage, too."
            )
            if notice := kept.notices.get(ancestor.sha256):
                parts.append("\n".join(f"> {line}".rstrip() for line in notice.splitlines()))
    if hand.licence:
        parts.append(hand.licence)
    return "\n\n".join(parts)


def table(names: Iterable[str], rows: Iterable[Row]) -> str:
    """A table in Markdown."""
    lines = [[str(cell).replace("|", "\\|") for cell in row] for row in (names, *rows)]
    texts = [f"| {' | '.join(line)} |" for line in lines]
    texts.insert(1, "|---" * len(lines[0]) + "|")
    return "\n".join(texts)


def _gives(stage: StageFacts) -> str:
    contract = stage.sidecar.contract
    return f"{contract.low_res} -> {contract.resolution}" if contract.low_res else str(contract.resolution)


def _given(stage: StageFacts) -> str:
    contract = stage.sidecar.contract
    given = (
        "captions" if contract.text_encoder else "",
        f"{contract.num_classes} classes" if contract.num_classes else "",
    )
    return " and ".join(each for each in given if each) or "nothing else"


def _loss(stage: StageFacts) -> str:
    loss = stage.sidecar.provenance.scores.get("val_loss")
    return "" if loss is None else f"{loss:.4f}"


def _log(run: RunFacts) -> Iterator[object]:
    yield from (run.device, run.world, run.threads, f"{run.seconds / 3600:.2f}", f"{run.img_per_s:,.0f}")


def _used(chain: Chain, fingerprint: str) -> str:
    trained = [f"`{stage.name}`" for stage in chain.stages if stage.sidecar.provenance.data == fingerprint]
    return ", ".join(trained) or JUDGING


def _counts(found: DataFacts) -> tuple[str, str]:
    held = {split: num for split, num in found.num_images.items() if split != "train"}
    told = ", ".join(f"{num:,} {split}" for split, num in held.items())
    return f"{found.num_images.get('train', 0):,}", told or "none"


def _size(found: DataFacts) -> str:
    return f"{found.size[1]} x {found.size[0]}" if found.size else "several"


def _said(found: DataFacts) -> str:
    said = [
        f"captions ({found.text_encoder})" if found.text_encoder else "",
        f"{found.classes} classes" if found.classes else "",
    ]
    said.append("transparency" if found.channels == 4 else "")
    return ", ".join(each for each in said if each)


def _as_config(stage: StageFacts) -> bool:
    return stage.entry.sample == stage.sidecar.config.sample


def _tried(each: Tried, names: list[str], is_chosen: bool) -> Row:
    told = ", ".join(f"{key} {value}" for key, value in each.settings.items()) or "as before"
    if each.half_life:
        told += f", EMA {each.half_life:,}"
    return (f"**{told}**" if is_chosen else told, each.calls, *_scores(each.scores, names))


def _scores(found: dict[str, tuple[float, float]], names: list[str]) -> Iterator[str]:
    yield from (_estimate(found[name]) if name in found else "" for name in names)


def _brief(stage: StageScores) -> Row:
    own = stage.brief
    values = (own.match, own.sharpness, own.grain, own.swd, stage.swd_floor)
    return (own.num, *map(_estimate, values), _estimate(own.kid) if own.kid else "")


def _estimate(found: tuple[float, float]) -> str:
    return f"{found[0]:.3g} +- {found[1]:.2g}"


def _share(found: Share) -> str:
    return "none" if found.share is None else f"{found.share:.2f} [{found.low:.2f}, {found.high:.2f}]"
