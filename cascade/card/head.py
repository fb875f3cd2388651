"""The YAML head of a card, by which Hugging Face's hub finds and shows it."""

from collections.abc import Iterator
from typing import Any

import yaml

from .chain import Chain
from .hand import Hand
from .kept import Kept, ReportFacts

LIBRARY = "cascaded-diffusion"
TASKS = {  # pipeline_tag: the hub's name of the task
    "text-to-image": "Text-to-Image",
    "image-to-image": "Image-to-Image",
    "unconditional-image-generation": "Unconditional Image Generation",
}


def head(chain: Chain, kept: Kept, hand: Hand) -> str:
    """The head with its lines ---; keys without a value are left out."""
    own, results = hand.head, [result(chain, report) for report in kept.reports]
    measured = [metric["type"] for each in results for metric in each["metrics"]]
    values = {
        "license": own.license,
        "license_name": own.license_name,
        "license_link": own.license_link,
        "language": list(own.language),
        "library_name": LIBRARY,
        "pipeline_tag": task(chain),
        "tags": list(dict.fromkeys((*tags(chain), *own.tags))),
        "datasets": list(own.datasets),
        "metrics": list(dict.fromkeys((*own.metrics, *measured))),
        "model-index": [{"name": chain.manifest.name, "results": results}] if results else [],
    }
    told = {key: value for key, value in values.items() if value}
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def task(chain: Chain) -> str:
    """The hub's task: what goes in and what comes out. Classes count as no text."""
    if chain.first.contract.low_res is not None:
        return "image-to-image"
    return "text-to-image" if chain.has_text else "unconditional-image-generation"


def tags(chain: Chain) -> Iterator[str]:
    """What a search may ask for."""
    yield "diffusion"
    if len(chain.stages) > 1:
        yield "cascade"
    if chain.last.contract.low_res is not None:
        yield "super-resolution"
    if chain.classes:
        yield "class-conditional"
    if chain.last.contract.channels == 4:
        yield "transparent"


def result(chain: Chain, report: ReportFacts) -> dict[str, Any]:
    """An entry of model-index: the last stage's scores, and what a ruler says."""
    brief, kind = report.stages[-1].brief, task(chain)
    metrics: list[dict[str, Any]] = [{"type": "swd", "value": _told(brief.swd[0]), "name": "SWD, finest level"}]
    if brief.kid:
        metrics.insert(0, {"type": "kid", "value": _told(brief.kid[0]), "name": "KID by look"})
    if report.concepts and report.concepts.lines[0].concept.share is not None:
        for name, share in (("right thing", "concept"), ("right style", "style"), ("both", "both")):
            value = getattr(report.concepts.lines[0], share).share
            metrics.append({"type": "accuracy", "value": _told(value), "name": f"{name}, by a ruler"})
    return {
        "task": {"type": kind, "name": TASKS[kind]},
        "dataset": {
            "type": report.data, "name": f"{report.data}, {report.num} pictures", "split": report.split,
            "revision": report.fingerprint,
        },
        "metrics": metrics,
    }  # fmt: skip


def _told(value: float) -> float:
    return float(f"{value:.4g}")
