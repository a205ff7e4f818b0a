"""What people are shown of the figures: a row for each, a column for each set of texts, and no row of dashes."""

from __future__ import annotations

from mlx_persona.evals import style
from mlx_persona.evals.attribution import Share
from mlx_persona.evals.figures import Figures, table
from mlx_persona.evals.wording import Difference


def test_the_table_has_a_column_per_set_and_a_dash_where_a_figure_has_no_meaning() -> None:
    own = {"letters": Difference(0.02, 0.02, 0.0, None, 900, ())}
    person = Figures(20.0, 0.4, 0.1, 0.0, wording=own, attribution=Share(0.75, (0.7, 0.8), 300))
    others = Figures(30.0, 0.0, 0.2, 0.1, style_interval=(0.15, 0.25), ratio_to_base=1 / 3, wording={})
    parts = {"emoji": 0.1, "no capitals": 0.22, "comma": 0.08}
    found = {"letters": Difference(0.05, 0.03, 0.02, (0.025, 0.0612), 400, ())}
    some, few = Share(0.1, (0.05, 0.2), 40), Share(0.02, (0.01, 0.04), 40)
    base = Figures(90.5, 9.0, 0.4, 0.3, 3.25, 25.79, (0.35, 0.45), 1.0, 0.5, parts, found, some, few)
    columns, rows = table({"person": person, "others": others, "base": base})
    assert columns == ["", "person", "others", "base"]
    assert rows == [
        ["loss (nats per token)", "-", "-", "3.250"],
        ["perplexity", "-", "-", "25.8"],
        ["reply length (median characters)", "20", "30", "90"],
        ["replies cut at the token limit", "-", "-", "50%"],
        ["stock phrases per 100 replies", "0.4", "0.0", "9.0"],
        ["style distance", "0.100", "0.200", "0.400"],
        ["  95 % interval", "-", "0.150–0.250", "0.350–0.450"],
        ["  most of it", "-", "-", "no capitals 55%"],
        ["  above the person's own floor", "0.000", "0.100", "0.300"],
        ["  the same, base = 1", "-", "0.33", "1.00"],
        ["letters, above floor (bits)", "0.000", "-", "0.020"],
        ["  95 % interval", "-", "-", "0.000–0.031"],
        ["attributed to the person", "75%", "-", "10%"],
        ["  95 % interval", "70%–80%", "-", "5%–20%"],
        ["rather the person's than others'", "-", "-", "2%"],
        ["  95 % interval", "-", "-", "1%–4%"],
    ]


def test_where_styles_do_not_differ_nothing_makes_most_of_it() -> None:
    same = Figures(20.0, 0.0, 0.0, 0.0, style_parts=dict.fromkeys(style.FEATURES, 0.0))
    some = Figures(20.0, 0.0, 0.1, 0.1, style_parts=dict.fromkeys(style.FEATURES, 0.1 / len(style.FEATURES)))
    _, rows = table({"same": same, "some": some})
    assert ["  most of it", "-", "characters (log) 4%"] in rows
