"""The table of a report card: known figures first, deeper ones apart, whatever else an evaluation writes down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.report.card import MOST_REPLIES, Card, card_of
from mlx_persona.report.figures import Figure
from mlx_persona.report.reading import read_run
from tests.report.kit import Report, says, truth, written

COLUMN = {
    "new_figure": 7,
    "style_distance": 0.25,
    "style_interval": [0.2, 0.3],
    "loss": None,
    "style_parts": {"emoji": 0.2, "comma": 0.05},
    "attribution": {"share": 0.4, "interval": [0.2, 0.6], "n": 9},
    "leaning": {"share": 0.5, "interval": [0.25, 0.75], "n": 8},
    "gate": {"passed": True, "failed": ["a"], "counts": [1, 2, 3]},
}


def written_card(folder: Path, scores: Any, replies: list[Any]) -> Card:
    """A card of hand-made scores."""
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "replies.jsonl").write_text("".join(json.dumps(one) + "\n" for one in replies))
    return card_of(read_run(folder))


def test_every_number_has_a_row_in_its_order(tmp_path: Path) -> None:
    card = written_card(tmp_path / "eval-1", {"figures": {"person": {"style_distance": 0.1}, "sft": COLUMN}}, [])
    assert card.labels == ["person", "sft"]
    place = "eval-1/scores.json#/figures"
    rows = {row.name + row.meaning: row for row in card.rows()}
    assert [row.name for row in card.rows()] == [
        *("style distance", "95 % interval", "attributed to the person", "95 % interval"),
        *("rather the person's", "95 % interval", "new figure"),
    ]
    distance = rows["style distanceto the person's held-out replies; lower is more alike"]
    assert distance.cells == [
        Figure(0.1, f"{place}/person/style_distance"),
        Figure(0.25, f"{place}/sft/style_distance"),
    ]
    interval = rows["95 % intervalof that share"]
    low, high = (Figure(value, f"{place}/sft/leaning/interval/{i}") for i, value in enumerate((0.25, 0.75)))
    assert interval.cells == [None, (low, high)]
    assert [row.name for row in card.details()] == [
        "style parts / emoji",
        "style parts / comma",
        "attribution / n",
        "leaning / n",
    ]


def test_other_figures_and_notes_of_an_evaluation_are_on_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of an evaluation that knows no person: its columns are ``models``."""
    monkeypatch.chdir(tmp_path)
    scores = {
        "models": {"base": {"ability": {"facts": {"share": 0.25}}}, "adapted": {"ability": {"facts": {"share": 0.5}}}},
        "neutral": {"kl": 0.125, "deep": {"interval": [1.5, 2.5]}},
        "notes": ["too few replies", 3],
        "seed": 5,
    }
    written_card(tmp_path / "runs/probe-1", scores, [{"messages": [], "base": {}}])
    page = Report(written("runs/probe-1"))
    assert "base, adapted answered the same questions" in page.text
    assert "ability / facts / share 0.25 0.5" in page.text
    assert "neutral / kl 0.125 neutral / deep / interval 1.5 to 2.5 seed 5" in page.text
    assert "too few replies" in page.text
    for value, place, shown in page.figures:
        assert float(value) == truth(place, tmp_path)
        assert says(shown, float(value))


@pytest.mark.parametrize("count", [0, 1, 25, 26, 104])
def test_replies_are_spread_over_all_and_the_person_is_first(tmp_path: Path, count: int) -> None:
    lines = [{"prompt": f"p{i}", "base": "b", "person": "real", "score": 3} for i in range(count)]
    card = written_card(tmp_path / "eval-1", {"figures": {}, "replies": [{"prompt": "own", "base": "x"}]}, lines)
    said = card.replies()
    assert len(said) <= MOST_REPLIES
    if not count:
        assert [(one.prompt, list(one.replies)) for one in said] == [("own", [("base", "x")])]
        return
    assert said[0].prompt == "p0"
    assert said[0].replies == [("person", "real"), ("base", "b")]
    assert len({one.prompt for one in said}) == len(said) >= min(count, MOST_REPLIES // 2)


WORDING = {
    "function words": {"distance": 0.03, "floor": 0.01, "above": 0.02, "interval": [0.02, 0.05], "size": 400},
    "letters": {"distance": 0.01, "floor": 0.01, "above": 0.0, "interval": None, "size": 90, "telling": []},
}


def test_wording_has_a_table_of_its_own_and_what_lies_behind_it_is_with_the_details(tmp_path: Path) -> None:
    scores = {"figures": {"person": {"style_distance": 0.1}, "sft": {"style_distance": 0.2, "wording": WORDING}}}
    card = written_card(tmp_path / "eval-1", scores, [])
    place = "eval-1/scores.json#/figures/sft/wording/function words"
    low, high = (Figure(value, f"{place}/interval/{i}") for i, value in enumerate((0.02, 0.05)))
    assert [(row.name, row.form, row.cells) for row in card.wording()[:3]] == [
        ("function words", "loss", [None, Figure(0.03, f"{place}/distance")]),
        ("95 % interval", "loss", [None, (low, high)]),
        ("above the floor", "loss", [None, Figure(0.02, f"{place}/above")]),
    ]
    assert [row.name for row in card.wording()[3:]] == ["letters", "above the floor"]
    assert [row.name for row in card.rows()] == ["style distance"]
    deeper = {f"wording / {measure} / {key}" for measure in WORDING for key in ("floor", "size")}
    assert {row.name for row in card.details()} == deeper


PARTS = {
    "ability": {
        "rows": [
            ["right", {"base": "40.0 % (30.1–50.8)", "sft": "38.5 % (29.0–49.0)"}],
            ["  95 % interval", {"base": "a"}],
            ["  95 % interval", {"base": "<b>"}],
        ],
        "items": 200,
    },
    "odd": {"rows": ["x", ["y"], [1, {}], ["z", []], ["fine", {"sft": 3}]]},
    "none": {"rows": []},
    "wrong": 3,
}


def test_every_part_that_has_rows_is_a_table_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns = {"person": {"loss": None}, "base": {"loss": 2.0}, "sft": {"loss": 1.0}}
    card = written_card(tmp_path / "runs/eval-1", {"figures": columns, "parts": PARTS, "z": 5}, [])
    ability, odd = card.parts()
    assert (ability.name, ability.columns) == ("ability", ["base", "sft"])
    assert [(row.name, row.cells) for row in ability.rows] == [
        ("right", ["40.0 % (30.1–50.8)", "38.5 % (29.0–49.0)"]),
        ("  95 % interval", ["a", None]),
        ("  95 % interval", ["<b>", None]),
    ]
    assert (odd.columns, [row.cells for row in odd.rows]) == (["sft"], [["3"]])
    text = written("runs/eval-1")
    assert "<h3><bdi>ability</bdi></h3>" in text
    assert "<bdi>&lt;b&gt;</bdi>" in text
    page = Report(text)
    assert "right 40.0 % (30.1–50.8) 38.5 % (29.0–49.0)" in page.text
    assert "z 5 parts / ability / items 200" in page.text
    several = Report(written("runs/eval-1", "runs/eval-1"))
    assert "eval-1 sft" in several.text
    assert "38.5 % (29.0–49.0)" in several.text
