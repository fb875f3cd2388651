"""`card.md`, the part of a card that is written by hand: its head, an opening, and sections that stand in the card as they are.

A section with the title of one that the command writes follows there. `LICENSE.md` is what weights and their pictures owe.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from data.errors import first_error
from stages.strict import Strict

HAND, LICENCE = "card.md", "LICENSE.md"
OTHER = "other"  # the licence of the specification that wants a name and a link

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]  # of a licence
Name = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]  # of a data set or metric, as the hub writes them


class Head(Strict):
    """What only people know. title: after the cascade's name; prompts and labels: of the example, labels may be "all".

    The other keys are those of Hugging Face's specification, where a licence `other` has a name and a link."""

    title: str = ""
    license: Id | None = None
    license_name: Id | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    datasets: tuple[Name, ...] = ()
    metrics: tuple[Name, ...] = ()
    prompts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _licence(self) -> "Head":
        if (self.license == OTHER) != bool(self.license_name and self.license_link):
            raise ValueError(
                f"license {OTHER} has a license_name and a license_link, other licences have neither; "
                "write all three, or one of https://hf.co/docs/hub/repositories-licenses"
            )
        return self


class Hand(Strict):
    """The head, the text before the first section, sections by title, the text of LICENSE.md."""

    head: Head = Head()
    opening: str = ""
    sections: dict[str, str] = Field(default_factory=dict)
    licence: str = ""


def read_hand(folder: Path) -> Hand:
    """What was written by hand in a cascade's folder; nothing where there is nothing. Raises ValueError."""
    path = folder / HAND
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    head, body = _split(text, path)
    sections: dict[str, str] = {}
    opening = ""
    for title, content in _sections(body):
        if not title:
            opening = content
        elif title in sections:
            raise ValueError(f"{path}: two sections {title!r}; make them one")
        else:
            sections[title] = content
    licence = folder / LICENCE
    return Hand(
        head=_head(head, path), opening=opening, sections=sections,
        licence=licence.read_text(encoding="utf-8").strip() if licence.is_file() else "",
    )  # fmt: skip


def _split(text: str, path: Path) -> tuple[str, str]:
    """The YAML between the first two lines ---, and what follows."""
    if not text.startswith("---\n"):
        return "", text
    head, end, body = text[4:].partition("\n---\n")
    if not end:
        raise ValueError(f"{path}: its head has no end; write a line --- after it")
    return head, body


def _head(text: str, path: Path) -> Head:
    try:
        values: Any = yaml.safe_load(text) if text else {}
        return Head.model_validate(values or {})
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: its head is not YAML ({' '.join(str(error).split())}); mend it") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {first_error(error)}; mend it") from None


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """(title, content) of each section `## TITLE`; the first title is empty. Lines of code blocks are no titles."""
    title, is_code = "", False
    lines: list[str] = []
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        if line.startswith("## ") and not is_code:
            yield title, "\n".join(lines).strip()
            title, lines = line[3:].strip(), []
        else:
            lines.append(line)
    yield title, "\n".join(lines).strip()
