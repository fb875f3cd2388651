"""Configs as texts on disk, written so that texts of earlier versions stay byte for byte the same.

A key added since the first version is marked: `churn: Annotated[NonNegative, LATER] = 0.0`. Texts omit it at its default, which
must mean what earlier versions did. To compare a text with a config, read the text with today's models first, so that missing
keys get their defaults.
"""

from typing import Any

from pydantic import BaseModel


class Later:
    """Marks a key unknown to the first version, outermost in its Annotated type."""


LATER = Later()


def as_values(model: BaseModel) -> dict[str, Any]:
    """A config as JSON values, without omitted keys."""
    return model.model_dump(mode="json", exclude=omitted(model))


def as_text(model: BaseModel) -> str:
    """A config as the text of a file, without omitted keys."""
    return model.model_dump_json(indent=2, exclude=omitted(model)) + "\n"


def omitted(model: BaseModel) -> dict[str, Any]:
    """The marked keys at their defaults, here and in nested configs, in the format of pydantic's `exclude`."""
    omissions: dict[str, Any] = {}
    for name, key in type(model).model_fields.items():
        value = getattr(model, name)
        if LATER in key.metadata and value == key.get_default(call_default_factory=True, validated_data=dict(model)):
            omissions[name] = True
        elif inner := _omitted(value):
            omissions[name] = inner
    return omissions


def _omitted(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return omitted(value)
    if isinstance(value, dict):
        return {name: inner for name, item in value.items() if (inner := _omitted(item))}
    return {}
