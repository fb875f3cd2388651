"""The config of a stage's conditions."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from data.captions import TEXT_TOKENS

from ..strict import Fraction, NonNegative, Strict
from ..texts import LATER


class TextConfig(Strict):
    """Frozen token features: `encoder` and `packed_tokens` as given to data.pack (--text-encoder, --text-tokens), `dim`
    numbers a token; the network reads the first `tokens` of them. `noise`: std of the normal noise that training adds to them, in
    units of the root-mean-square of each token's own features.

    A token's features depend on all tokens encoded with it, so sampling encodes at `packed_tokens`, too.
    """

    encoder: str
    dim: PositiveInt
    tokens: PositiveInt
    packed_tokens: PositiveInt = TEXT_TOKENS
    noise: Annotated[NonNegative, LATER] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _packed_as_usual(cls, values: Any) -> Any:
        """Fill in packed_tokens, which older versions did not write: the packer's default, or `tokens` if larger."""
        if isinstance(values, dict) and isinstance(tokens := values.get("tokens"), int):
            return {"packed_tokens": max(TEXT_TOKENS, tokens)} | values
        return values

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.tokens > self.packed_tokens:
            raise ValueError(
                f"tokens {self.tokens} is more than packed_tokens {self.packed_tokens}; "
                f"pack with --text-tokens {self.tokens} and set packed_tokens to it"
            )
        return self


class MapsConfig(Strict):
    """Spatial maps, packed with the pictures (`data.pack --maps`); `channels`: 1 for gray ones such as edges, 3 for colours."""

    channels: Literal[1, 3] = 3


class OriginalSizeConfig(Strict):
    """The size of each picture before it was packed, of which the network is told; `drop`: share of training images where it is
    not."""

    drop: Fraction = 0.1


class PositionConfig(Strict):
    """Where in its picture each cell of a training crop lies; `drop`: share of training images where the network is not told."""

    drop: Fraction = 0.0


class CondConfig(Strict):
    """What the pictures are conditioned on. `drop`: share of training images whose condition is replaced by the null one.
    `drop_each`: of the others, the share in which the class is dropped, and, drawn apart, the share in which the text is.
    `maps`: pictures that say what is where, dropped like these. `original_size` and `position` describe how a picture was taken
    from its file, not what it shows: guidance leaves them in both of its halves, and each has a `drop` of its own."""

    text: TextConfig | None = None
    num_classes: Annotated[int, Field(ge=0)] = 0
    drop: Fraction = 0.1
    drop_each: Annotated[Fraction, LATER] = 0.0
    maps: Annotated[MapsConfig | None, LATER] = None
    original_size: Annotated[OriginalSizeConfig | None, LATER] = None
    position: Annotated[PositionConfig | None, LATER] = None

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.drop_each and len(self.names) < 2:
            given = self.names[0] if self.names else "none"
            raise ValueError(
                f"drop_each {self.drop_each} drops conditions apart, and the only one is {given}; "
                "set drop instead, or give two of num_classes, text and maps"
            )
        return self

    @property
    def needs_maps(self) -> bool:
        """Whether there was a map with every picture of the training, so that a stage does not know pictures without one."""
        return self.maps is not None and not self.drop and not self.drop_each

    @property
    def names(self) -> tuple[str, ...]:
        """Parts of a cond that training drops and guidance leaves out."""
        return ("label",) * bool(self.num_classes) + ("text",) * bool(self.text) + ("maps",) * bool(self.maps)
