"""The base of every config, the types of its numbers, and the type of a config chosen from a registry."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Strict(BaseModel):
    """Base of every config: unknown keys are errors, instances are immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def defaults(cls) -> Self:
        """The instance with all default values, made without validation, as the default of a field: validating it would build the
        class's validator (up to 20 ms each, at every import)."""
        return cls.model_construct()


class Choice(Strict):
    """A config chosen from a registry. A subclass has `kind`, its name there, and keys of its own.

    `implementation`: the configured class as module:name, imported only when one is built, because configs are read without torch.
    """

    implementation: ClassVar[str]
    if TYPE_CHECKING:
        kind: str

    @classmethod
    def loaded(cls) -> Any:
        """Import the class that `implementation` names."""
        return resolve_name(cls.implementation)


Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Level = Annotated[float, Field(ge=1e-6, le=1e6)]  # of noise: sigma^2 and sigma^-2 are finite in float32


def one_of(registry: Mapping[str, type[Choice]], default: str = "") -> Any:
    """Type of a config whose `kind` is a name in a registry. default: the kind of texts that state none, as the first version
    wrote them; "" if a text must state one."""
    kinds = tuple(registry.values())
    if len(kinds) == 1:
        return kinds[0]
    kind: Any = Annotated[Union[kinds], Field(discriminator="kind")]  # noqa: UP007

    def of_a_kind(value: Any) -> Any:
        return {"kind": default} | value if isinstance(value, dict) else value

    return Annotated[kind, BeforeValidator(of_a_kind)] if default else kind
