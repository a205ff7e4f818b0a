"""The parts of charts, and how each is drawn on matplotlib's axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_persona.pages import printable
from mlx_persona.report.canvas import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Pixels above the axes for the names of bands; a name is about so wide.
TAB, _TAB_WIDTH = 16, 20
# A line with more points than pixels only makes the page big.
MOST_POINTS = 600
BAND_ALPHA = 0.13
DASHED, DOTTED = (0, (5, 3)), (0, (1, 1.5))
_MOST_TICKS = 7


@dataclass(frozen=True)
class Line:
    """A series of a chart.

    Attributes:
        label: its name in the legend.
        colour: a colour of the page: ``bar``, ``d0``, ...
        points: ``(x, y)`` in the order of x.
        kind: ``line``, ``faint`` (behind the others), ``dots`` (a line with a dot at each point), ``dashes`` or
            ``ring`` (a ring around each point, and no line).
    """

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    kind: str = "line"


@dataclass(frozen=True)
class Band:
    """A stretch of the updates with a short name above it.

    Attributes:
        name: what stands above it, of two letters or so.
        label: its name in the legend.
        colour: a colour of the page; ``""`` for the bare paper.
        start, end: from which update to which.
    """

    name: str
    label: str
    colour: str
    start: float
    end: float

    @property
    def kind(self) -> str:
        """How the legend marks it."""
        return "band"


@dataclass(frozen=True)
class Level:
    """A threshold: a dashed line, or with ``high`` two dotted ones."""

    label: str
    colour: str
    low: float
    high: float | None = None

    @property
    def kind(self) -> str:
        """How the legend marks it."""
        return "dashes" if self.high is None else "dotted"


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    ``interval`` is drawn as a whisker, ``points`` as small dots, and ``shown`` is written beside the bar.
    """

    label: str
    colour: str
    value: float
    shown: str
    interval: tuple[float, float] | None = None
    points: Sequence[float] = ()


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every so many-th point and the last, so that there are at most about ``MOST_POINTS``."""
    step = -(-len(points) // MOST_POINTS)
    return [*points[: -1 : max(1, step)], *points[-1:]]


def apart(centres: Sequence[float], room: float, width: float) -> list[float]:
    """The centres, moved so that no two are nearer than ``width`` and none nearer than half of it to an edge.

    Args:
        centres: in rising order, between 0 and ``room``.
        room: where they stand.
        width: of each, or less where there are too many.
    """
    width = min(width, room / max(1, len(centres)))
    out: list[float] = []
    for i, centre in enumerate(centres):
        least = out[-1] + width if out else width / 2
        most = room - width / 2 - width * (len(centres) - 1 - i)
        out.append(min(max(centre, least), most))
    return out


def draw_line(axes: Axes, line: Line, colours: Colours) -> None:
    """A series, each point where it is."""
    points = thinned(line.points)
    looks: dict[str, dict[str, Any]] = {
        "line": {},
        "faint": {"linewidth": 1.0, "alpha": 0.4},
        "dots": {"marker": "o"},
        "dashes": {"linestyle": DASHED},
        "ring": {"linestyle": "none", "marker": "o", "markersize": 12, "markerfacecolor": "none"},
    }
    look = looks[line.kind]
    if len(points) == 1:
        look = {"marker": "o", **look}  # a line of one point is not to be seen
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=colours[line.colour], clip_on=False, gid=f"series-{printable(line.label)}", **look)


def draw_level(axes: Axes, i: int, level: Level, colours: Colours) -> None:
    """The ``i``-th threshold."""
    style = DOTTED if level.high is not None else DASHED
    for end in (level.low, level.high):
        if end is not None:
            axes.axhline(end, color=colours[level.colour], linewidth=1.6, linestyle=style, gid=f"level-{i}")


def draw_bands(axes: Axes, bands: Sequence[Band], colours: Colours, plot: tuple[float, float]) -> None:
    """A faint ground, a line between two, and their names above, where none meets another.

    Args:
        axes: with everything else on them.
        bands: what to draw; there is at least one.
        colours: what our colours are called.
        plot: width and height within the axes, in pixels.
    """
    top = 1 + (TAB + 2) / plot[1]
    low, high = min(bands[0].start, axes.dataLim.x0), max(bands[-1].end, axes.dataLim.x1)
    margin = 0.02 * (high - low) or 0.5
    limits = low - margin, high + margin
    ground: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 0.5}
    for i, band in enumerate(bands):
        if band.colour:
            look: dict[str, Any] = {"color": colours[band.colour], "alpha": BAND_ALPHA, "linewidth": 0, **ground}
            axes.fill_betweenx((0, top), band.start, band.end, gid=f"band-{band.name}", **look)
        if i > 0:
            look = {"color": colours["soft"], "linewidth": 1.0, "linestyle": (0, (1, 2)), **ground}
            axes.plot((band.start, band.start), (0, top), gid=f"band-start-{band.name}", **look)
    middles = [((band.start + band.end) / 2 - limits[0]) / (limits[1] - limits[0]) * plot[0] for band in bands]
    for band, middle in zip(bands, apart(middles, plot[0], _TAB_WIDTH), strict=True):
        axes.text(middle / plot[0], 1 + 4 / plot[1], band.name, transform=axes.transAxes, ha="center", clip_on=False)
    axes.set_xlim(limits)
    axes.yaxis.get_offset_text().set_horizontalalignment("right")  # else it stands where the names do


def few_ticks(axes: Axes) -> None:
    """Ticks that a narrow chart has room for, whole numbers of updates."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def bend(axes: Axes, linear: float, values: Sequence[float]) -> None:
    """A scale that is linear within ``linear`` of 0 and logarithmic beyond, with ticks of one digit."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("symlog", linthresh=linear, linscale=0.6)
    axes.update_datalim([(axes.dataLim.x0, -linear), (axes.dataLim.x0, linear)], updatex=False)
    axes.autoscale_view(scalex=False)
    low, high = min(*values, -linear), max(*values, linear)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        sizes = [digit * 10.0**power for power in range(-9, 10) for digit in digits]
        ticks = [tick for size in sizes for tick in (-size, size) if size > 0.999 * linear and low <= tick <= high]
        if len(ticks) < _MOST_TICKS:
            break
    axes.yaxis.set_major_locator(FixedLocator([0.0, *ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
