"""Pages from templates: everything that is shown is escaped, and every figure keeps its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_persona.errors import PersonaError
from mlx_persona.pages import POLICY, STYLE, printable
from mlx_persona.report.charts import LABEL_COLOURS
from mlx_persona.report.figures import shown
from mlx_persona.report.views import Comparison, RunView, when

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def run_page(view: RunView) -> str:
    """The page of one run; raises PersonaError where jinja2 is not installed."""
    return _render("run.html", view=view, run=view.run)


def comparison_page(comparison: Comparison) -> str:
    """The page of several runs; raises PersonaError where jinja2 is not installed."""
    return _render("compare.html", view=comparison)


def _render(template: str, **values: Any) -> str:
    style = STYLE + (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    return _environment().get_template(template).render(policy=POLICY, style=style, **values)


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
    environment.globals.update(shown=shown, when=when, colours=LABEL_COLOURS)
    # The style and the charts are our own: made by us, and escaped where they were made.
    environment.filters["ours"] = Markup
    return environment
