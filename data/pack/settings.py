"""Everything that determines what packed shards hold: the options of `python -m data.pack`, stored in the index."""

from typing import Any

from PIL import ImageColor

from data.captions import TEXT_TOKENS
from data.index import Strict
from data.index.items import Choices
from data.pack.encode import RESIZES, STORED_FORMATS, Encoding
from data.pack.kinds import Plan, parse_plan
from data.pack.sources import SOURCES


class PackSettings(Strict):
    """The options of `python -m data.pack`, by name (see its --help); 0 and None are defaults that depend on the source."""

    size: int = 64
    resize: str = "center_crop"
    upscale: bool = False
    background: str = "white"
    alpha: bool = False
    format: str = "png"
    quality: int = 95
    text_encoder: str | None = None
    text_tokens: int = TEXT_TOKENS
    source: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    splits: bool = True
    shards: int = 0
    val: float = 0.0
    limit: int = 0
    seed: int = 0
    max_bad: float = 0.05
    min_side: int = 0
    skip_uncaptioned: bool = False
    dotted_keys: bool = False
    skip_damaged: bool = False
    maps: str | None = None
    caption: tuple[str, ...] = ()
    list_column: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """The kinds of caption that `--caption` asks for, none by default. Raises ValueError."""
        return parse_plan(self.caption, self.list_column)

    @property
    def channels(self) -> int:
        """Channels of the pictures that are stored."""
        return 4 if self.alpha else 3

    def check(self) -> None:
        """Raise ValueError for the first option that is out of range."""
        _one_of("--resize", self.resize, RESIZES)
        _one_of("--format", self.format, tuple(STORED_FORMATS))
        if self.source is not None:
            _one_of("--source", self.source, tuple(SOURCES))
        for flag, value, low, high in (
            ("--size", self.size, 0, 8192),
            ("--text-tokens", self.text_tokens, 2, 512),
            ("--quality", self.quality, 1, 100),
            ("--shards", self.shards, 0, 99_999),
            ("--val", self.val, 0.0, 0.9),
            ("--limit", self.limit, 0, 1 << 60),
            ("--seed", self.seed, 0, (1 << 63) - 1),
            ("--max-bad", self.max_bad, 0.0, 1.0),
            ("--min-side", self.min_side, 0, 8192),
        ):
            if not low <= value <= high:
                raise ValueError(f"{flag} {value} is out of range; give {low} to {high}")
        if self.alpha and self.format == "jpg":
            raise ValueError("--format jpg holds no transparency, --alpha keeps it; give --format png or webp")
        if self.plan.kinds and self.text_column:
            raise ValueError(
                f"--text-column {self.text_column} names the one caption, --caption several; give one of the two options"
            )
        if self.plan.kinds and not self.text_encoder:
            raise ValueError("--caption stores token features, among which readers draw; add --text-encoder minilm")
        self.encoding()

    def check_keep(self) -> None:
        """Raise ValueError if tars are to be kept as they are while another option changes them."""
        default = PackSettings()
        for flag, value, default_value in (
            ("--text-encoder", self.text_encoder, default.text_encoder),
            ("--val", self.val, default.val),
            ("--limit", self.limit, default.limit),
            ("--shards", self.shards, default.shards),
            ("--min-side", self.min_side, default.min_side),
            ("--skip-uncaptioned", self.skip_uncaptioned, default.skip_uncaptioned),
            ("--dotted-keys", self.dotted_keys, default.dotted_keys),
            ("--maps", self.maps, default.maps),
            ("--caption", " --caption ".join(self.caption), ""),
            ("--no-splits", not self.splits, not default.splits),
        ):
            if value != default_value:
                option = flag if value is True else f"{flag} {value}"
                raise ValueError(f"{option} changes shards, --size 0 (--keep) leaves tars as they are; give a --size")

    def encoding(self) -> Encoding:
        """The options that worker processes need."""
        try:
            background = ImageColor.getrgb(self.background)[:3]
        except ValueError as error:
            raise ValueError(f"--background {self.background!r} is no colour; give white, #ff8800, ...") from error
        return Encoding(
            size=self.size,
            resize=self.resize,
            upscale=self.upscale,
            background=background,  # type: ignore[arg-type]
            alpha=self.alpha,
            format=self.format,
            quality=self.quality,
            min_side=self.min_side,
            captions=self.text_encoder is not None,
            skip_uncaptioned=self.skip_uncaptioned,
            plan=self.plan,
        )

    def told(self) -> dict[str, Any]:
        """The options as the index stores them: newer ones only where they are used."""
        newer = (("maps", self.maps), ("caption", self.caption), ("list_column", self.list_column))
        return self.model_dump(exclude={name for name, used in newer if not used})

    def changed(self) -> dict[str, Any]:
        """The options as the digest of a source counts them: newer ones only where they are used."""
        return {name: value for name, value in self.told().items() if name != "alpha" or self.alpha}

    def choices(self) -> Choices:
        """The options that say how to read the source."""
        return Choices(
            source=self.source,
            text_column=self.text_column,
            caption_columns=self.plan.columns,
            label_column=self.label_column,
            splits=self.splits,
            dotted_keys=self.dotted_keys,
            skip_damaged=self.skip_damaged,
            map_member=(self.maps or "").lower().removeprefix("."),
        )


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{flag} {value!r} is not one of {', '.join(allowed)}")
