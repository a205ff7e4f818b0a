"""What charts are drawn on, by matplotlib: an SVG element of a page, a file that is SVG, or one that is PNG.

In a page text stays text and colours are the page's, so dark mode and print need nothing: what is drawn has stand-ins
that become the page's CSS variables, and everything that a page does not need (metadata, fonts, ids) goes. A file
stands alone: on its own paper, in the same colours, light or as dark as the viewer's scheme asks for. The same chart
gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mlx_persona.errors import PersonaError
from mlx_persona.pages import STYLE, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colours = Mapping[str, str]
Size = tuple[int, int]
# Pixels around the axes: left, right, bottom, top.
Margins = tuple[int, int, int, int]
_NAMES = ("paper", "ink", "soft", "line", "bar", "kept", "bad", "d0", "d1", "d2", "d3", "d4", "d5")
STAND_INS: Colours = {name: f"#0101{i:02x}" for i, name in enumerate(_NAMES, 1)}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_PNG_SCALE = 2
_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif"


def palettes() -> tuple[Colours, Colours]:
    """The light and the dark colours of our pages, by name."""
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    found = [dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block)) for block in blocks]
    light, dark = ({name: colours[name] for name in _NAMES} for colours in found)
    return light, dark


def check_extra() -> None:
    """Check that there is something to draw with; raises PersonaError."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise PersonaError("the report needs matplotlib", "pip install 'mlx-persona[report]'") from error
    del matplotlib


@contextmanager
def figure(size: Size, colours: Colours, salt: str) -> Iterator[Figure]:
    """A figure to draw on; what is made of it has to be made before the block ends.

    Args:
        size: in pixels.
        colours: what our colours are called on it: ``STAND_INS`` for SVG, one of :func:`palettes` for PNG.
        salt: ids in SVG are hashes of what they name, so each chart of a page needs its own.

    Raises:
        PersonaError: matplotlib is not installed.
    """
    check_extra()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_style(colours), "svg.hashsalt": salt}), warnings.catch_warnings():
        # Fonts only matter for measuring text here; a sign that matplotlib's lacks, the browser's has.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)


def add_axes(figure: Figure, size: Size, margins: Margins) -> Axes:
    """Axes with these margins around them, in pixels.

    Margins are given, since measuring what stands in them takes matplotlib longer than all the drawing.
    """
    (width, height), (left, right, bottom, top) = size, margins
    return figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )


def page_svg(figure: Figure, alt: str) -> str:
    """The figure as an element of a page, in the page's colours and fonts."""
    root = _tree(figure, lambda name: f"var(--{name})")
    for element in root.iter():
        if (target := element.attrib.pop(f"{_XLINK}href", None)) is not None:
            element.set("href", target)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": printable(alt)})
    ElementTree.register_namespace("", _SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def file_svg(figure: Figure, size: Size, title: str, alt: str) -> bytes:
    """The figure as a file of its own: on paper, light, or dark where the viewer's scheme is.

    A viewer that knows no style sheets shows the light one.
    """
    light, dark = palettes()
    root = _tree(figure, light.__getitem__)
    pairs = dict.fromkeys((light[name], dark[name]) for name in _NAMES)
    rules = "".join(f'[{key}="{a}"]{{{key}:{b}}}' for a, b in pairs for key in ("fill", "stroke"))
    style = ElementTree.Element(f"{_SVG}style")
    style.text = f"@media (prefers-color-scheme:dark){{{rules}}}"
    paper = ElementTree.Element(f"{_SVG}rect", {"width": "100%", "height": "100%", "fill": light["paper"]})
    name, said = ElementTree.Element(f"{_SVG}title"), ElementTree.Element(f"{_SVG}desc")
    name.text, said.text = printable(title), printable(alt)
    for place, element in enumerate((name, said, style, paper)):
        root.insert(place, element)
    root.attrib.update({"width": str(size[0]), "height": str(size[1]), "role": "img", "font-family": _FONT})
    ElementTree.register_namespace("", _SVG[1:-1])
    ElementTree.register_namespace("xlink", _XLINK[1:-1])
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def file_png(figure: Figure, title: str, alt: str, colours: Colours) -> bytes:
    """The figure as a PNG on paper, two pixels for each of its own."""
    out = io.BytesIO()
    said = {"Title": printable(title), "Description": printable(alt), "Software": None}
    figure.savefig(out, format="png", dpi=72 * _PNG_SCALE, facecolor=colours["paper"], metadata=said)
    return out.getvalue()


def _style(colours: Colours) -> dict[Any, Any]:
    """matplotlib's settings; newer versions type their keys as literals."""
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 12.0,
        "text.color": colours["ink"],
        "axes.facecolor": "none",
        "axes.edgecolor": colours["line"],
        "axes.labelcolor": colours["soft"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.formatter.limits": (-3, 5),
        "axes.axisbelow": True,
        "xtick.color": colours["soft"],
        "ytick.color": colours["soft"],
        "xtick.major.size": 0.0,
        "ytick.major.size": 0.0,
        "xtick.minor.size": 0.0,
        "ytick.minor.size": 0.0,
        "grid.color": colours["line"],
        "lines.linewidth": 2.0,
        "lines.markersize": 5.0,
    }


def _tree(figure: Figure, colour: Callable[[str], str]) -> ElementTree.Element:
    """matplotlib's SVG without what no viewer needs; ``colour`` says what each of our colours is called."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    referred = set()
    for element in root.iter():
        target = element.get(f"{_XLINK}href", "") + element.get("clip-path", "")
        referred |= set(re.findall(r"#(\w+)", target))
    named = {stand_in: colour(name) for name, stand_in in STAND_INS.items()}
    for element in root.iter():
        _plain(element, referred, named)
    return root


def _plain(element: ElementTree.Element, referred: set[str], named: Mapping[str, str]) -> None:
    """Keep what is seen: no id that nothing refers to, no style but as attributes, no font."""
    name = element.attrib.pop("id", "")
    if name in referred:
        element.set("id", name)
    elif name.startswith(("series-", "interval-", "points-", "floor", "band-", "level-")):
        element.set("data-series", name.removeprefix("series-"))
    if element.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    # Attributes say the same, and a policy that allows no inline style lets them be.
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = declaration.partition(":")
        if value and key.strip() != "font-family":
            for stand_in, colour in named.items():
                value = value.replace(stand_in, colour)
            element.set(key.strip(), value.strip())
    if element.text is not None and not element.text.strip():
        element.text = None
    if element.tail is not None and not element.tail.strip():
        element.tail = None
    if path := element.get("d"):
        element.set("d", " ".join(path.split()))
