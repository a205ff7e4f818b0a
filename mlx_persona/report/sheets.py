"""A chart as a file of its own: its title above it, its legend and its note below, on paper."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from mlx_persona.pages import printable
from mlx_persona.report import canvas
from mlx_persona.report.canvas import Colours, Size
from mlx_persona.report.drawing import BAND_ALPHA, DASHED, DOTTED, Band, Level, Line
from mlx_persona.report.plots import Chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
# In pixels: around everything, the title's line, a line of the legend and of the note, and a legend's mark.
_PAD, _TITLE, _ROW, _MARK = 14, 30, 20, 24
# About the width of a letter, in pixels, in the widest of the fonts that may be used.
_LETTER, _SMALL_LETTER = 6.7, 6.0
Mark = Line | Band | Level


def chart_file(chart: Chart, form: str, dark: bool) -> bytes:
    """The bytes of the file; the same chart gives the same.

    Args:
        chart: what to draw.
        form: of ``FORMATS``. SVG is as dark as the scheme of whoever looks at it.
        dark: of PNG: on dark paper.

    Raises:
        PersonaError: matplotlib is not installed.
    """
    (width, height), rows = chart.size(wide=True), _rows(chart)
    notes = textwrap.wrap(printable(chart.note), int((width - 2 * _PAD) / _SMALL_LETTER))
    below = _ROW * (len(rows) + len(notes))
    size = width + 2 * _PAD, height + _TITLE + below + 2 * _PAD
    colours = canvas.STAND_INS if form == "svg" else canvas.palettes()[dark]
    with canvas.figure(size, colours, chart.name) as figure:
        left, right, bottom, top = chart.margins(wide=True)
        margins = (left + _PAD, right + _PAD, bottom + below + _PAD, top + _TITLE + _PAD)
        chart.draw(canvas.add_axes(figure, size, margins), colours, wide=True)
        _write(figure, size, _PAD, size[1] - _PAD - 16, chart.title, fontsize=15, fontweight="bold")
        y = _PAD + below - _ROW / 2
        for row in rows:
            for x, mark in row:
                _draw_mark(figure, size, (x, y), mark, colours)
                _write(figure, size, x + _MARK + 6, y - 4, mark.label)
            y -= _ROW
        for line in notes:
            _write(figure, size, _PAD, y - 4, line, fontsize=11, color=colours["soft"])
            y -= _ROW
        if form == "svg":
            return canvas.file_svg(figure, size, chart.title, chart.alt)
        return canvas.file_png(figure, chart.title, chart.alt, colours)


def _rows(chart: Chart) -> list[list[tuple[float, Mark]]]:
    """The legend in lines: where each mark stands."""
    rows: list[list[tuple[float, Mark]]] = []
    x, edge = 0.0, chart.size(wide=True)[0] + _PAD
    for mark in chart.marks if len(chart.marks) > 1 else ():
        width = _MARK + 6 + _LETTER * len(mark.label) + 14
        if not rows or x + width > edge:
            rows.append([])
            x = _PAD
        rows[-1].append((x, mark))
        x += width
    return rows


def _write(figure: Figure, size: Size, x: float, y: float, text: str, **looks: Any) -> None:
    """A text that begins there, in pixels from the lower left."""
    figure.text(x / size[0], y / size[1], printable(text), va="baseline", **looks)


def _draw_mark(figure: Figure, size: Size, place: tuple[float, float], mark: Mark, colours: Colours) -> None:
    """What the legend shows of a series, a threshold or a band; its left middle is at ``place``, in pixels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    (width, height), (x, y) = size, place
    look: dict[str, Any] = {"transform": figure.transFigure}
    if isinstance(mark, Band):
        corner, across, up = (x / width, (y - 6) / height), _MARK / width, 12 / height
        if mark.colour:
            ground: dict[str, Any] = {"facecolor": colours[mark.colour], "alpha": 2 * BAND_ALPHA, "linewidth": 0}
            figure.add_artist(Rectangle(corner, across, up, **look, **ground))
        edge: dict[str, Any] = {"edgecolor": colours["soft"], "facecolor": "none", "linewidth": 0.8}
        figure.add_artist(Rectangle(corner, across, up, **look, **edge))
        return
    look["color"] = colours[mark.colour]
    ends, middle, level = [x / width, (x + _MARK) / width], [(x + _MARK / 2) / width], y / height
    if mark.kind == "ring":
        figure.add_artist(Line2D(middle, [level], marker="o", markersize=11, markerfacecolor="none", **look))
        return
    styles: dict[str, dict[str, Any]] = {
        "faint": {"linewidth": 1.0, "alpha": 0.4},
        "dashes": {"linestyle": DASHED},
        "dotted": {"linestyle": DOTTED},
    }
    figure.add_artist(Line2D(ends, [level, level], **look, **styles.get(mark.kind, {})))
    if mark.kind == "dots":
        figure.add_artist(Line2D(middle, [level], marker="o", **look))
