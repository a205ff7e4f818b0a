"""The command line: what goes to stdout and what to stderr, precedence, help, and the whole path."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_persona.backend

# isort: split

import click
import mlx_lm
import pytest
import yaml

import mlx_persona
from mlx_persona import cli, ui
from mlx_persona.cli import reference
from mlx_persona.stages.sft import sft
from tests.toy import info, sft_config, write_data, write_export, write_model, write_pairs

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--batch-size", "4", "--grad-accumulation", "1", "--max-seq-length", "128")
TRAIN_KEYS = {
    "run",
    "adapter",
    "best_update",
    "eval_loss",
    "base_eval_loss",
    "tokens_per_second",
    "peak_bytes",
    "phases",
}
COMMANDS = [("data", "show"), *((name,) for name in cli.COMMANDS)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model, data, pairs, an export and a finished SFT run."""
    root = tmp_path_factory.mktemp("made")
    write_model(root / "model")
    write_data(root / "data/clean")
    write_pairs(root / "data/pairs")
    write_export(root)
    sft(sft_config(root / "model", root / "data/clean", root / "runs/sft-1", updates=6, learning_rate=2e-2))
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """``runs("clean", "raw")``: the command must succeed; gives stdout and stderr."""

    def call(*args: object) -> tuple[str, str]:
        capsys.readouterr()
        status = cli._status([str(a) for a in args])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out, err

    return call


Runs = Callable[..., tuple[str, str]]


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (
            ("clean", "export.json", "--me", "Ann", "--out", "new"),
            {"read", "kept", "context", "dropped", "quarantined", "splits", "redacted", "seconds"},
        ),
        (("sft", "--model", "model", "--rank", 4, "--updates", 2, *QUICK), TRAIN_KEYS),
        (("dpo", "--updates", 2, *QUICK), TRAIN_KEYS | {"accuracy", "margin"}),
        (("pairs", "--n", 2, "--max-tokens", 4, "--out", "few"), {"train", "valid", "path"}),
        (("fuse", "--bits", 16, "--gate-tokens", 32), {"path", "bits", "retention", "kl"}),
        (
            ("doctor", "--seconds", "0.05"),
            {"device", "mlx", "mlx_lm", "blas", "gflops", "memory_bytes", "problems"},
        ),
        (("generate", "--prompt", "hi", "--max-tokens", 3), {"prompt", "reply"}),
        (("data", "show"), {"rows", "summary"}),
        (("clean", "export.json", "--list-people"), {"people"}),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_json_is_one_object_on_stdout_and_nothing_else(
    workspace: Path, runs: Runs, args: tuple[object, ...], keys: set[str]
) -> None:
    out, _ = runs(*args, "--json")
    assert out.count("\n") == 1
    assert keys <= json.loads(out).keys()


@pytest.mark.parametrize(
    "args",
    [
        ("clean", "export.json", "--me", "Ann", "--out", "new"),
        ("sft", "--model", "model", "--rank", 4, "--updates", 1, *QUICK),
        ("pairs", "--n", 2, "--max-tokens", 4, "--out", "few"),
        ("fuse", "--bits", 16, "--gate-tokens", 32),
        ("generate", "--prompt", "hi", "--max-tokens", 3),
    ],
    ids=lambda args: str(args[0]),
)
def test_quiet_says_nothing_on_stderr_and_the_result_on_stdout(
    workspace: Path, runs: Runs, args: tuple[object, ...]
) -> None:
    loud, quiet = runs(*args, "-q"), runs("doctor", "--seconds", "0.05", "--json")
    assert loud[1] == ""
    assert loud[0] != ""
    assert quiet[0].startswith("{")


def test_quiet_holds_for_one_command_only(workspace: Path, runs: Runs) -> None:
    assert runs("data", "show", "-q")[1] == ""
    assert "trained on" in runs("data", "show")[1]


def test_the_result_of_training_is_the_run_on_stdout(workspace: Path, runs: Runs) -> None:
    out, err = runs("sft", "--model", "model", "--rank", 4, "--iters", 8, "--batch-size", 2, "--grad-accumulation", 4)
    assert out == "runs/sft-2\n"
    assert "8 iterations of 4 micro-batches per update are 2 updates" in err
    assert "next: mlx-persona dpo" in err


def test_output_that_no_terminal_reads_is_plain(workspace: Path) -> None:
    """In a process of its own, with colours asked for and refused: NO_COLOR wins, and a pipe has none anyway."""
    command = [sys.executable, "-m", "mlx_persona", "data", "show"]
    for more in ({}, {"NO_COLOR": "1", "TERM": "xterm-256color"}):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more}, check=False)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr


def test_errors_have_colour_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    shown = []
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        ui.error("a [b] is :100: wrong\nand long", "try [this]")
        shown.append(stream.getvalue())
    assert "\x1b[" in shown[0]
    assert shown[1] == "error: a [b] is :100: wrong and long\nhint: try [this]\n"
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    ui.error("wrong")
    assert "\x1b[3" not in stream.getvalue()


def test_logs_are_written_above_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    ui.set_quiet(False)
    with ui.progress("sft", 3) as bar:
        own = ui._err()
        bar.advance(1, "loss 2.0 [3]")
        ui.info("a line")
        assert ui._err() is own
    assert ui._err() is not own
    assert "a line" in stream.getvalue()
    ui.set_quiet(True)
    with ui.progress("sft", 3) as bar:
        bar.advance()
    ui.set_quiet(False)


def test_a_command_works_in_the_directory_that_is_named(made: Path, tmp_path: Path, runs: Runs) -> None:
    shutil.copytree(made, tmp_path / "there")
    before = Path.cwd()
    try:
        out, _ = runs("clean", "export.json", "--me", "Ann", "--out", "new", "--json", "-C", tmp_path / "there")
    finally:
        os.chdir(before)
    assert json.loads(out)["out"] == "new"
    assert (tmp_path / "there/new/train.jsonl").is_file()


def test_flags_win_over_the_file_and_the_file_over_the_defaults(workspace: Path, runs: Runs) -> None:
    (workspace / "my.yaml").write_text("model: model\nrank: 3\nupdates: 1\nlearning_rate: 1e-3\nmax_seq_length: 128\n")
    runs("sft", "--config", "my.yaml", "--rank", 5, "--lora")
    config = yaml.safe_load(Path("runs/sft-2/config.yaml").read_text())
    assert (config["rank"], config["updates"], config["learning_rate"], config["dora"]) == (5, 1, 1e-3, False)
    assert config["weight_decay"] == 0.01
    adapter = json.loads(Path("runs/sft-2/adapter/adapter_config.json").read_text())
    assert adapter["lora_parameters"]["rank"] == 5
    assert adapter["fine_tune_type"] == "lora"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_its_defaults(runs: Runs, command: tuple[str, ...]) -> None:
    text, err = runs(*command, "--help")
    assert err == ""
    assert f"Usage: mlx-persona {' '.join(command)}" in text
    if command == ("data",):
        return
    for flag in ("-C DIR", "--config FILE", "--json", "-q, --quiet"):
        assert flag in text
    found: Any = cli.main
    for name in command:
        found = found.get_command(click.Context(found), name)
    options = [p for p in found.params if isinstance(p, click.Option)]
    assert all(p.help for p in options)
    if command in (("sft",), ("dpo",), ("eval",), ("bench",), ("pairs",)):
        assert "--seed" in text
        assert "[default: 0]" in text


def test_help_states_units_and_defaults(runs: Runs) -> None:
    text = " ".join(runs("sft", "--help")[0].split())
    assert "--rank N rank of the adapter [default: 64]" in text
    assert "--dora / --lora DoRA (magnitude and direction) or plain LoRA [default: on]" in text
    assert "--updates N optimizer updates (instead of --epochs)" in text
    assert "--learning-rate X peak learning rate [default: 0.0002]" in text


def test_the_version_is_told(runs: Runs) -> None:
    assert runs("--version")[0].startswith("mlx-persona, version 0.")


def test_generated_files_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert reference.stale() == []


def test_a_generated_file_that_differs_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = reference.generated()
    assert set(reference.stale()) == set(files)
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert reference.stale() == []
    Path("configs/sft.yaml").write_text("rank: 8\n")
    assert reference.stale() == [Path("configs/sft.yaml")]


def test_show_marks_exactly_what_is_trained_on(workspace: Path, runs: Runs) -> None:
    """The replies with their end token, and nothing of the questions or the template."""
    lines = [json.dumps(c) for c in ({"messages": turns("tea", True)}, {"messages": turns("rain", False)})]
    Path("two.jsonl").write_text("\n".join(lines) + "\n")
    out, err = runs("data", "show", "--model", "model", "--data", "two.jsonl", "--max-seq-length", 256)
    assert marked(out) == ["so much tea<|im_end|>", "yes tea<|im_end|>"]
    assert "<|im_start|>user\nwhat?<|im_end|>" in out
    assert "trained on" in err
    out, _ = runs("data", "show", "--model", "model", "--data", "two.jsonl", "--number", 2)
    assert marked(out) == ["yes rain<|im_end|>"]
    out, _ = runs("data", "show", "--model", "model", "--data", "two.jsonl", "--json")
    rows = json.loads(out)["rows"]
    assert "".join(p["text"] for p in rows[0] if p["trained"]) == "so much tea<|im_end|>yes tea<|im_end|>"


def turns(word: str, train: bool) -> list[dict[str, Any]]:
    said = [("user", "what?"), ("assistant", f"so much {word}"), ("user", "more?"), ("assistant", f"yes {word}")]
    out: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in said]
    out[1]["train"] = train
    return out


def marked(text: str) -> list[str]:
    return [part.split("»")[0] for part in text.split("«")[1:]]


def test_people_are_listed_with_their_counts(workspace: Path, runs: Runs) -> None:
    out, _ = runs("clean", "export.json", "--list-people")
    rows = [line.split() for line in out.splitlines()]
    assert any("Ann" in row and "48" in row for row in rows)
    assert any("Bob" in row and "24" in row for row in rows)
    assert json.loads(runs("clean", "export.json", "--list-people", "--json")[0]) == {
        "people": [{"name": "Ann", "messages": 48}, {"name": "Bob", "messages": 24}]
    }


def test_cleaning_shows_what_became_of_every_message(workspace: Path, runs: Runs) -> None:
    out, _ = runs("clean", "export.json", "--me", "Ann", "--out", "new")
    assert "read" in out
    report = json.loads(Path("new/report.json").read_text())
    assert report["read"] == 72 == report["kept"] + report["context"] + sum(report["dropped"].values())
    assert out.splitlines()[-2:] == ["new/report.json", "new/report.html"]


def test_chat_answers_and_carries_out_commands(workspace: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["hello", "", "/strength 0.5", "/nonsense", "/undo", "/undo", "/help", "/quit", "never read"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    out, err = runs("chat", "--max-tokens", 4, "--temperature", 0)
    assert "strength 0.5" in out
    assert "unknown command /nonsense; /help shows the commands" in out
    assert "the last exchange is forgotten" in out
    assert "nothing to undo" in out
    assert "/system" in out
    assert "Ctrl-D or /quit leaves" in err
    assert "never read" not in out


def test_chat_goes_on_after_an_error(workspace: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"/system {'long ' * 400}\nhello\n/strength 2\n"))
    out, err = runs("chat", "--max-tokens", 4)
    assert err.count("error: ") == 1
    assert "strength 2" in out


def test_chat_has_no_json_form(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["chat", "--json"]) == 1
    assert "hint: use: mlx-persona generate --json" in capsys.readouterr().err


def test_a_prompt_from_a_pipe_is_the_same_as_one_that_is_given(
    workspace: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = runs("generate", "--prompt", "what about tea?", "--max-tokens", 6, "--json")[0]
    monkeypatch.setattr(sys, "stdin", io.StringIO("what about tea?\n"))
    assert runs("generate", "--max-tokens", 6, "--json")[0] == given


def test_the_whole_path_in_an_empty_directory(
    made: Path, tmp_path: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export -> clean -> sft -> dpo (which makes its pairs) -> fuse -> generate; only the model is named, once."""
    monkeypatch.chdir(tmp_path)
    runs("clean", made / "export.json", "--me", "Ann")
    runs("sft", "--model", made / "model", "--rank", 4, "--updates", 2, *QUICK)
    runs("dpo", "--updates", 1, "--batch-size", 2, "--grad-accumulation", 1, "--max-seq-length", 512)
    out, _ = runs("fuse", "--bits", 16, "--gate-tokens", 32)
    assert out == "runs/fused-1\n"
    out, _ = runs("generate", "--model", "runs/fused-1", "--prompt", "hi", "--max-tokens", 4, "--json")
    assert json.loads(out)["prompt"] == "hi"
    assert sorted(p.name for p in Path("runs").iterdir()) == ["dpo-1", "fused-1", "sft-1"]
    assert [info(Path(f"runs/{name}"))["parent"] for name in ("sft-1", "dpo-1", "fused-1")] == [
        None,
        "runs/sft-1",
        "runs/dpo-1",
    ]
    assert {p.name for p in Path("data/pairs").glob("*.jsonl")} == {"train.jsonl", "valid.jsonl"}
    model, tokenizer = mlx_lm.load("runs/fused-1")
    assert isinstance(mlx_lm.generate(model, tokenizer, prompt="hi", max_tokens=2), str)


def test_a_command_in_a_process_of_its_own(workspace: Path) -> None:
    command = [sys.executable, "-m", "mlx_persona", "generate", "--prompt", "hi", "--max-tokens", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() == {"prompt", "reply"}


def test_a_reader_that_goes_away_is_no_traceback(workspace: Path) -> None:
    command = f"{sys.executable} -m mlx_persona clean export.json --list-people | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_functions_do_what_the_commands_do(workspace: Path) -> None:
    report = mlx_persona.clean(mlx_persona.CleanConfig(raw=("export.json",), me=("Ann",), out="new"))
    assert report.kept == 48
    with pytest.raises(mlx_persona.PersonaError, match="rank must be >= 1, got 0"):
        mlx_persona.SftConfig(rank=0)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ((), "auto"),
        (("--grad-checkpoint",), "on"),
        (("--no-grad-checkpoint",), "off"),
        (("--grad-checkpoint", "3"), "3"),
        (("--grad-checkpoint", "--rank", "4"), "on"),
    ],
)
def test_checkpointing_is_a_flag_or_a_choice(
    flags: tuple[str, ...], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("mlx_persona.cli.train.sft", lambda config: seen.append(config.grad_checkpoint))
    monkeypatch.setattr("mlx_persona.cli.train._print_training", lambda *_: None)
    assert cli._status(["sft", *flags]) == 0
    assert seen == [wanted]


def test_plan_prints_a_table_and_advice(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["plan", "--model", "model", "--memory", "1MB", "--device", "metal"]) == 0
    said = capsys.readouterr().out
    assert "peak memory" in said
    assert "--grad-checkpoint on" in said or "--rank" in said
