"""The base of every config, the types of its numbers, and the type of a config that is one of a registry's."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Strict(BaseModel):
    """Base of every config: unknown keys are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def defaults(cls) -> Self:
        """The instance of all default values, made without the checks: for the default of a field, since an instance that is
        checked builds its class's validator (up to 20 ms each, at every import)."""
        return cls.model_construct()


class Choice(Strict):
    """A config that is one of a registry's. A subclass has `kind`, its word there, and keys of its own.

    `implementation`: where the class that it configures stands, module:name; loaded when one is built, for configs are read where
    torch is not.
    """

    implementation: ClassVar[str]
    if TYPE_CHECKING:
        kind: str

    @classmethod
    def loaded(cls) -> Any:
        """The class that `implementation` names."""
        return resolve_name(cls.implementation)


Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = Annotated[float, Field(ge=1e-6, le=1e6)]  # of noise: its square and the inverse of that are float32 numbers


def one_of(registry: Mapping[str, type[Choice]], default: str = "") -> Any:
    """The type of a config whose `kind` is a word of a registry. default: the word of texts that have none, as the first version
    wrote them; "" where a text must have one."""
    kinds = tuple(registry.values())
    if len(kinds) == 1:
        return kinds[0]
    kind: Any = Annotated[Union[kinds], Field(discriminator="kind")]  # noqa: UP007

    def of_a_kind(value: Any) -> Any:
        return {"kind": default} | value if isinstance(value, dict) else value

    return Annotated[kind, BeforeValidator(of_a_kind)] if default else kind
