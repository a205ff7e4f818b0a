"""Charts: what is drawn in each, and the forms that it has in a page (:mod:`mlx_persona.report.canvas` draws)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlx_persona.pages import printable
from mlx_persona.report import canvas
from mlx_persona.report.canvas import Colours, Margins, Size
from mlx_persona.report.drawing import TAB, Band, Bar, Level, Line, bend, draw_bands, draw_level, draw_line, few_ticks
from mlx_persona.report.figures import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN_COLOURS = ("bar", "d0", "d3", "d4", "d1", "d2")
# In pixels. A chart of a pair of columns fits a phone as it is; the wide form of the main chart fills a page.
NARROW, WIDE = (350, 220), (760, 300)
ROW_HEIGHT = 30
# Left (for six digits), right, bottom (for ticks and a name), top (for a power of ten).
_MARGINS = (48, 8, 40, 18)
# A longer name of a bar is cut; a letter is about so many pixels wide.
_LONGEST, _LONGEST_WIDE, _LETTER = 18, 34, 7


@dataclass(frozen=True)
class Chart(ABC):
    """What is drawn, and what is said about it.

    Attributes:
        name: unlike that of every other chart of the page; a file of it is called so.
        title: stands above it.
        alt: what is to be seen, for those who do not see it.
    """

    name: str
    title: str
    alt: str

    @property
    @abstractmethod
    def note(self) -> str:
        """What stands below it."""

    @property
    @abstractmethod
    def main(self) -> bool:
        """Whether a page shows it over its whole width."""

    @property
    def marks(self) -> Sequence[Line | Band | Level]:
        """All that has a name besides the title."""
        return ()

    @property
    def legend(self) -> Sequence[Line | Band | Level]:
        """What a page names below it: bands below main charts only, and nothing where a single line is all."""
        named = [mark for mark in self.marks if self.main or not isinstance(mark, Band)]
        return named if len(named) > 1 else ()

    @abstractmethod
    def size(self, wide: bool) -> Size:
        """Width and height, in pixels."""

    @abstractmethod
    def margins(self, wide: bool) -> Margins:
        """Pixels around the axes: left, right, bottom, top."""

    @abstractmethod
    def draw(self, axes: Axes, colours: Colours, wide: bool) -> None:
        """Draw it on axes of this size, with these margins."""

    @cached_property
    def svg(self) -> str:
        """For a phone or a column of a page; raises PersonaError where matplotlib is not installed."""
        return self._page_svg(wide=False)

    @cached_property
    def wide(self) -> str:
        """Of a main chart, for a whole page; raises PersonaError where matplotlib is not installed."""
        return self._page_svg(wide=True) if self.main else ""

    def _page_svg(self, wide: bool) -> str:
        size = self.size(wide)
        with canvas.figure(size, canvas.STAND_INS, self.name + ("-wide" if wide else "")) as figure:
            self.draw(canvas.add_axes(figure, size, self.margins(wide)), canvas.STAND_INS, wide)
            return canvas.page_svg(figure, self.alt)


@dataclass(frozen=True)
class LineChart(Chart):
    """Lines over updates.

    Attributes:
        lines: what to draw, the first at the back; a legend names them where there are several.
        bands: stretches of the updates, one after the other.
        levels: thresholds.
        linear: where given, values beyond it to either side of 0 are drawn on a logarithmic scale.
    """

    lines: Sequence[Line]
    bands: Sequence[Band] = ()
    levels: Sequence[Level] = ()
    linear: float | None = None
    main: bool = False
    note: str = ""

    @property
    def drawn(self) -> Sequence[Line]:
        """The lines that have any points."""
        return [line for line in self.lines if line.points]

    @property
    def marks(self) -> Sequence[Line | Band | Level]:
        """Lines, thresholds and bands."""
        return [*self.drawn, *self.levels, *self.bands]

    def size(self, wide: bool) -> Size:
        """Width and height, in pixels."""
        width, height = WIDE if wide else NARROW
        return width, height + (TAB if self.bands else 0)

    def margins(self, wide: bool) -> Margins:
        """Pixels around the axes."""
        left, right, bottom, top = _MARGINS
        return left, right, bottom, top + (TAB if self.bands else 0)

    def draw(self, axes: Axes, colours: Colours, wide: bool) -> None:
        """Draw it."""
        for line in self.drawn:
            draw_line(axes, line, colours)
        axes.grid(True, axis="y", linewidth=0.8)
        axes.margins(x=0.02)
        axes.set_xlabel("update")
        few_ticks(axes)
        if self.linear is not None:
            levels = [end for level in self.levels for end in (level.low, level.high) if end is not None]
            bend(axes, self.linear, [*levels, *(y for line in self.drawn for _, y in line.points)])
        for i, level in enumerate(self.levels):
            draw_level(axes, i, level, colours)
        if self.bands:
            (width, height), (left, right, bottom, top) = self.size(wide), self.margins(wide)
            draw_bands(axes, self.bands, colours, (width - left - right, height - bottom - top))


@dataclass(frozen=True)
class BarChart(Chart):
    """Bars from the left, the first on top.

    Attributes:
        bars: a row each.
        floor: where a dashed line stands.
        dots: dots instead of bars, on a scale that need not begin at 0.
    """

    bars: Sequence[Bar]
    floor: float | None = None
    dots: bool = False
    main: bool = False
    note: str = ""

    def size(self, wide: bool) -> Size:
        """Width and height, in pixels."""
        return (WIDE if wide else NARROW)[0], 36 + ROW_HEIGHT * len(self.bars)

    def margins(self, wide: bool) -> Margins:
        """Pixels around the axes."""
        right = 14 + _LETTER * max(len(bar.shown) for bar in self.bars) if self.dots else 8
        return 12 + _LETTER * max(map(len, self._names(wide))), right, 30, 6

    def _names(self, wide: bool) -> list[str]:
        return [_short(printable(bar.label), _LONGEST_WIDE if wide else _LONGEST) for bar in self.bars]

    def draw(self, axes: Axes, colours: Colours, wide: bool) -> None:
        """Draw it."""
        reach = [(bar.value, *(bar.interval or ()), *bar.points) for bar in self.bars]
        always = [0.0] if not self.dots else [self.floor] if self.floor is not None else []
        furthest = max([*map(max, reach), *always])
        least = min([*map(min, reach), *always]) if self.dots else 0.0
        span = (furthest - least) or abs(furthest) or 1.0
        for row, bar in enumerate(self.bars):
            if self.dots:
                axes.plot(bar.value, row, "o", markersize=8, color=colours[bar.colour], gid=f"series-{row}")
            else:
                axes.barh(row, bar.value, height=0.6, color=colours[bar.colour], gid=f"series-{row}")
            if len(bar.points) > 1:
                look: dict[str, Any] = {"markersize": 4, "color": colours["ink"], "alpha": 0.6}
                axes.plot(bar.points, [row] * len(bar.points), "o", gid=f"points-{row}", **look)
            if bar.interval is not None:
                axes.plot(bar.interval, (row, row), color=colours["ink"], linewidth=1.2, gid=f"interval-{row}")
            if self.dots:  # in a column of their own, where no dot or line can be
                axes.text(1.02, row, bar.shown, va="center", transform=axes.get_yaxis_transform())
            else:
                axes.text(max(reach[row]) + 0.02 * span, row, bar.shown, va="center")
        if self.floor is not None:
            axes.axvline(self.floor, color=colours["soft"], linewidth=1.2, linestyle=(0, (4, 3)), gid="floor")
        axes.set_yticks(range(len(self.bars)), self._names(wide))
        axes.tick_params(axis="y", labelcolor=colours["ink"])
        axes.set_ylim(len(self.bars) - 0.5, -0.5)
        axes.set_xlim(*(least - 0.06 * span, furthest + 0.06 * span) if self.dots else (0.0, furthest + 0.25 * span))
        axes.grid(True, axis="x", linewidth=0.8)
        axes.locator_params(axis="x", nbins=4)


def points_of(series: Sequence[tuple[float, Figure]]) -> list[tuple[float, float]]:
    """A series of figures as points."""
    return [(update, figure.value) for update, figure in series]


def path_in_words(points: Sequence[tuple[float, float]]) -> str:
    """The ends of a series that is not empty."""
    if len(points) == 1:
        return f"{points[0][1]:.4g} at update {points[0][0]:,}"
    (first, start), (last, end) = points[0], points[-1]
    return f"{start:.4g} at update {first:,}, {end:.4g} at update {last:,}"


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The running mean of the values, in which those some steps back weigh less and less.

    A point's weight falls to 1/e over a fifteenth of the series, or three points; the first mean is the first value.
    """
    decay = 1 - 1 / max(3.0, len(points) / 15)
    out, mean, weight = [], 0.0, 0.0
    for x, y in points:
        mean, weight = decay * mean + (1 - decay) * y, decay * weight + (1 - decay)
        out.append((x, mean / weight))
    return out


def _short(name: str, longest: int) -> str:
    """The name of a bar, cut to what there is room for."""
    return name if len(name) <= longest else name[: longest - 1] + "…"
