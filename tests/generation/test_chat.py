"""A conversation with a model, its commands, and how the model is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.config import GenerateConfig
from mlx_persona.errors import PersonaError
from mlx_persona.generation import chat
from mlx_persona.generation.chat import ChatSession, find_model, generate_once, open_model
from mlx_persona.generation.engine import Sampling, replies
from mlx_persona.models.load import LoadedModel
from mlx_persona.schema import Message
from mlx_persona.tokens.render import Renderer

CONFIG = GenerateConfig(max_tokens=8, temperature=0.0)


@pytest.fixture
def session(tiny: LoadedModel) -> ChatSession:
    return ChatSession(tiny, Renderer(tiny.tokenizer, system="Be brief."), CONFIG)


def make_run(path: Path, adapter: Path, model: str) -> Path:
    """A finished run with an adapter."""
    shutil.copytree(adapter, path / "adapter")
    (path / "run.json").write_text(json.dumps({"status": "done", "finished": 1.0, "model": model}))
    return path


def test_a_reply_is_streamed_and_both_turns_are_remembered(session: ChatSession, tiny: LoadedModel) -> None:
    renderer, sampling = Renderer(tiny.tokenizer, system="Be brief."), Sampling(8, 0.0, 0.95, 0)
    first = "".join(session.say("hello"))
    prompt = renderer.prompt([Message("user", "hello")])
    assert first == replies(tiny, [prompt], sampling, batch_size=1)[0].text
    history = [Message("user", "hello"), Message("assistant", first.strip())]
    assert session.messages == history
    second = "".join(session.say("more"))
    prompt = renderer.prompt([*history, Message("user", "more")])
    assert second == replies(tiny, [prompt], sampling, batch_size=1)[0].text
    assert len(session.messages) == 4


def test_an_interrupted_reply_keeps_what_was_said(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Iterator[str]:
        yield "so far"
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "stream", interrupted)
    pieces = session.say("hello")
    assert next(pieces) == "so far"
    with pytest.raises(KeyboardInterrupt):
        next(pieces)
    assert session.messages == [Message("user", "hello"), Message("assistant", "so far")]


def test_a_turn_without_a_reply_is_not_remembered(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "stream", lambda *args: iter(()))
    assert list(session.say("hello")) == []
    assert session.messages == []


def test_the_same_words_get_another_answer_after_undo(tiny: LoadedModel) -> None:
    session = ChatSession(tiny, Renderer(tiny.tokenizer), GenerateConfig(max_tokens=8, temperature=1.0))
    first = "".join(session.say("hello"))
    session.command("/undo")
    assert session.messages == []
    assert "".join(session.say("hello")) != first


def test_a_long_history_loses_its_oldest_turns(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def recording(loaded: Any, prompt: list[int], *rest: Any) -> Iterator[str]:
        seen.append(len(prompt))
        yield "fine"

    monkeypatch.setattr(chat, "stream", recording)
    for _ in range(12):
        list(session.say("word " * 60))
    assert max(seen) <= 512 - 8  # the tiny model reads 512 tokens
    assert len(session.messages) == 24


def test_reset_system_and_help(session: ChatSession) -> None:
    before = "".join(session.say("hello"))
    assert session.command("/reset") == "a new conversation"
    assert session.messages == []
    assert session.command("/system Talk like a pirate") == "system message: Talk like a pirate"
    assert "".join(session.say("hello")) != before
    assert session.command("/system") == "no system message"
    shown = session.command("/help")
    assert all(name in shown for name in ("/reset", "/system", "/strength", "/undo", "/help", "/quit"))


def test_unknown_commands_and_nothing_to_undo_say_so(session: ChatSession) -> None:
    assert session.command("/sing loudly") == "unknown command /sing; /help shows the commands"
    assert session.command("/undo") == "nothing to undo"


def test_strength_needs_an_adapter(session: ChatSession) -> None:
    assert session.command("/strength 0.5") == "there is no adapter to set the strength of; start with --adapter"


def test_strength_zero_is_the_base_model(
    tiny: LoadedModel, tiny_model_dir: Path, tiny_adapter: Callable[..., Path]
) -> None:
    config = GenerateConfig(str(tiny_model_dir), str(tiny_adapter()), max_tokens=8, temperature=0.0)
    loaded, renderer = open_model(config)
    session = ChatSession(loaded, renderer, config)
    base = "".join(ChatSession(tiny, Renderer(tiny.tokenizer), config).say("hello"))
    full = "".join(session.say("hello"))
    assert full != base
    for strength, expected in (("0", base), ("1", full)):
        assert session.command(f"/strength {strength}") == f"strength {strength}"
        session.command("/reset")
        assert "".join(session.say("hello")) == expected
    assert session.command("/strength much") == "/strength needs a number, got 'much'"
    assert session.command("/strength nan") == "/strength needs a number, got 'nan'"
    zero = GenerateConfig(str(tiny_model_dir), config.adapter, max_tokens=8, temperature=0.0, strength=0.0)
    assert "".join(generate_once(zero, "hello")) == base


def test_the_newest_run_is_opened_with_its_model_and_system_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, tiny_adapter: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs/sft-1", tiny_adapter("You are Ann."), str(tiny_model_dir))
    assert find_model("", "", ("dpo", "sft")) == (str(tiny_model_dir), Path("runs/sft-1/adapter"))
    assert find_model("", str(run), ("sft",)) == (str(tiny_model_dir), run / "adapter")
    assert find_model("", "none", ("dpo", "sft")) == (str(tiny_model_dir), None)
    assert find_model("other", "", ("dpo", "sft")) == ("other", None)
    assert find_model("other", str(run), ("dpo", "sft")) == ("other", run / "adapter")
    _, renderer = open_model(GenerateConfig())
    assert "You are Ann." in renderer.render([Message("user", "a"), Message("assistant", "b")]).text  # type: ignore[union-attr]
    _, renderer = open_model(GenerateConfig(system="You are Bob."))
    assert "You are Bob." in renderer.render([Message("user", "a"), Message("assistant", "b")]).text  # type: ignore[union-attr]


def test_an_adapter_that_is_in_no_run_tells_its_base(tiny_adapter: Callable[..., Path]) -> None:
    folder = tiny_adapter()
    assert find_model("", str(folder), ("sft",))[0].startswith("tiny")


def test_nothing_to_open_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for config in (GenerateConfig(), GenerateConfig(adapter="none")):
        with pytest.raises(PersonaError, match="no finished DPO or SFT run") as caught:
            open_model(config)
        assert "--model" in str(caught.value.hint)


def test_a_strength_without_an_adapter_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(PersonaError, match=r"strength must be 1 without an adapter, got 0\.5"):
        open_model(GenerateConfig(str(tiny_model_dir), strength=0.5))
