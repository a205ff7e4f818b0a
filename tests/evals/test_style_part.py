"""The report card on a tiny model: right loss, right columns, each model loaded once, files whole."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_persona.config import EvalConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals import panel, style
from mlx_persona.evals.attribution import Attribution
from mlx_persona.evals.card import Card
from mlx_persona.evals.figures import Figures
from mlx_persona.evals.lineup import Lineup
from mlx_persona.evals.panel import Asking, Candidate, Panel
from mlx_persona.evals.parts.style import StylePart, mean_loss
from mlx_persona.evals.phrases import stock_phrase_rate
from mlx_persona.evals.wording import Wording
from mlx_persona.evals.words import fitting_list
from mlx_persona.generation import engine
from mlx_persona.models import adapters, load
from mlx_persona.schema import Conversation, Message, read_jsonl, write_jsonl
from mlx_persona.stages import parts
from mlx_persona.stages.parts import Material, make_parts
from mlx_persona.tokens.batches import Row, evenly, make_row
from mlx_persona.tokens.dataset import CLEAN_HINT, load_split
from mlx_persona.tokens.render import Renderer
from tests.toy import save_adapter

REAL = ["yeah im in", "haha no way", "ok ill be there at 6", "nah\nim good", "sooo tired today", "what about you?"]
Engine = Callable[..., list[str]]


def conversation(turns: int, start: int = 0) -> Conversation:
    """User and assistant in turn; the person's third reply is context only."""
    messages = []
    for i in range(turns):
        messages.append(Message("user", f"question {start + i}, friend?"))
        messages.append(Message("assistant", REAL[(start + i) % len(REAL)], train=i != 2))
    return Conversation(tuple(messages))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six held-out conversations with 4 trained replies each."""
    write_jsonl(tmp_path / "data" / "test.jsonl", [conversation(5, start) for start in range(6)])
    return tmp_path / "data"


@pytest.fixture
def train(data: Path) -> Path:
    """Training conversations beside them: 60 exchanges in which both write much alike."""
    theirs = ["So I will.", "I am tired.", "I will come at five.", "No. I'm ok.", "And what of you?", "Where will you?"]
    pairs = [(Message("user", theirs[i % 6]), Message("assistant", REAL[i % 6])) for i in range(60)]
    talks = [Conversation(tuple(m for pair in pairs[i : i + 6] for m in pair)) for i in range(0, 60, 6)]
    write_jsonl(data / "train.jsonl", talks)
    return data


@pytest.fixture
def adapter(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """An adapter for the tiny model that changes what it says."""
    loaded = load.load_model(str(tiny_model_dir))
    spec = adapters.AdapterSpec(rank=2, scale=2.0, dora=False, base=loaded.identity)
    spec = adapters.attach(loaded.model, spec)
    weights = {
        name: mx.random.normal(value.shape, key=mx.random.key(i)) * 0.3
        for i, (name, value) in enumerate(sorted(adapters.trainable(loaded.model).items()))
    }
    save_adapter(tmp_path / "adapter", weights, spec)
    return tmp_path / "adapter"


def config(data: Path, **values: Any) -> EvalConfig:
    small = {"n": 12, "max_tokens": 8, "max_seq_length": 128, "batch_size": 4}
    return EvalConfig(data=str(data), out=str(data / "out"), parts=("style",), **{**small, **values})


def report_card(config: EvalConfig, candidates: Sequence[Candidate], system: str) -> tuple[Card, list[str]]:
    """The card of some candidates under one system message, and what could not be measured."""
    material = Material.read(config)
    (part,) = make_parts(config, material, Candidate("base", "", None, system))
    assert isinstance(part, StylePart)
    sampling = engine.Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
    who = [replace(one, system=system) for one in candidates]
    answers = Panel(who, [part], Asking(sampling, config.batch_size)).ask(Path(config.out))
    return part.card(answers["style"]), material.notes


def numpy_loss(model: Any, rows: Sequence[Row]) -> float:
    """Mean of -log softmax at exactly the masked tokens, one row at a time and in float64."""
    total, count = 0.0, 0
    for row in rows:
        logits = np.array(model(mx.array(row.ids)[None])[0].astype(mx.float32)).astype(np.float64)
        for t in range(1, len(row.ids)):
            if row.mask[t]:
                before = logits[t - 1]
                top = before.max()
                total += top + math.log(np.exp(before - top).sum()) - before[row.ids[t]]
                count += 1
    return total / count


def test_the_loss_is_the_mean_over_exactly_the_masked_tokens(tiny_model_dir: Path) -> None:
    loaded = load.load_model(str(tiny_model_dir))
    renderer = Renderer(loaded.tokenizer)
    drawn = [renderer.render(conversation(1 + i % 4, i).messages) for i in range(11)]
    rows = [make_row(d.ids, d.mask) for d in drawn if d is not None]
    done: list[int] = []
    assert mean_loss(loaded.model, rows, done.append) == pytest.approx(numpy_loss(loaded.model, rows), abs=1e-4)
    assert done == [8, 3]


def test_every_figure_is_what_its_definition_says(
    tiny_model_dir: Path, adapter: Path, train: Path, asked: list[dict[str, Any]]
) -> None:
    who = [Candidate("base", str(tiny_model_dir)), Candidate("sft", str(tiny_model_dir), adapter)]
    made, notes = report_card(config(train, max_seq_length=192), who, "be kind")
    real = [REAL[(start + i) % len(REAL)] for start in range(6) for i in (0, 1, 3, 4)]
    others = [f"question {start + i}, friend?" for start in range(6) for i in range(5)]
    others = [others[i] for i in evenly(30, 12)]
    base, sft, person = made.figures["base"], made.figures["sft"], made.figures["person"]
    said = made.replies["base"]
    assert list(made.figures) == ["person", "others", "base", "sft"]
    assert said == ["Certainly! I'd be happy to help. " + "word " * 7 + "word"] * 12
    assert made.replies.keys() == {"base", "sft"}
    assert made.replies["sft"] == ["yeah im in"] * 12
    assert made.references == 24
    assert made.floor == style.split_half_floor(real, 12)
    judge, ours = Attribution(load_split(train, "train")), Wording(real, fitting_list(REAL))
    assert made.attribution == judge.training
    among = Lineup(real, judge, 12)
    assert person == Figures(
        *(median(map(len, real)), 0.0, made.floor, 0.0),
        wording=ours.own(),
        attribution=among.own(),
        leaning=judge.share(real),
    )
    assert base.median_chars == len(said[0])
    assert base.stock_phrases == stock_phrase_rate(said) == 200.0
    assert sft.stock_phrases == 0.0
    assert made.figures["others"].style_distance == style.distance(real, others)
    assert made.figures["others"].wording == ours.compare(others)
    passing = made.figures["others"].attribution, made.figures["others"].leaning
    assert passing == (among.share(others), judge.share(others))
    assert base.style_distance == style.distance(real, said)
    assert base.style_parts == style.contributions(real, said)
    assert base.style_interval == style.bootstrap_interval(real, said)
    assert base.above_floor == base.style_distance - made.floor
    assert base.ratio_to_base == 1.0
    assert sft.ratio_to_base == max(0.0, sft.style_distance - made.floor) / base.above_floor
    assert (base.cut_share, sft.cut_share, made.figures["others"].cut_share) == (1.0, 0.0, None)
    assert base.wording == ours.compare(said, [True] * 12)  # its replies were broken off: no closings
    assert "closings" in (sft.wording or {})
    assert base.attribution == among.share(said, [True] * 12)
    assert (sft.attribution, sft.leaning) == (among.share(["yeah im in"] * 12), judge.share(["yeah im in"] * 12))
    # It says what they say, and nothing else.
    assert sft.leaning.share == 1.0
    assert sft.attribution is not None
    assert person.attribution is not None
    assert sft.attribution.share < person.attribution.share
    assert notes == []
    loaded = load.load_model(str(tiny_model_dir))
    renderer = Renderer(loaded.tokenizer, system="be kind")
    drawn = [renderer.render(conversation(5, start).messages, 192) for start in range(6)]
    rows = [make_row(d.ids, d.mask) for d in drawn if d is not None]
    assert made.loss_tokens == sum(row.targets for row in rows)
    assert base.loss == pytest.approx(numpy_loss(loaded.model, rows), abs=1e-4)
    assert base.perplexity == math.exp(base.loss or 0)
    adapters.load_adapter(loaded.model, adapter, loaded.identity)
    assert sft.loss == pytest.approx(numpy_loss(loaded.model, rows), abs=1e-4)
    assert sft.loss != pytest.approx(base.loss, abs=1e-2)


def test_prompts_end_before_real_replies_and_are_spread_over_the_data(
    tiny_model_dir: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    made, _ = report_card(config(data), [Candidate("base", str(tiny_model_dir))], "be kind")
    places = [(start, i) for start in range(6) for i in (0, 1, 3, 4)][::2]
    assert [one.real for one in made.asked] == [REAL[(start + i) % len(REAL)] for start, i in places]
    assert [len(one.before) for one in made.asked] == [2 * i + 1 for _, i in places]
    renderer = Renderer(load.load_tokenizer(tiny_model_dir), system="be kind")
    assert asked[0]["prompts"] == [renderer.prompt(one.before, 120) for one in made.asked]
    assert asked[0]["sampling"] == engine.Sampling(8, 0.8, 0.95, 0)
    assert max(map(len, asked[0]["prompts"])) <= 120


def test_each_model_is_loaded_once_and_adapters_come_off_again(
    tiny_model_dir: Path,
    adapter: Path,
    data: Path,
    tmp_path: Path,
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []

    def load_model(name: str) -> load.LoadedModel:
        opened.append(name)
        return load.load_model(name)

    monkeypatch.setattr(panel, "load_model", load_model)
    one, two = str(tiny_model_dir), str(tmp_path / "two")
    Path(two).symlink_to(tiny_model_dir)
    candidates = [
        Candidate("sft", one, adapter),
        Candidate("fused", two),
        Candidate("base", one),
        Candidate("dpo", one, adapter),
    ]
    made, _ = report_card(config(data), candidates, "")
    assert opened == [one, two]
    assert [call["adapted"] for call in asked] == [True, False, True, False]  # sft, base, dpo; fused
    assert list(made.figures) == ["person", "others", "sft", "fused", "base", "dpo"]
    assert all(call["prompts"] == asked[0]["prompts"] and call["sampling"] == asked[0]["sampling"] for call in asked)
    assert made.figures["sft"] == made.figures["dpo"]
    assert made.figures["base"] == made.figures["fused"]


def test_the_card_is_written_whole_and_reads_back(
    tiny_model_dir: Path, data: Path, tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    made, notes = report_card(config(data), [Candidate("base", str(tiny_model_dir))], "")
    made.write(tmp_path / "out")
    scores = json.loads(json.dumps(made.to_json()))
    lines = [value for _, value in read_jsonl(tmp_path / "out" / "replies.jsonl")]
    assert (scores["n"], scores["data"], scores["floor"]) == (12, str(data / "test.jsonl"), made.floor)
    assert scores["figures"]["base"]["loss"] == made.figures["base"].loss
    assert scores["figures"]["person"]["loss"] is None
    letters = scores["figures"]["base"]["wording"]["letters"]
    assert letters.keys() == {"distance", "floor", "above", "interval", "size", "telling"}
    assert scores["attribution"] is None
    assert notes == [
        f"nothing is compared with training replies: no data: {data / 'train.jsonl'} is missing; {CLEAN_HINT}"
    ]
    assert len(scores["replies"]) == 5
    assert len(lines) == 12
    assert lines[0] == {"prompt": "question 0, friend?", "person": "yeah im in", "base": made.replies["base"][0]}


def test_the_real_engine_fills_a_card_and_repeats_it_exactly(tiny_model_dir: Path, train: Path) -> None:
    candidates = [Candidate("base", str(tiny_model_dir))]
    once, twice = (report_card(config(train, n=10, max_tokens=4), candidates, "")[0].to_json() for _ in range(2))
    assert once == twice
    assert len(once["replies"]) == 5


def test_without_the_library_the_card_says_so_and_goes_on(
    tiny_model_dir: Path,
    train: Path,
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    made, notes = report_card(config(train), [Candidate("base", str(tiny_model_dir))], "")
    note = "no attribution: telling whose text it is needs scikit-learn; pip install 'mlx-persona[eval]'"
    assert notes == [note]
    assert made.attribution is made.figures["base"].attribution is made.figures["base"].leaning is None
    assert "attributed to the person" not in [row[0] for row in made.table()[1]]
    assert made.figures["base"].wording


def test_function_words_are_those_that_the_user_names(
    tiny_model_dir: Path, train: Path, tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    (tmp_path / "mine.txt").write_text("yeah nah ok")
    named = config(train, function_words=str(tmp_path / "mine.txt"))
    made, _ = report_card(named, [Candidate("base", str(tiny_model_dir))], "")
    found = made.figures["base"].wording or {}
    assert {one.item for one in found["function words"].telling} <= {"yeah", "nah", "ok"}
    with pytest.raises(PersonaError, match="cannot read the function words in nowhere"):
        report_card(config(train, function_words="nowhere"), [Candidate("base", "nowhere")], "")


def test_a_language_without_a_list_is_named(
    tiny_model_dir: Path, data: Path, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "fitting_list", lambda texts: None)
    made, notes = report_card(config(data), [Candidate("base", str(tiny_model_dir))], "")
    assert any("--function-words" in note for note in notes)
    assert "function words" not in (made.figures["base"].wording or {})


def test_without_a_base_there_is_no_ratio(tiny_model_dir: Path, data: Path, asked: list[dict[str, Any]]) -> None:
    made, _ = report_card(config(data), [Candidate("fused", str(tiny_model_dir))], "")
    assert made.figures["fused"].ratio_to_base is None


def test_valid_stands_in_for_a_missing_or_empty_test_file(
    tiny_model_dir: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    (data / "test.jsonl").rename(data / "valid.jsonl")
    (data / "test.jsonl").touch()
    made, _ = report_card(config(data), [Candidate("base", str(tiny_model_dir))], "")
    assert made.data == str(data / "valid.jsonl")


def test_no_held_out_data_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"must hold held-out replies in test\.jsonl or valid\.jsonl") as caught:
        report_card(config(tmp_path), [Candidate("base", "nowhere")], "")
    assert "mlx-persona clean" in (caught.value.hint or "")


def test_a_single_reply_is_an_error_before_any_model_is_loaded(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [conversation(1)])
    with pytest.raises(PersonaError, match="at least 2 replies that answer something, got 1"):
        report_card(config(tmp_path), [Candidate("base", "nowhere")], "")


def test_three_replies_have_wide_intervals_and_a_warning(
    tiny_model_dir: Path, adapter: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    who = [Candidate("sft", str(tiny_model_dir), adapter)]
    many, _ = report_card(config(data), who, "")
    write_jsonl(data / "test.jsonl", [conversation(1, start) for start in range(3)])
    few, notes = report_card(config(data), who, "")
    widths = [high - low for low, high in (made.figures["sft"].style_interval or (0, 0) for made in (few, many))]
    assert widths[0] > 2 * widths[1]
    assert notes[0] == "only 3 held-out replies: the intervals are wide, and nothing is proved"


@pytest.mark.parametrize("labels", [["base", "base"], ["person"], ["others"]])
def test_labels_must_tell_the_columns_apart(labels: list[str], data: Path) -> None:
    with pytest.raises(PersonaError, match="names of their own"):
        report_card(config(data), [Candidate(label, "nowhere") for label in labels], "")


def test_prompts_are_cut_to_the_length_of_a_row(tiny_model_dir: Path, data: Path, asked: list[dict[str, Any]]) -> None:
    lengths = []
    for limit in (512, 32):
        report_card(config(data, max_seq_length=limit, max_tokens=64), [Candidate("base", str(tiny_model_dir))], "")
        lengths.append([len(prompt) for prompt in asked[-1]["prompts"]])
    assert lengths[1] != lengths[0]
    assert max(lengths[1]) <= 32 < max(lengths[0])


def test_candidates_of_different_tokenizers_are_not_compared(
    tiny_model_dir: Path, data: Path, tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model_dir, other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    template = other / "chat_template.jinja"
    if template.is_file():
        template.write_text(template.read_text().replace("\n", "\n\n"))
    else:
        settings["chat_template"] = settings["chat_template"].replace("\n", "\n\n")
        (other / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(PersonaError, match=r"must share a tokenizer and a chat template; .*other differs"):
        report_card(config(data), [Candidate("base", str(tiny_model_dir)), Candidate("fused", str(other))], "")


def test_a_longer_system_message_takes_no_room_from_the_conversation(
    tiny_model_dir: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    """The prompted base sees as much of what was said as the others, under its own message."""
    settings = config(data, max_seq_length=32)
    (part,) = make_parts(settings, Material.read(settings), Candidate("base", ""))
    name = str(tiny_model_dir)
    who = [Candidate("base", name), Candidate("prompted", name, None, "You are Ann, who says little. " * 4)]
    found = Panel(who, [part], Asking(engine.Sampling(8, 0.8, 0.95, 0), 4)).ask(data / "out")
    plain, prompted = ([list(prompt) for prompt in call["prompts"]] for call in asked)
    renderer = Renderer(load.load_tokenizer(tiny_model_dir))
    hello = (Message("user", "hello"),)
    extra = len(Renderer(load.load_tokenizer(tiny_model_dir), system=who[1].system).prompt(hello)) - len(
        renderer.prompt(hello)
    )
    assert extra > 20
    assert all(len(long) - len(short) == extra for short, long in zip(plain, prompted, strict=True))
    assert set(found["style"]) == {"base", "prompted"}
