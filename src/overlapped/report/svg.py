"""Draws pictures: a small vocabulary of SVG for reports, comparisons and documentation, light and dark.

Colors are named by what they mean (`COLORS`) and come from one style sheet, so a picture follows the reader's
light or dark scheme, alone or inside a page. Lengths are pixels of the picture's own `viewBox`, y grows downwards.
No script and nothing external: a picture can be mailed, printed, and put into an issue.
"""

from __future__ import annotations

import html
import math
import unicodedata
from typing import TYPE_CHECKING, Final, Literal

from overlapped.report.plain import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Point = tuple[float, float]
    Anchor = Literal["start", "middle", "end"]
    Mark = Literal["bar", "dot", "line"]

COLORS: Final = {
    # what it means: light, dark; each has a contrast of 3 and more to its paper (text: 4.5)
    "paper": ("#ffffff", "#14171c"),
    "panel": ("#f5f6f8", "#1d2229"),
    "grid": ("#dfe3e8", "#333a44"),
    "ink": ("#1f2430", "#e6e9ef"),
    "muted": ("#586171", "#a3adba"),
    "wait": ("#2a7ab9", "#58a6e6"),
    "work": ("#c96f16", "#f0a35a"),
    "queue": ("#c0c8d2", "#4d5766"),
    "fail": ("#c0392b", "#ff7b6e"),
    "grow": ("#2a7ab9", "#58a6e6"),
    "hold": ("#7c838d", "#8b949e"),
    "probe": ("#b0761a", "#e3b341"),
    "cut": ("#c0392b", "#ff7b6e"),
    "rate": ("#1d8a5f", "#4cc38a"),
    "accent": ("#7a4fc4", "#b392f0"),
}
SANS: Final = (
    'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Noto Sans","Noto Sans CJK SC",sans-serif'
)
MONO: Final = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Noto Sans Mono CJK SC",monospace'


def style() -> str:
    """The style sheet of all pictures: once per picture that stands alone, once per page that holds several."""
    light = "".join(_rule(name, pair[0]) for name, pair in COLORS.items())
    dark = "".join(_rule(name, pair[1]) for name, pair in COLORS.items())
    return (
        f".o-sans{{font-family:{SANS}}}.o-mono{{font-family:{MONO}}}{light}"
        f"@media (prefers-color-scheme:dark){{{dark}}}"
        f"@media print{{{light}}}"
    )


def _rule(name: str, color: str) -> str:
    return f".o-{name}{{fill:{color}}}.o-{name}-s{{fill:none;stroke:{color}}}"


def safe(text: str) -> str:
    """Any text for use in markup: `<`, `&` and quotes escaped, and no control or bidi character left in it."""
    return html.escape(escape(text))


def text_width(text: str, size: float = 12) -> float:
    """About how wide a text will be, px: sans-serif letters are half as wide as high, East Asian ones as wide."""
    return size * sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.56 for c in text)


def number(value: float) -> str:
    """A number for an axis: `1,500`, `0.25`, `2M`."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.6g}M"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.4g}"


class Scale:
    """Linear: maps `low ... high` to `first ... last`, px. An empty range is widened, so that it can be drawn."""

    __slots__ = ("first", "high", "last", "low")

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self.low = low
        self.high = high if high > low else low + 1
        self.first = first
        self.last = last

    def __call__(self, value: float) -> float:
        """Where `value` is, px; values outside of the range lie outside of the picture's part."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self, most: int = 5) -> list[float]:
        """At most `most` + 1 round values (1, 2 or 5 times a power of ten) within the range."""
        span = self.high - self.low
        power = 10 ** math.floor(math.log10(span / most))
        step = next(power * k for k in (1, 2, 5, 10, 20) if span / (power * k) <= most + 1e-9)
        begin, end = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(begin, end + 1)]


class Picture:
    """One picture: say what is to be drawn from back to front; `str()` gives a file of its own.

    Args:
        wide, high: size, px. `high` may be set later, when it is known.
        title: what it shows, in one sentence: read out by screen readers, shown by nobody.
        description: what a reader sees in it, for those who cannot.
    """

    def __init__(self, wide: float, high: float, title: str, description: str = "") -> None:
        self.wide = wide
        self.high = high
        self.title = title
        self.description = description
        self._parts: list[str] = []

    # -- what can be drawn ---------------------------------------------------------------------------

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        color: str = "ink",
        anchor: Anchor = "start",
        bold: bool = False,
        mono: bool = False,
        title: str = "",
    ) -> None:
        """Text on the base line `y`; `title` is shown when the pointer rests on it."""
        more = ("" if anchor == "start" else f' text-anchor="{anchor}"') + (' font-weight="600"' if bold else "")
        more += ' xml:space="preserve"' if "  " in text else ""
        kind = f"o-{color}" + (" o-mono" if mono else "")
        self._add(f'text x="{_px(x)}" y="{_px(y)}" font-size="{_px(size)}" class="{kind}"{more}', title, safe(text))

    def rect(
        self, x: float, y: float, wide: float, high: float, color: str, *, title: str = "", faint: bool = False
    ) -> None:
        """A filled rectangle; `faint` lets what is behind it show through."""
        size = f'x="{_px(x)}" y="{_px(y)}" width="{_px(max(0.0, wide))}" height="{_px(max(0.0, high))}"'
        self._add(f'rect {size} class="o-{color}"' + (' fill-opacity=".45"' if faint else ""), title)

    def bars(
        self,
        bars: Iterable[tuple[float, float, float]],
        high: float,
        color: str,
        *,
        title: str = "",
        faint: bool = False,
    ) -> None:
        """Many level bars of one height and color as one shape, (x, middle y, width) each: 15 bytes a bar."""
        path = "".join(f"M{_px(x)} {_px(y)}h{_px(max(0.3, wide))}" for x, y, wide in bars)
        if path:
            more = ' stroke-opacity=".45"' if faint else ""
            self._add(f'path d="{path}" stroke-width="{_px(high)}" class="o-{color}-s"{more}', title)

    def cut_bar(self, x: float, y: float, wide: float, high: float, color: str, *, title: str = "") -> None:
        """A bar that is longer than there is room for: with a break mark near its end."""
        self.rect(x, y, wide, high, color, title=title)
        at = x + wide - min(18.0, wide / 2)
        for shift in (0, 5):
            points = [(at + shift, y + high + 2), (at + shift + 5, y - 2)]
            self.line(points, "paper", thick=2.4)

    def dot(self, x: float, y: float, color: str, *, r: float = 3, title: str = "") -> None:
        """A filled circle."""
        self._add(f'circle cx="{_px(x)}" cy="{_px(y)}" r="{_px(r)}" class="o-{color}"', title)

    def tick(self, x: float, y: float, high: float, color: str, *, thick: float = 2, title: str = "") -> None:
        """An upright stroke with its middle at `y`: a median, a mark on an axis."""
        self._add(
            f'path d="M{_px(x)} {_px(y - high / 2)}v{_px(high)}" stroke-width="{_px(thick)}" class="o-{color}-s"', title
        )

    def line(
        self, points: Sequence[Point], color: str, *, thick: float = 1.5, dashed: bool = False, title: str = ""
    ) -> None:
        """A line through `points`; with fewer than two there is none."""
        if len(points) > 1:
            path = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
            more = ' stroke-dasharray="4 3"' if dashed else ""
            kind = f'stroke-width="{_px(thick)}" stroke-linejoin="round" class="o-{color}-s"{more}'
            self._add(f'polyline points="{path}" {kind}', title)

    def area(self, points: Sequence[Point], base: float, color: str, *, title: str = "") -> None:
        """What lies between a line through `points` and the level `base`, faintly."""
        if len(points) > 1:
            inner = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
            first, last = _px(points[0][0]), _px(points[-1][0])
            corners = f"{first},{_px(base)} {inner} {last},{_px(base)}"
            self._add(f'polygon points="{corners}" class="o-{color}" fill-opacity=".18"', title)

    def put(self, other: Picture, x: float, y: float) -> None:
        """Another picture within this one, its left upper corner at `x`, `y`."""
        self._parts.append(f'<g transform="translate({_px(x)} {_px(y)})">{"".join(other._parts)}</g>')

    # -- put together --------------------------------------------------------------------------------

    def panel(self, x: Scale, y: Scale, name: str, *, x_unit: str | None = None, y_ticks: int = 4) -> None:
        """The ground of a chart: name above, grid and numbers at the left, and below it with `x_unit`."""
        left, right = min(x.first, x.last), max(x.first, x.last)
        top, bottom = min(y.first, y.last), max(y.first, y.last)
        self.rect(left, top, right - left, bottom - top, "panel")
        self.text(left, top - 6, name, size=11, color="muted")
        for value in y.ticks(y_ticks):
            self.line([(left, y(value)), (right, y(value))], "grid", thick=1)
            self.text(left - 6, y(value) + 4, number(value), size=11, color="muted", anchor="end")
        if x_unit is not None:
            self.x_axis(x, bottom, unit=x_unit)

    def x_axis(self, x: Scale, y: float, *, unit: str = "", most: int = 6) -> None:
        """Numbers along a level line at `y`."""
        for value in x.ticks(most):
            self.tick(x(value), y + 2, 4, "muted", thick=1)
            words = f"{number(value)}{unit}"
            middle = min(x(value), self.wide - 2 - text_width(words, 11) / 2)  # the last one stays inside
            self.text(middle, y + 16, words, size=11, color="muted", anchor="middle")

    def legend(self, x: float, y: float, entries: Iterable[tuple[str, str]], *, mark: Mark = "bar") -> float:
        """What the colors mean, (color, words) each, on the base line `y`; returns the x behind the last word."""
        for color, words in entries:
            if mark == "dot":
                self.dot(x + 5, y - 4, color, r=3.5)
            elif mark == "line":
                self.line([(x, y - 4), (x + 12, y - 4)], color, thick=2)
            else:
                self.rect(x, y - 9, 12, 9, color)
            self.text(x + 16, y, words, size=11, color="muted")
            x += 16 + text_width(words, 11) + 14
        return x

    # -- done ----------------------------------------------------------------------------------------

    def inline(self) -> str:
        """The picture as a part of an HTML page, which has `style()` in its head."""
        return self._svg("", "")

    def __str__(self) -> str:
        """The picture as a file of its own, on its paper."""
        ground = f'<rect width="{_px(self.wide)}" height="{_px(self.high)}" class="o-paper"/>'
        return self._svg(' xmlns="http://www.w3.org/2000/svg"', f"<style>{style()}</style>{ground}") + "\n"

    def _svg(self, space: str, before: str) -> str:
        size = f'viewBox="0 0 {_px(self.wide)} {_px(self.high)}" width="{_px(self.wide)}" height="{_px(self.high)}"'
        told = f"<desc>{safe(self.description)}</desc>" if self.description else ""
        label = f'role="img" aria-label="{safe(self.title)}"'
        # No <title> of the whole: browsers would show it as a tooltip everywhere.
        return f'<svg{space} {size} class="o-sans" {label}>{told}{before}{"".join(self._parts)}</svg>'

    def _add(self, element: str, title: str, content: str = "") -> None:
        inner = (f"<title>{safe(title)}</title>" if title else "") + content
        self._parts.append(f"<{element}>{inner}</{element.split(maxsplit=1)[0]}>" if inner else f"<{element}/>")


def stacked(pictures: Sequence[Picture]) -> Picture:
    """Several pictures as one, each below the one before it."""
    if len(pictures) == 1:
        return pictures[0]
    whole = Picture(
        max(picture.wide for picture in pictures),
        sum(picture.high for picture in pictures),
        "; ".join(picture.title for picture in pictures),
    )
    top = 0.0
    for picture in pictures:
        whole.put(picture, 0, top)
        top += picture.high
    return whole


def steps(points: Iterable[Point]) -> list[Point]:
    """The corners of a line that keeps each value until the next one begins."""
    corners: list[Point] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def _px(value: float) -> str:
    """A length with one digit: a tenth of a pixel is finer than a screen."""
    return f"{value:.1f}".removesuffix(".0")
