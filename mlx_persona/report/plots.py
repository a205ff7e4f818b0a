"""Charts as SVG that stands in a page: text stays text, colours are the page's, so dark mode and print need nothing.

Drawn by matplotlib. Its colours are stand-ins that become the page's CSS variables, and everything that a page
does not need (metadata, fonts, ids) goes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mlx_persona.errors import PersonaError
from mlx_persona.pages import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In pixels. A chart of a pair of columns fits a phone as it is; the wide form of the main chart fills a page.
NARROW, WIDE = (350, 220), (760, 300)
ROW_HEIGHT = 30
# Pixels around the axes: left (for six digits), right, bottom (for ticks and a name), top (for a power of ten).
_MARGINS = (48, 8, 40, 18)
# A longer name of a bar is cut; a letter is about so many pixels wide.
_LONGEST, _LETTER = 16, 7
# A line with more points than pixels only makes the page big.
MOST_POINTS = 600
_COLOURS = ("ink", "soft", "line", "bar", "kept", "bad", "d0", "d1", "d2", "d3", "d4", "d5")
_STAND_INS = {name: f"#0101{i:02x}" for i, name in enumerate(_COLOURS, 1)}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
# Newer matplotlib types its keys as literals.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 12.0,
    "text.color": _STAND_INS["ink"],
    "axes.edgecolor": _STAND_INS["line"],
    "axes.labelcolor": _STAND_INS["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.formatter.limits": (-3, 5),
    "axes.axisbelow": True,
    "xtick.color": _STAND_INS["soft"],
    "ytick.color": _STAND_INS["soft"],
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "grid.color": _STAND_INS["line"],
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
}


def check_extra() -> None:
    """Check that there is something to draw with; raises PersonaError."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise PersonaError("the report needs matplotlib", "pip install 'mlx-persona[report]'") from error
    del matplotlib


@dataclass(frozen=True)
class Line:
    """A series of a chart.

    Attributes:
        label: its name in the legend.
        colour: a colour of the page: ``bar``, ``d0``, ...
        points: ``(x, y)`` in the order of x.
        kind: ``line``, ``faint`` (behind the others), ``dots`` (a line with a dot at each point) or ``dashes``.
    """

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    kind: str = "line"


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart; ``interval`` is drawn as a whisker, ``shown`` is written beside the bar."""

    label: str
    colour: str
    value: float
    shown: str
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """A drawn chart: ``svg`` for a phone or a column and, of a main chart, ``wide`` for a whole page."""

    title: str
    alt: str
    svg: str
    wide: str = ""
    legend: Sequence[Line] = field(default=())
    note: str = ""


def line_chart(name: str, title: str, alt: str, lines: Sequence[Line], *, main: bool = False, note: str = "") -> Chart:
    """Lines over updates.

    Args:
        name: unlike that of every other chart of the page.
        title: stands above it.
        alt: what is to be seen, for those who do not see it.
        lines: what to draw, the first at the back; a legend names them where there are several.
        main: draw it for a whole page too.
        note: stands below it.
    """
    drawn = [line for line in lines if line.points]

    def draw(size: tuple[int, int], suffix: str) -> str:
        with _axes(f"{name}{suffix}", alt, size) as (axes, out):
            for line in drawn:
                _draw_line(axes, line)
            axes.grid(True, axis="y", linewidth=0.8)
            axes.margins(x=0.02)
            axes.set_xlabel("update")
            _few_ticks(axes)
        return out[0]

    narrow = draw(NARROW, "")
    wide = draw(WIDE, "-wide") if main else ""
    return Chart(title, alt, narrow, wide, drawn if len(drawn) > 1 else (), note)


def bar_chart(
    name: str, title: str, alt: str, bars: Sequence[Bar], *, floor: float | None = None, note: str = ""
) -> Chart:
    """Bars from the left, the first on top.

    Args:
        name, title, alt, note: as for :func:`line_chart`.
        bars: a row each.
        floor: where a dashed line stands.
    """
    names = [_short(printable(bar.label)) for bar in bars]
    margins = (12 + _LETTER * max(map(len, names)), 8, 30, 6)
    with _axes(name, alt, (NARROW[0], 36 + ROW_HEIGHT * len(bars)), margins) as (axes, out):
        furthest = max([0.0, *(max(bar.value, *(bar.interval or (0.0,))) for bar in bars)])
        for row, bar in enumerate(bars):
            colour = _STAND_INS[bar.colour]
            axes.barh(row, bar.value, height=0.6, color=colour, gid=f"series-{row}")
            end = bar.value
            if bar.interval is not None:
                axes.plot(bar.interval, (row, row), color=_STAND_INS["ink"], linewidth=1.2, gid=f"interval-{row}")
                end = max(end, bar.interval[1])
            axes.text(end + 0.02 * furthest, row, bar.shown, va="center", clip_on=False)
        if floor is not None:
            axes.axvline(floor, color=_STAND_INS["soft"], linewidth=1.2, linestyle=(0, (4, 3)), gid="floor")
        axes.set_yticks(range(len(bars)), names)
        axes.tick_params(axis="y", labelcolor=_STAND_INS["ink"])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(0.0, 1.25 * furthest or 1.0)
        axes.grid(True, axis="x", linewidth=0.8)
        axes.locator_params(axis="x", nbins=4)
    return Chart(title, alt, out[0], note=note)


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


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every so many-th point and the last, so that there are at most about ``MOST_POINTS``."""
    step = -(-len(points) // MOST_POINTS)
    return [*points[: -1 : max(1, step)], *points[-1:]]


def _short(name: str) -> str:
    """The name of a bar, cut to what there is room for."""
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _draw_line(axes: Axes, line: Line) -> None:
    points = thinned(line.points)
    looks: dict[str, dict[str, Any]] = {
        "line": {},
        "faint": {"linewidth": 1.0, "alpha": 0.4},
        "dots": {"marker": "o"},
        "dashes": {"linestyle": (0, (5, 3))},
    }
    look = looks[line.kind]
    if len(points) == 1:
        look = {**look, "marker": "o"}  # a line of one point is not to be seen
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=_STAND_INS[line.colour], clip_on=False, gid=f"series-{printable(line.label)}", **look)


def _few_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


@contextmanager
def _axes(
    name: str, alt: str, size: tuple[int, int], margins: tuple[int, int, int, int] = _MARGINS
) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; the finished SVG is put into the list at the end.

    Margins are given, since measuring what stands in them takes matplotlib longer than all the drawing.

    Raises:
        PersonaError: matplotlib is not installed.
    """
    check_extra()
    import matplotlib
    from matplotlib.figure import Figure

    out: list[str] = []
    # Ids are hashes of what they name, so each chart salts them with its own name.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # Fonts only matter for measuring text here; a sign that matplotlib's lacks, the browser's has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        (width, height), (left, right, bottom, top) = size, margins
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        axes = figure.add_axes(box)
        yield axes, out
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    out.append(_for_page(text.getvalue(), alt))


def _for_page(svg: str, alt: str) -> str:
    """matplotlib's SVG as an element of a page."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    referred = set()
    for element in root.iter():
        if (target := element.attrib.pop(f"{_XLINK}href", None)) is not None:
            element.set("href", target)
        referred |= set(re.findall(r"#(\w+)", element.get("href", "") + element.get("clip-path", "")))
    for element in root.iter():
        _plain(element, referred)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": printable(alt)})
    ElementTree.register_namespace("", _SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _plain(element: ElementTree.Element, referred: set[str]) -> None:
    """Keep what is seen: no id that nothing refers to, the page's colours, the page's font."""
    name = element.attrib.pop("id", "")
    if name in referred:
        element.set("id", name)
    elif name.startswith(("series-", "interval-", "floor")):
        element.set("data-series", name.removeprefix("series-"))
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    # Attributes say the same, and a policy that allows no inline style lets them be.
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = declaration.partition(":")
        if value and key.strip() != "font-family":
            for colour, stand_in in _STAND_INS.items():
                value = value.replace(stand_in, f"var(--{colour})")
            element.set(key.strip(), value.strip())
    if element.text is not None and not element.text.strip():
        element.text = None
    if element.tail is not None and not element.tail.strip():
        element.tail = None
    if path := element.get("d"):
        element.set("d", " ".join(path.split()))
