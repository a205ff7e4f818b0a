"""Pages from templates: everything that is shown is escaped, and every figure keeps its place."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_persona.errors import PersonaError
from mlx_persona.pages import POLICY, STYLE, printable
from mlx_persona.report import canvas
from mlx_persona.report.charts import LABEL_COLOURS
from mlx_persona.report.figures import shown
from mlx_persona.report.phases import MEANINGS, NAMES
from mlx_persona.report.views import Comparison, RunView, when

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"
REPORT_STYLE = STYLE + (_TEMPLATES / "report.css").read_text(encoding="utf-8")


def run_page(view: RunView) -> str:
    """The page of one run; raises PersonaError where jinja2 is not installed."""
    return _render("run.html", "base.html", view=view, run=view.run)


def run_part(view: RunView) -> str:
    """What stands in the page of one run, for a page that has its own frame and is drawn anew as the run goes on.

    Raises:
        PersonaError: jinja2 is not installed.
    """
    return _render("run.html", "part.html", view=view, run=view.run)


def comparison_page(comparison: Comparison) -> str:
    """The page of several runs; raises PersonaError where jinja2 is not installed."""
    return _render("compare.html", "base.html", view=comparison)


def check_extra() -> None:
    """Check that what pages are made with is installed; raises PersonaError."""
    canvas.check_extra()
    _environment()


def _render(template: str, frame: str, **values: Any) -> str:
    live = frame != "base.html"
    found = _environment().get_template(template)
    return found.render(frame=frame, live=live, policy=POLICY, style=REPORT_STYLE, **values)


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise PersonaError("the report needs jinja2", "pip install 'mlx-persona[report]'") from error

    def clean(value: Any) -> Any:
        if isinstance(value, Markup):
            return value
        return printable(str(value)) if isinstance(value, str | Path) else value

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        shown=shown, when=when, colours=LABEL_COLOURS, phase_meanings=MEANINGS, phase_names=NAMES
    )
    # The style and the charts are our own: made by us, and escaped where they were made.
    environment.filters["ours"] = Markup
    return environment
