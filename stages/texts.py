"""Configs as texts on disk: what a version writes so that texts of earlier ones stay byte for byte what they are.

A key that is new since the first version is marked: `churn: Annotated[NonNegative, LATER] = 0.0`. Texts leave it out where it has
its default, which must mean what earlier versions did. Whoever compares a text with a config reads it with today's models first:
what it lacks is then at its default.
"""

from typing import Any

from pydantic import BaseModel


class Later:
    """Marks a key that the first version did not know, outermost in its Annotated type."""


LATER = Later()


def as_values(model: BaseModel) -> dict[str, Any]:
    """What is written about a config, as JSON values."""
    return model.model_dump(mode="json", exclude=omitted(model))


def as_text(model: BaseModel) -> str:
    """What is written about a config, as a file of its own."""
    return model.model_dump_json(indent=2, exclude=omitted(model)) + "\n"


def omitted(model: BaseModel) -> dict[str, Any]:
    """The marked keys at their defaults, here and within, as pydantic's `exclude` takes them."""
    found: dict[str, Any] = {}
    for name, key in type(model).model_fields.items():
        value = getattr(model, name)
        if LATER in key.metadata and value == key.get_default(call_default_factory=True, validated_data=dict(model)):
            found[name] = True
        elif within := _omitted(value):
            found[name] = within
    return found


def _omitted(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return omitted(value)
    if isinstance(value, dict):
        return {name: within for name, each in value.items() if (within := _omitted(each))}
    return {}
