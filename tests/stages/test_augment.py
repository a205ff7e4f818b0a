"""Tasks beside the plain reply: what is asked, what is learnt from it, what is dropped, and training on it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest

from mlx_persona import cli, ui
from mlx_persona.config import AugmentConfig, SftConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.generation.engine import Reply, Sampling
from mlx_persona.models import adapters
from mlx_persona.models.load import load_tokenizer
from mlx_persona.runs import file_hash
from mlx_persona.schema import Conversation, Message, read_conversations, write_jsonl
from mlx_persona.stages import augment as stage
from mlx_persona.stages.augment import NEUTRAL, SAY, SYSTEMS, AugmentResult, augment, paraphrase
from mlx_persona.stages.sft import sft
from mlx_persona.tokens.render import Renderer
from tests.toy import events, info, sft_config, write_data, write_model

LONG = "and that is what I think about it"


def talk(name: str, exchanges: int, *first: Message) -> Conversation:
    """A conversation of so many exchanges, after ``first``; the second reply is not trained on."""
    messages = list(first)
    for i in range(exchanges):
        said = f"{name} answers {i}, {LONG}"
        messages += [Message("user", f"{name} asks {i}"), Message("assistant", said, train=i != 1)]
    return Conversation(tuple(messages), {"id": name})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(tmp_path: Path, model: Path) -> AugmentConfig:
    """Twelve replies for training and two for validation, of both tasks."""
    write_jsonl(tmp_path / "clean/train.jsonl", [talk(f"t{i}", 4) for i in range(6)])
    write_jsonl(tmp_path / "clean/valid.jsonl", [talk(f"v{i}", 3) for i in range(3)])
    quick: dict[str, Any] = {"n": 12, "max_tokens": 300, "batch_size": 8, "temperature": 1.5}
    return AugmentConfig(model=str(model), data=str(tmp_path / "clean"), out=str(tmp_path / "augmented"), **quick)


def files(config: AugmentConfig) -> dict[str, str]:
    """What the stage wrote, but for the report."""
    return {p.name: p.read_text() for p in sorted(Path(config.out).iterdir()) if p.name != "report.json"}


def read(config: AugmentConfig, split: str = "train", task: str | None = None) -> list[Conversation]:
    """The conversations of a split (and task)."""
    found = read_conversations(Path(config.out) / f"{split}.jsonl")
    return [c for c in found if task in (None, c.meta["task"])]


def written_by(monkeypatch: pytest.MonkeyPatch, write: Callable[[int], Reply]) -> list[int]:
    """Let ``write(row)`` write the replies in the model's stead; returns the rows asked for, as they come."""
    asked: list[int] = []

    def fake(loaded: Any, prompts: Sequence[Any], *args: Any, rows: Sequence[int], on_reply: Any, **rest: Any) -> None:
        for i, row in enumerate(rows):
            asked.append(row)
            on_reply(i, write(row))

    monkeypatch.setattr(stage, "replies", fake)
    monkeypatch.setattr(stage, "load_model", lambda name: None)
    return asked


def said(text: str) -> Callable[[int], Reply]:
    """A writer that numbers its replies."""
    return lambda row: Reply(f" {text} {row}\n", cut=False)


def test_a_rewrite_leads_from_neutral_words_to_the_real_message(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by(monkeypatch, said("A neutral text"))
    result = augment(replace(config, tasks=("rewrite",), weight=0.25))
    train, valid = read(config), read(config, "valid")
    assert (result.train, result.valid) == (len(train), len(valid)) == (12, 2)
    for number, conversation in enumerate((*train, *valid)):
        name = conversation.meta["from"]
        assert conversation.meta == {"task": "rewrite", "from": name, "weight": 0.25}
        asked, real = conversation.messages
        assert asked == Message("user", f"Say this the way I would: A neutral text {number}")
        assert real.role == "assistant"
        assert real.content in {f"{name} answers {i}, {LONG}" for i in (0, 2, 3)}
    assert sorted(files(config)) == ["train.jsonl", "valid.jsonl"]


def test_a_contrastive_conversation_is_the_base_models_own_in_another_role(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by(monkeypatch, said("A plain reply"))
    augment(replace(config, tasks=("contrastive",)))
    train = read(config)
    for number, conversation in enumerate(train):
        name = conversation.meta["from"]
        assert conversation.meta == {"task": "contrastive", "from": name, "weight": 0.5}
        system, user, reply = conversation.messages
        assert system == Message("system", SYSTEMS[number])
        assert user.role == "user"
        assert user.content in {f"{name} asks {i}" for i in (0, 2, 3)}
        assert reply == Message("assistant", f"A plain reply {number}")
    assert len(train) == len(SYSTEMS) == 12


def test_no_conversation_crosses_from_one_split_to_the_other(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by(monkeypatch, said("A reply"))
    augment(replace(config, n=100, n_valid=100))
    for task in ("rewrite", "contrastive"):
        assert {c.meta["from"] for c in read(config, "train", task)} == {f"t{i}" for i in range(6)}
        assert {c.meta["from"] for c in read(config, "valid", task)} == {f"v{i}" for i in range(3)}
        assert len(read(config, "valid", task)) == 6
    assert not {c.messages[-1].content for c in read(config, "train", "rewrite")} & {
        c.messages[-1].content for c in read(config, "valid", "rewrite")
    }


def test_the_base_model_is_asked_under_no_system_message_of_the_persons(config: AugmentConfig, model: Path) -> None:
    renderer = Renderer(load_tokenizer(model))
    system = "You are Ann."
    write_jsonl(Path(config.data) / "train.jsonl", [talk(f"t{i}", 2, Message("system", system)) for i in range(6)])
    items = stage._plan(replace(config, system=system)).items
    for item in items:
        assert item.prompt == tuple(renderer.prompt(item.asked))
        assert system not in {m.content for m in item.asked}
    first = items[0]
    assert first.asked == (Message("system", ""), Message("user", NEUTRAL.format(first.real)))
    assert first.messages == (Message("system", system),)  # learnt where the person speaks
    assert first.real.endswith(LONG)


def systems(config: AugmentConfig) -> list[str]:
    """The system messages that contrastive items of the training split stand under, in order."""
    items = stage._plan(replace(config, tasks=("contrastive",))).items
    return [item.asked[0].content for item in items if item.split == "train"]


def test_under_a_system_message_of_the_persons_every_other_contrast_has_none(
    config: AugmentConfig, tmp_path: Path
) -> None:
    assert systems(config) == list(SYSTEMS)  # the person speaks without one: there is no contrast in that
    one, two = SYSTEMS[:2]
    found = systems(replace(config, system=one))
    assert found[::2] == [""] * 6
    assert found[1::2] == list(SYSTEMS[1:7])
    write_jsonl(tmp_path / "clean/train.jsonl", [talk(f"t{i}", 4, Message("system", two)) for i in range(6)])
    # The held-out conversations get the common message of the others, as in sft.
    assert systems(config) == [text for other in (one, *SYSTEMS[2:7]) for text in ("", other)]
    mixed = [talk("t0", 2), talk("t1", 2), talk("t2", 2, Message("system", one))]
    write_jsonl(tmp_path / "clean/train.jsonl", mixed * 10)
    assert systems(config) == [*SYSTEMS[1:], SYSTEMS[1]]
    write_jsonl(tmp_path / "clean/train.jsonl", [talk("t", 2, Message("system", s)) for s in (*SYSTEMS, "")])
    with pytest.raises(PersonaError, match="under every system message"):
        systems(config)


def test_no_system_message_stays_none_in_a_run_under_one(model: Path) -> None:
    """What is written as empty is not filled in with the run's own."""
    tokenizer = load_tokenizer(model)
    turns = (Message("user", "hi"), Message("assistant", "hello"))
    rendered = Renderer(tokenizer, system="You are Ann.").render((Message("system", ""), *turns))
    assert rendered == Renderer(tokenizer).render(turns)


@pytest.mark.parametrize("torn", ["", '{"reply": 3, "te'])
def test_an_interrupted_run_continues_to_the_same_files(
    config: AugmentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str
) -> None:
    whole = replace(config, out=str(tmp_path / "whole"))
    done = augment(whole)
    assert done.tasks["contrastive"]["train"] >= 2  # some random replies do end
    write, asked, seen = stage.replies, [], []

    def stopping(loaded: Any, prompts: Any, *args: Any, rows: Any, on_reply: Any, **rest: Any) -> None:
        asked.append(len(rows))

        def some(index: int, reply: Reply) -> None:
            on_reply(index, reply)
            seen.append(index)
            if len(seen) == 16:
                raise KeyboardInterrupt

        write(loaded, prompts, *args, rows=rows, on_reply=some, **rest)

    monkeypatch.setattr(stage, "replies", stopping)
    with pytest.raises(Interrupted, match=r"stopped: 16 of 28 replies are kept") as caught:
        augment(config)
    assert caught.value.hint == "the same command continues from there"
    assert list(files(config)) == ["partial.jsonl"]
    with (Path(config.out) / "partial.jsonl").open("a") as file:
        file.write(torn)
    result = augment(config)
    assert asked == [14, 14, 0, 12]
    assert files(config) == files(whole)
    assert result == replace(done, path=result.path, seconds=result.seconds)


@pytest.mark.parametrize(
    "odd", ["", "[]", "7", '{"reply": "x", "text": "", "cut": false}', '{"reply": 1, "text": "a"}', "\x00", "\udcff"]
)
def test_kept_replies_are_read_up_to_the_first_line_that_is_none(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    asked = written_by(monkeypatch, said("A reply"))
    lines = [
        json.dumps({"key": stage._plan(config).key}),
        *(json.dumps({"reply": row, "text": "Kept", "cut": False}) for row in (3, -1, 28)),
        odd,
        json.dumps({"reply": 4, "text": "Behind", "cut": False}),
    ]
    partial = Path(config.out) / "partial.jsonl"
    partial.parent.mkdir()
    partial.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    augment(config)
    assert asked == [row for row in range(28) if row != 3]
    assert read(config)[3].messages[0].content == SAY.format("Kept")
    assert "Behind" not in files(config)["train.jsonl"]


def test_paraphrases_are_the_likeliest_and_contrastive_replies_are_drawn(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, Sampling]] = []

    def fake(loaded: Any, prompts: Any, sampling: Sampling, *, rows: Any, on_reply: Any, **rest: Any) -> None:
        drawn.append((len(rows), sampling))
        for i in range(len(rows)):
            on_reply(i, Reply("A reply", cut=False))

    monkeypatch.setattr(stage, "replies", fake)
    monkeypatch.setattr(stage, "load_model", lambda name: None)
    augment(replace(config, top_p=0.8, seed=3))
    assert drawn == [(14, Sampling(300, 0.0, 0.8, 3)), (14, Sampling(300, 1.5, 0.8, 3))]


def test_the_batch_size_changes_no_reply(config: AugmentConfig, tmp_path: Path) -> None:
    augment(replace(config, tasks=("contrastive",), n=4))
    other = replace(config, tasks=("contrastive",), n=4, out=str(tmp_path / "other"), batch_size=1)
    augment(other)
    assert files(other) == files(config)


def test_another_key_starts_afresh(config: AugmentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = written_by(monkeypatch, said("A reply"))
    first = augment(config)
    assert len(asked) == 28
    changes: tuple[dict[str, Any], ...] = (
        *({"seed": 1}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_tokens": 7}, {"system": "Be brief."}),
        *({"n": 11}, {"max_similarity": 0.5}, {"weight": 1.0}, {"tasks": ("rewrite",)}),
    )
    for changed in changes:
        before = len(asked)
        assert not augment(replace(config, **changed)).reused
        assert len(asked) > before
    augment(config)
    before = len(asked)
    again = augment(replace(config, batch_size=1))
    assert len(asked) == before
    assert again.reused
    assert replace(again, seconds=0.0, reused=False) == replace(first, seconds=0.0)
    report = json.loads((Path(config.out) / "report.json").read_text())
    assert report["tasks"] == first.tasks
    assert report["model"] == config.model
    (Path(config.out) / "valid.jsonl").unlink()
    assert not augment(config).reused


@pytest.mark.parametrize("text", ["", "[]", "null", '{"key": 1}', "\udcff"])
def test_a_report_that_is_none_is_no_report(config: AugmentConfig, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    written_by(monkeypatch, said("A reply"))
    augment(config)
    (Path(config.out) / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert not augment(config).reused


REAL = "nah cant make it today sry, tmrw?"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("I cannot come today. Tomorrow?", ("I cannot come today. Tomorrow?", "")),
        ('"I cannot come today."\n', ("I cannot come today.", "")),
        ("“I cannot come today.”\n\nThis is more neutral.", ("I cannot come today.", "")),
        ('"Today" is not possible for me.', ('"Today" is not possible for me.', "")),
        ("Here is the rewritten message:\n\nI cannot come today.", ("I cannot come today.", "")),
        ("Sure! Here’s a neutral version: I cannot come today.", ("I cannot come today.", "")),
        ('The message is: "I cannot come today."', ("I cannot come today.", "")),
        ("Die Nachricht lautet:\n„Ich kann heute nicht.“", ("Ich kann heute nicht.", "")),
        ('Rewrite: "I cannot come today."\n\nThis version is more direct.', ("I cannot come today.", "")),
        ("Message: I cannot come today.", ("I cannot come today.", "")),
        ("I cannot come today: too much work.\nTomorrow?", ("I cannot come today: too much work.\nTomorrow?", "")),
        ("Sure, here is your message rewritten", ("Sure, here is your message rewritten", "stock")),
        ("Here is it", ("Here is it", "stock")),
        ("I have rewritten it", ("I have rewritten it", "stock")),
        ("I'm sorry, but I can't do it", ("I'm sorry, but I can't do it", "stock")),
        ("I cannot assist with this", ("I cannot assist with this", "stock")),
        ("Thank you for sharing, how can I help?", ("Thank you for sharing, how can I help?", "stock")),
        ("Nah, cant make it today sry.\nTmrw?", ("Nah, cant make it today sry.\nTmrw?", "similar")),
        (" \n", ("", "empty")),
        ('""', ("", "empty")),
        ("word " * 30, (("word " * 30).strip(), "rambling")),
    ],
)
def test_paraphrases_are_freed_of_what_stands_around_them(written: str, expected: tuple[str, str]) -> None:
    assert paraphrase(Reply(written, cut=False), REAL, 0.9) == expected
    assert paraphrase(Reply(written, cut=True), REAL, 0.9)[1] == "cut"


@pytest.mark.parametrize(
    ("written", "real"),
    [
        ("Here is the point: I am leaving tomorrow", "heres the point: im off tmrw"),
        ("I am sorry, but I cannot come", "sorry, i can't come tmrw"),
        ('"Jaws" is the film for me', '"Jaws" is my fav'),
        ("We need these things:\nmilk", "need:\nmilk and so on"),
        ("Feel free to come with us", "feel free to come along lol"),
    ],
)
def test_what_the_person_says_as_well_is_no_stock_phrase(written: str, real: str) -> None:
    assert paraphrase(Reply(written, cut=False), real, 0.9) == (written, "")


def test_dropped_replies_are_counted_by_task(config: AugmentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    items = stage._plan(config).items
    assert [item.task for item in items] == ["rewrite"] * 14 + ["contrastive"] * 14
    special = {
        0: Reply(items[0].real.upper(), cut=False),
        1: Reply("half a", cut=True),
        2: Reply(" ", cut=False),
        3: Reply("Sure, here is", cut=False),
        12: Reply("word " * 99, cut=False),
        14: Reply("half a", cut=True),
        15: Reply("", cut=False),
    }
    written_by(monkeypatch, lambda row: special.get(row, Reply(f"Sure, here is {row}" if row > 13 else "Yes", False)))
    result = augment(config)
    assert result.tasks == {
        "rewrite": {
            "train": 8,
            "valid": 1,
            "dropped": {"empty": 1, "cut": 1, "similar": 1, "stock": 1, "rambling": 1},
            "skipped": {"short": 0, "placeholder": 0, "long": 0},
        },
        "contrastive": {
            "train": 10,
            "valid": 2,
            "dropped": {"empty": 1, "cut": 1},
            "skipped": {"empty": 0, "long": 0},
        },
    }
    assert (result.train, result.valid) == (18, 3)
    shown = result.to_json()
    assert json.loads(json.dumps(shown)) == shown


def test_what_does_not_suit_a_task_is_skipped_and_another_taken(config: AugmentConfig) -> None:
    def exchange(user: str, real: str) -> Conversation:
        return Conversation((Message("user", user), Message("assistant", real)))

    odd = [
        exchange("a", "x" * 19),
        exchange("b", f"[NAME_3] {LONG}"),
        exchange("  ", f"no question, {LONG}"),
        exchange("c " * 400, f"a long question, {LONG}"),
        exchange("d", "a long answer " * 80),
    ]
    write_jsonl(Path(config.data) / "train.jsonl", [*odd, talk("t", 1)])
    job = stage._plan(config)
    assert {task: dict(counts) for task, counts in job.skipped.items()} == {
        "rewrite": {"short": 1, "placeholder": 1, "long": 1},
        "contrastive": {"empty": 1, "long": 1},
    }
    train = [item for item in job.items if item.split == "train"]
    assert Counter(item.task for item in train) == {"rewrite": 3, "contrastive": 4}
    assert max(len(item.prompt) for item in train) <= 1024 - 300
    few = stage._plan(replace(config, n=1, tasks=("rewrite",)))
    assert len([i for i in few.items if i.split == "train"]) <= 1
    everything = stage._plan(replace(config, min_chars=1, tasks=("rewrite",)))
    assert everything.skipped["rewrite"]["short"] == 0


def test_the_same_seed_asks_the_same(config: AugmentConfig) -> None:
    few = replace(config, n=3)
    assert stage._plan(few) == stage._plan(few)
    assert stage._plan(few).items != stage._plan(replace(few, seed=1)).items


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "nowhere"}, "no data: nowhere/train.jsonl is missing"),
        ({"min_chars": 1000}, r"no exchange for the task rewrite \(skipped: 24 short\)"),
        ({"max_seq_length": 40, "max_tokens": 30}, "no prompt fits in 40 tokens with a reply of 30"),
    ],
)
def test_bad_input_is_an_error(config: AugmentConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PersonaError, match=message):
        augment(replace(config, **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ()}, "tasks must name at least one of rewrite, contrastive, got none"),
        ({"tasks": ("sing",)}, "tasks must be one of rewrite, contrastive, got 'sing'"),
        ({"weight": 0.0}, "weight must be > 0.0, got 0.0"),
        ({"max_similarity": 1.5}, "max_similarity must be <= 1.0, got 1.5"),
        ({"n": 0}, "n must be >= 1, got 0"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PersonaError, match=message):
        AugmentConfig(**options)


def test_nothing_left_is_an_error_and_little_a_warning(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ui.set_quiet(False)
    written_by(monkeypatch, lambda row: Reply("", cut=False))
    with pytest.raises(PersonaError, match=r"nothing is left .* \(rewrite: 14 empty, contrastive: 14 empty\)"):
        augment(config)
    written_by(monkeypatch, lambda row: Reply("a reply", cut=row < 14))
    augment(replace(config, seed=1))
    assert "no rewrite conversation is left for training (dropped: 14 cut)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished SFT run under a system message."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs") / "sft-1"
    sft(sft_config(model, write_data(data), out, updates=1, eval_every=1, system="You are Ann."))
    return out


def test_the_newest_run_tells_the_model_and_the_persons_system_message(
    config: AugmentConfig, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stage._base(replace(config, model="")) == (SftConfig().model, "")
    shutil.copytree(run, tmp_path / "runs/sft-1")
    assert stage._base(config) == (config.model, "")
    assert stage._base(replace(config, model="")) == (config.model, "You are Ann.")
    assert systems(replace(config, model="")) == systems(replace(config, system="You are Ann.")) != systems(config)


def test_the_command_prints_the_folder_or_one_object(
    config: AugmentConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written_by(monkeypatch, said("A reply"))
    ui.set_quiet(False)
    args = ["augment", "--model", config.model, "--data", config.data, "--out", config.out, "--n", "3"]
    assert cli._status(args) == 0
    out, err = capsys.readouterr()
    assert out == f"{config.out}\n"
    assert "rewrite: 3 for training, 1 held out; dropped: none; skipped: none" in err
    assert f"next: mlx-persona sft --extra {config.out}" in err
    assert cli._status([*args, "--task", "contrastive", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown.keys() == set(AugmentResult.__dataclass_fields__)
    assert shown["tasks"].keys() == {"contrastive"}


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """Four conversations of half the weight, and held-out ones that are nobody's."""
    talks = [
        Conversation((Message("user", SAY.format(word)), Message("assistant", f"oh {word}")), {"weight": 0.5})
        for word in ("tea", "rain", "cats", "snow")
    ]
    for split in ("train", "valid"):
        write_jsonl(tmp_path / f"extra/{split}.jsonl", talks)
    return tmp_path / "extra"


def test_training_takes_extra_folders_and_evaluates_on_its_own_only(
    model: Path, extra: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ui.set_quiet(False)
    data = write_data(tmp_path / "data")
    # 24 rows of our own, so two epochs in fours are 12 updates; with 4 more they are 14.
    config = sft_config(model, data, tmp_path / "run", updates=None, epochs=2.0, eval_every=50)
    plain, more = sft(config), sft(replace(config, out=str(tmp_path / "more"), extra=(str(extra),)))
    assert f"extra data of {extra}: 4 conversations, 4 rows," in (shown := capsys.readouterr().err)
    assert "; 8% of the rows drawn" in shown  # 4 x 0.5 of 24 + 2
    assert [info(r.run)["updates"] for r in (plain, more)] == [12, 14]
    first = [events(r.run, "eval")[0] for r in (plain, more)]
    assert first[0] == first[1]
    assert plain.eval_loss != more.eval_loss
    assert info(more.run)["data_hashes"] == {
        **info(plain.run)["data_hashes"],
        "extra 1": file_hash(extra / "train.jsonl"),
    }


def test_the_extra_data_leaves_the_system_message_of_the_run_alone(model: Path, extra: Path, tmp_path: Path) -> None:
    many = [Conversation((Message("system", "Other."), Message("user", "a"), Message("assistant", "b")))] * 50
    write_jsonl(extra / "train.jsonl", many)
    data = write_data(tmp_path / "data")
    result = sft(sft_config(model, data, tmp_path / "run", updates=1, eval_every=1, extra=(str(extra),)))
    assert adapters.read_spec(result.adapter).system == ""


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("nowhere",), "--extra must be a folder with train.jsonl, got nowhere"),
        (("extra", "./extra"), "--extra ./extra is trained on already"),
        (("data",), "--extra data is trained on already"),
        (("long",), "no conversation of long fits in 128 tokens"),
    ],
)
def test_extra_folders_that_are_none_are_errors(
    model: Path, extra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    long = Conversation((Message("user", "a"), Message("assistant", "word " * 200)))
    write_jsonl(tmp_path / "long/train.jsonl", [long])
    with pytest.raises(PersonaError, match=message):
        sft(sft_config(model, Path("data"), "run", updates=1, extra=folders))


def test_a_run_resumes_only_with_the_extra_data_that_it_began_with(model: Path, extra: Path, tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    sft(sft_config(model, data, out, updates=2, eval_every=1, extra=(str(extra),)))
    (out / "run.json").write_text(json.dumps({**info(out), "status": "stopped"}))
    with pytest.raises(PersonaError, match=r"extra is \('.*/extra',\) in .* and stays so, got \('other',\)"):
        sft(SftConfig(resume=str(out), extra=("other",)))
    write_jsonl(extra / "train.jsonl", read_conversations(extra / "train.jsonl")[:3])
    with pytest.raises(PersonaError, match="the data changed since"):
        sft(SftConfig(resume=str(out)))
