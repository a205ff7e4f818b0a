"""Options: declared once, checked, read from YAML, overridden, and written out with comments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_persona import config as declared
from mlx_persona.config import CleanConfig, DpoConfig, GenerateConfig, SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.settings import build, check, commented_yaml, nearest, option, plain

CONFIGS = [value for name, value in vars(declared).items() if name.endswith("Config") and not name.startswith("_")]


@dataclass(frozen=True)
class Small:
    """One option of every kind."""

    count: int = option(3, "how many", minimum=1, maximum=9)
    rate: float = option(0.5, "how fast", above=0.0)
    kind: str = option("a", "which", choices=("a", "b"))
    names: tuple[str, ...] = option((), "who")
    limit: float | None = option(None, "at most", minimum=0.0)
    on: bool = option(True, "whether")

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be >= 1, got 0"),
        ({"count": 10}, "count must be <= 9, got 10"),
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"count": None}, "count must be a whole number, got None"),
        ({"rate": 0.0}, "rate must be > 0.0, got 0.0"),
        ({"rate": float("nan")}, "rate must be finite, got nan"),
        ({"rate": float("inf")}, "rate must be finite, got inf"),
        ({"rate": "fast"}, "rate must be a number, got 'fast'"),
        ({"kind": "c"}, "kind must be one of a, b, got 'c'"),
        ({"names": (1,)}, "names must be text, got 1"),
        ({"limit": -1.0}, "limit must be >= 0.0, got -1.0"),
        ({"on": "yes"}, "on must be true or false, got 'yes'"),
    ],
)
def test_a_wrong_value_names_the_option_the_requirement_and_the_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(PersonaError) as caught:
        Small(**values)
    assert caught.value.message == message


@pytest.mark.parametrize("values", [{"limit": None}, {"limit": 0.0}, {"names": ("a", "b")}, {"rate": 1}])
def test_a_right_value_passes(values: dict[str, Any]) -> None:
    assert dataclasses.asdict(Small(**values)).items() >= values.items()


def test_defaults_give_way_to_the_file_and_the_file_to_overrides(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text("count: 5\nrate: 2e-4\nnames: [Ana, 49123]\n")
    assert build(Small, None, {}) == Small()
    assert build(Small, file, {}) == Small(count=5, rate=2e-4, names=("Ana", "49123"))
    assert build(Small, file, {"count": 7, "on": False}) == Small(count=7, rate=2e-4, names=("Ana", "49123"), on=False)


def test_values_that_yaml_reads_as_another_type_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "fuse.yaml"
    file.write_text("bits: 8\nmin_retention: 1\n")
    assert build(declared.FuseConfig, file, {}) == declared.FuseConfig(bits="8", min_retention=1.0)
    file.write_text("me: Ana\n")
    assert build(CleanConfig, file, {}).me == ("Ana",)


def test_an_unknown_key_suggests_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "sft.yaml"
    file.write_text("learning_rte: 1e-4\n")
    with pytest.raises(PersonaError, match="unknown key 'learning_rte' in") as caught:
        build(SftConfig, file, {})
    assert caught.value.hint == "did you mean learning_rate?"
    file.write_text("zzz: 1\n")
    with pytest.raises(PersonaError) as caught:
        build(SftConfig, file, {})
    assert str(caught.value.hint).startswith("known keys: model, data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "must hold a mapping of options, got list"),
        (b"a: [1\n", "is not YAML"),
        (b"rate: 2024-13-45\n", "is not YAML"),
        (b"[" * 3000, "is not YAML"),
        (b"\xff\xfe\xfa", "is not YAML"),
        (b"rate: fast\n", "rate must be a number, got 'fast'"),
        (b"count: [1, 2]\n", r"count must be a whole number, got \[1, 2\]"),
        (b"kind: null\n", "kind must be text, got None"),
    ],
)
def test_a_bad_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(PersonaError, match=message):
        build(Small, file, {})


def test_a_missing_file_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="no such config file"):
        build(Small, tmp_path / "none.yaml", {})
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert build(Small, tmp_path / "empty.yaml", {}) == Small()


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_the_commented_yaml_of_every_config_is_its_defaults(kind: type, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(commented_yaml(kind, "title"), encoding="utf-8")
    assert build(kind, file, {}) == kind()
    text = file.read_text(encoding="utf-8")
    for item in dataclasses.fields(kind):
        assert f"# {item.metadata['help']}" in text


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_option_says_what_it_is_in_one_line(kind: type) -> None:
    for item in dataclasses.fields(kind):
        text = item.metadata["help"]
        assert text, item.name
        assert "\n" not in text, item.name
        assert not text.endswith("."), item.name


@settings(deadline=None)
@given(
    st.builds(
        SftConfig,
        rank=st.integers(1, 512),
        learning_rate=st.floats(1e-12, 10.0),
        alpha=st.none() | st.floats(1e-3, 1e3),
        updates=st.none() | st.integers(1, 10**6),
        dora=st.booleans(),
        grad_checkpoint=st.sampled_from(["auto", "on", "off", "0", "12"]),
        system=st.text(st.characters(exclude_categories=("Cs", "Cc"))),
    )
)
def test_what_a_run_records_builds_the_same_config(config: SftConfig) -> None:
    """``config.yaml`` of a run holds every value, whatever it looks like: a name may read as a number."""
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    assert build(SftConfig, None, yaml.safe_load(text)) == config


@pytest.mark.parametrize(("word", "hint"), [("rnak", "did you mean rank?"), ("qqq", None)])
def test_the_nearest_word_is_offered_only_when_it_is_near(word: str, hint: str | None) -> None:
    assert nearest(word, ["rank", "alpha"]) == hint


def test_defaults_that_scripts_rely_on() -> None:
    """Alpha is 2 x rank unless given; DPO's own rank stays open until --fresh."""
    assert (SftConfig().alpha, SftConfig().dora, SftConfig().mask_prompt) == (None, True, True)
    assert (DpoConfig().rank, DpoConfig().fresh) == (None, False)
    assert GenerateConfig().system is None


@pytest.mark.parametrize(
    ("text", "wanted"), [("on", "on"), ("off", "off"), ("true", "on"), ("null", "auto"), ("4", "4"), ("auto", "auto")]
)
def test_yaml_s_on_and_off_are_words_for_an_option_that_takes_them(text: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text(f"grad_checkpoint: {text}\n")
    assert build(SftConfig, tmp_path / "sft.yaml", {}).grad_checkpoint == wanted


@pytest.mark.parametrize("wanted", ["yes", "-1", "1.5", ""])
def test_checkpointing_must_be_a_choice_or_a_number(wanted: str) -> None:
    with pytest.raises(PersonaError, match="grad_checkpoint must be auto, on, off or a number of blocks"):
        SftConfig(grad_checkpoint=wanted)
