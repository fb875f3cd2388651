"""The base of every config, the types of its numbers, and the type of a config that is one of a registry's."""

from collections.abc import Mapping
from typing import Annotated, Any, Self, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Strict(BaseModel):
    """Base of every config: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def defaults(cls) -> Self:
        """The instance of all default values, made without the checks: for the default of a field, since an instance that is
        checked builds its class's validator (up to 20 ms each, at every import)."""
        return cls.model_construct()


Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = Annotated[float, Field(ge=1e-6, le=1e6)]  # of noise: its square and the inverse of that are float32 numbers


def one_of(registry: Mapping[str, type[Strict]], default: str = "") -> Any:
    """The type of a config whose `kind` is a word of a registry. default: the word of texts that have none, as the first version
    wrote them; "" where a text must have one."""
    kinds = tuple(registry.values())
    if len(kinds) == 1:
        return kinds[0]
    kind: Any = Annotated[Union[kinds], Field(discriminator="kind")]  # noqa: UP007

    def of_a_kind(value: Any) -> Any:
        return {"kind": default} | value if isinstance(value, dict) else value

    return Annotated[kind, BeforeValidator(of_a_kind)] if default else kind
