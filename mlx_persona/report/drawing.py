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
_BAND_ALPHA = 0.13


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
    """A threshold: a dashed line, or with ``high`` the strip between two."""

    label: str
    colour: str
    low: float
    high: float | None = None

    @property
    def kind(self) -> str:
        """How the legend marks it."""
        return "dashes" if self.high is None else "strip"


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart; ``interval`` is drawn as a whisker, ``shown`` is written beside the bar."""

    label: str
    colour: str
    value: float
    shown: str
    interval: tuple[float, float] | None = None


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
        "dashes": {"linestyle": (0, (5, 3))},
        "ring": {"linestyle": "none", "marker": "o", "markersize": 12, "markerfacecolor": "none"},
    }
    look = looks[line.kind]
    if len(points) == 1:
        look = {"marker": "o", **look}  # a line of one point is not to be seen
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=colours[line.colour], clip_on=False, gid=f"series-{printable(line.label)}", **look)


def draw_level(axes: Axes, i: int, level: Level, colours: Colours) -> None:
    """The ``i``-th threshold."""
    colour = colours[level.colour]
    if level.high is None:
        axes.axhline(level.low, color=colour, linewidth=1.4, linestyle=(0, (5, 3)), gid=f"level-{i}")
    else:
        axes.axhspan(level.low, level.high, color=colour, alpha=0.25, linewidth=0, zorder=0.6, gid=f"level-{i}")


def draw_bands(axes: Axes, bands: Sequence[Band], colours: Colours, plot: tuple[float, float]) -> None:
    """A faint ground, a line where each begins, and its name above, where it meets no other."""
    top = 1 + (TAB + 2) / plot[1]
    limits = axes.get_xlim()
    scale = plot[0] / (limits[1] - limits[0])
    across = axes.get_xaxis_transform()
    for band in bands:
        if band.colour:
            axes.fill_betweenx(
                (0, top),
                band.start,
                band.end,
                transform=across,
                color=colours[band.colour],
                alpha=_BAND_ALPHA,
                linewidth=0,
                zorder=0.5,
                clip_on=False,
                gid=f"band-{band.name}",
            )
        axes.plot(
            (band.start, band.start),
            (0, top),
            transform=across,
            color=colours["soft"],
            linewidth=1.0,
            linestyle=(0, (1, 2)),
            zorder=0.7,
            clip_on=False,
            gid=f"band-start-{band.name}",
        )
    middles = [((band.start + band.end) / 2 - limits[0]) * scale for band in bands]
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
    """A scale linear within ``linear`` of 0 and logarithmic beyond, with ticks at 0 and powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("symlog", linthresh=linear, linscale=0.8)
    furthest = max(map(abs, values))
    ticks = [0.0]
    for power in range(-9, 10):
        if linear * 1.5 < 10.0**power <= max(furthest, linear * 2) * 1.3:
            ticks += [10.0**power, -(10.0**power)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))
