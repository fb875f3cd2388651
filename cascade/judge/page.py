"""A report as one HTML file: no script, nothing fetched. Pictures are PNG in data addresses, curves SVG, captions escaped."""

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

import torch

from cascade.judge.each import mean_error
from cascade.judge.look import LOOK
from cascade.judge.page_concepts import things
from cascade.judge.page_curves import over_levels, over_settings
from cascade.judge.page_parts import score_text
from cascade.judge.page_pictures import nearest, samples, strip, worst
from cascade.judge.page_scores import fault, groups, how, missing, scores
from cascade.judge.page_sweep import swept
from cascade.judge.report import TRUE, Report

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SECTIONS: dict[str, Callable[[Report], Iterator[str]]] = {
    "Scores": scores,
    "Right thing, right style": things,
    "Which stage is at fault": fault,
    "Strength of augmentation": over_levels,
    "Steps and guidance": over_settings,
    "Settings by a sweep": swept,
    "Samples": samples,
    "Stage by stage": strip,
    "Nearest training pictures": nearest,
    "Worst samples": worst,
    "Failures by group": groups,
    "What is not here": missing,
    "How it was measured": how,
}


def page(report: Report) -> str:
    """The whole file."""
    title = f"{' + '.join(report.names)}: report"
    bodies = {heading: "".join(make(report)) for heading, make in SECTIONS.items()}
    shown = {heading: body for heading, body in bodies.items() if body}
    links = "".join(f'<a href="#{slug(heading)}">{heading}</a>' for heading in shown)
    main = "".join(
        f'<section id="{slug(heading)}"><h2>{heading}</h2>{body}</section>' for heading, body in shown.items()
    )
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style></head>'
        f"<body><header>{_head(report)}<nav>{links}</nav></header><main>{_cards(report)}{main}</main></body></html>\n"
    )


def slug(heading: str) -> str:
    """The name of a section in addresses."""
    return heading.lower().replace(",", "").replace(" ", "-")


def _head(report: Report) -> str:
    wanted, last = report.wanted, report.stages[-1]
    return (
        f"<h1>{escape(' + '.join(report.names))}</h1>"
        f'<p class="soft">{len(report.keys):,} pictures of {last.resolution} px, one for each held-out picture of '
        f"<code>{escape(report.data)}</code> (split {escape(wanted.split)}), seed {wanted.seed}; curves by the first "
        f"{min(wanted.num_curve, len(report.keys)):,}. Every number stands beside its standard error over pictures, or beside "
        "what a perfect system would score; what could not be measured is named at the end.</p>" + _held_out(report)
    )


def _held_out(report: Report) -> str:
    """A warning where it is not known that the stages have never seen the pictures."""
    if all(stage.trained_on == report.fingerprint for stage in report.stages):
        return ""
    return (
        "<p><b>Held out from whom?</b> The stages were trained on data of another fingerprint than these. If they saw these "
        "pictures, match and nearness flatter them.</p>"
    )


def _cards(report: Report) -> str:
    last = report.stages[-1]
    true_grain = mean_error(torch.tensor([each.grain for each in report.each if each.side == TRUE]))
    cards = [
        (
            "Match",
            score_text(last.brief.match),
            "share of other true pictures that are farther from a sample than its own; chance 0.5",
        ),
        ("Sharpness", score_text(last.brief.sharpness), "over that of the true pictures; 1 is right"),
        ("Grain", score_text(last.brief.grain), f"in flat regions; the true pictures have {score_text(true_grain)}"),
        (
            "SWD, finest level",
            score_text(last.brief.swd),
            f"two halves of the true pictures: {score_text(last.swd_floor)}",
        ),
    ]
    if last.brief.kid:
        cards.insert(
            0, ("KID", score_text(last.brief.kid), f"by {LOOK.name}; 0 is the mean of two draws of the true pictures")
        )
    if report.near and report.near_true:
        share, real = mean_error(report.near.nearer), mean_error(report.near_true.nearer)
        told = f"0.5 for new pictures, 1 for copies; held-out true pictures {score_text(real)}"
        cards.append(("Nearer than real", score_text(share), told))
    made = "".join(
        f'<div class="card"><span class="soft">{name}</span><b>{value}</b><span class="soft">{told}</span></div>'
        for name, value, told in cards
    )
    return f'<div class="cards">{made}</div>'
