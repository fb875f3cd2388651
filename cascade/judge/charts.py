"""Curves as inline SVG, without library or script. Colours are the page's, so they follow light and dark; marks differ in shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 42
SHAPES = ("circle", "square", "triangle")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve: (x, y, standard error or None) for each point, x ascending."""

    name: str
    points: Sequence[tuple[float, float, float | None]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over one axis. level: a horizontal line, such as what the true pictures score; chosen: the x of the manifest;
    even: equal distances between the x that were measured."""

    title: str
    x_name: str
    lines: Sequence[Line]
    level: float | None = None
    chosen: float | None = None
    even: bool = False

    def svg(self) -> str:
        """The chart as an <svg> element with a title that says what it shows."""
        xs = sorted({x for line in self.lines for x, _, _ in line.points})
        bounds = [
            y + sign * (error if error and math.isfinite(error) else 0)
            for line in self.lines
            for _, y, error in line.points
            for sign in (-1, 1)
        ]
        ticks = nice_ticks(bounds if self.level is None else [*bounds, self.level])
        low, high = ticks[0], ticks[-1]

        def across(x: float) -> float:
            span = len(xs) - 1 if self.even else xs[-1] - xs[0]
            share = 0.5 if not span else (xs.index(x) if self.even else x - xs[0]) / span
            return LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20)

        def up(y: float) -> float:
            return TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

        parts = [f"<title>{escape(self.title)} against {escape(self.x_name)}</title>"]
        for tick in ticks:
            parts.append(f'<path class="rule" d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{up(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        if self.chosen is not None and self.chosen in xs:
            parts.append(f'<path class="chosen" d="M{across(self.chosen):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        last = -math.inf
        for x in xs:
            if across(x) - last >= 30:  # px: room for a label
                last = across(x)
                parts.append(f'<text x="{last:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:g}</text>')
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(self.x_name)}</text>'
        )
        if self.level is not None:
            parts.append(f'<path class="level" d="M{LEFT} {up(self.level):.1f}H{WIDTH - RIGHT}"/>')
        for index, line in enumerate(self.lines):
            parts.append(f'<g class="line{index % len(SHAPES)}">')
            where = [(across(x), up(y)) for x, y, _ in line.points]
            parts.append(f'<path d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in where)}"/>')
            for (x, y), (value, score, error) in zip(where, line.points, strict=True):
                if error and math.isfinite(error):
                    parts.append(f'<path class="error" d="M{x:.1f} {up(score - error):.1f}V{up(score + error):.1f}"/>')
                told = f"{line.name}, {self.x_name} {value:g}: {number(score)}" + (
                    f" ± {number(error)}" if error else ""
                )
                parts.append(mark(SHAPES[index % len(SHAPES)], x, y, escape(told)))
            parts.append("</g>")
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def mark(shape: str, x: float, y: float, title: str) -> str:
    """A point of a curve; its title is shown where the pointer rests."""
    title = f"<title>{title}</title>" if title else ""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
    if shape == "square":
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7">{title}</rect>'
    return f'<path class="mark" d="M{x:.1f} {y - 5:.1f}l5 9h-10z">{title}</path>'


def nice_ticks(values: Sequence[float]) -> list[float]:
    """Three to seven round numbers whose ends enclose the values."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-12):
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is short; a minus sign, not a hyphen."""
    if value != value:
        return "\N{EN DASH}"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return ("0" if float(text.replace(",", "")) == 0 else text).replace("-", "\N{MINUS SIGN}")


def fixed(value: float, places: int) -> str:
    """A number with so many decimals, as `number` writes it."""
    return f"{value:,.{places}f}".replace("-", "\N{MINUS SIGN}")
