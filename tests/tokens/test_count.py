"""Lengths in tokens are those of the model's own tokenizer, from wherever that comes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mlx_persona import model_names
from mlx_persona.errors import PersonaError
from mlx_persona.tokens import count
from mlx_persona.tokens.count import CHUNK, TokenCounter, token_counter
from tests.models.conftest import tiny_gguf

TEXTS = ["", "ok", "well, I'd say so\n\nyes 👍🏽", "naïve Ünïcode こんにちは", "<|im_start|>user", " " * 9, "x" * 3000]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any test that goes to the Hub by mistake fails, and nothing is in its cache."""

    def download(*_: Any) -> str:
        raise AssertionError("went to the hub")

    monkeypatch.setattr(model_names, "hf_hub_download", download)
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda *_: None)


@pytest.fixture(scope="module")
def counter(smollm2_path: Path) -> TokenCounter:
    return token_counter(str(smollm2_path))


def expected(folder: Path, texts: list[str]) -> list[int]:
    """What transformers says."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def test_a_directory_counts_as_transformers_does(counter: TokenCounter, smollm2_path: Path) -> None:
    assert counter(TEXTS) == expected(smollm2_path, TEXTS)
    assert counter([]) == []


@given(texts=st.lists(st.text(max_size=20), max_size=8))
def test_any_text_has_a_length_whatever_stands_beside_it(texts: list[str], counter: TokenCounter) -> None:
    assert counter(texts) == [counter([text])[0] for text in texts]


@pytest.mark.parametrize("n", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_more_texts_than_are_encoded_at_once(n: int, counter: TokenCounter) -> None:
    texts = ["so " * (i % 7) for i in range(n)]
    sizes = counter(texts[:7])
    assert counter(texts) == [sizes[i % 7] for i in range(n)]


def test_what_the_file_says_about_cutting_and_filling_up_is_not_about_lengths(
    smollm2_path: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2_path / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert token_counter(str(tmp_path))(TEXTS) == expected(smollm2_path, TEXTS)


def test_tokens_around_a_text_do_not_count(tmp_path: Path) -> None:
    made = tiny_gguf()
    plain = token_counter(str(made.write(tmp_path / "plain.gguf")))(["the hen"])
    made.metadata["tokenizer.ggml.add_bos_token"] = made.metadata["tokenizer.ggml.add_eos_token"] = True
    assert token_counter(str(made.write(tmp_path / "framed.gguf")))(["the hen"]) == plain == [5]


def test_a_repo_gives_its_tokenizer_only(smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(smollm2_path / file)

    monkeypatch.setattr(model_names, "hf_hub_download", download)
    assert token_counter("org/name")(TEXTS) == expected(smollm2_path, TEXTS)
    assert asked == [("org/name", "tokenizer.json")]


@pytest.mark.parametrize("fetch", [True, False])
def test_what_is_in_the_hubs_cache_needs_no_network(
    fetch: bool, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda repo, file: str(smollm2_path / file))
    assert token_counter("org/name", fetch=fetch)(TEXTS) == expected(smollm2_path, TEXTS)


@pytest.mark.parametrize("cached", [None, object()])  # not there; known not to be in the repo
def test_nothing_is_fetched_that_was_not_asked_for(cached: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda *_: cached)
    with pytest.raises(PersonaError, match="the tokenizer of org/name is not on this machine"):
        token_counter("org/name", fetch=False)


def test_models_without_a_usable_tokenizer_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match=r"has no tokenizer\.json"):
        token_counter(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(PersonaError, match="cannot read the tokenizer"):
        token_counter(str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(9))
    with pytest.raises(PersonaError, match="GGUF version"):
        token_counter(str(tmp_path / "x.gguf"))
    with pytest.raises(PersonaError, match="no such model"):
        token_counter("./nothing")


def test_neither_mlx_nor_transformers_is_loaded(smollm2_path: Path, tmp_path: Path) -> None:
    shutil.copy(smollm2_path / "tokenizer.json", tmp_path)
    script = (
        "import json, sys; from mlx_persona.tokens.count import token_counter;"
        "found = token_counter(sys.argv[1])(['a']);"
        "print(json.dumps([found, [m for m in ('mlx', 'mlx_lm', 'transformers') if m in sys.modules]]))"
    )
    root = Path(count.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=root, check=True
    )
    assert json.loads(done.stdout) == [[1], []]


def test_a_counter_takes_any_tokenizer(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(smollm2_path / "tokenizer.json"))
    assert TokenCounter(tokenizer)(["hello"]) == [len(tokenizer.encode("hello").ids)]
