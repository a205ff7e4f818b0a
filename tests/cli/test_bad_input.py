"""Bad input on the command line: one line of error, at most one hint, exit status 1, and nothing broken."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import pytest

from mlx_persona import cli
from mlx_persona.runs import Run, sorted_checkpoints
from mlx_persona.stages.sft import sft
from tests.toy import events, info, sft_config, write_data, write_model, write_pairs

QUICK = ("--rank", "4", "--updates", "2", "--batch-size", "4", "--grad-accumulation", "1", "--max-seq-length", "128")


@dataclass(frozen=True)
class Said:
    """What a failed command said."""

    error: str
    hint: str | None


def parse(status: int, out: str, err: str) -> Said:
    """Check the form of an error and take it apart."""
    lines = err.splitlines()
    assert "Traceback" not in err
    errors = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert status == 1, err
    assert len(errors) == 1, err
    assert lines[-1 - len(hints) :] == errors + hints, err
    assert out == ""
    return Said(errors[0].removeprefix("error: "), hints[0].removeprefix("hint: ") if hints else None)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """``fails("sft", "--rank", 0)``: the command must fail as every command fails."""

    def call(*args: object) -> Said:
        capsys.readouterr()
        status = cli._status([str(a) for a in args])
        return parse(status, *capsys.readouterr())

    return call


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model, data, pairs and a finished SFT run."""
    root = tmp_path_factory.mktemp("made")
    write_model(root / "model")
    write_data(root / "data/clean")
    write_pairs(root / "data/pairs")
    sft(sft_config(root / "model", root / "data/clean", root / "runs/sft-1", updates=2))
    return root


@pytest.fixture
def workspace(made: Path, place: Path) -> Path:
    """A copy of it to break, as the current directory."""
    shutil.copytree(made, place, dirs_exist_ok=True)
    return place


def chatml(folder: Path, *lines: object) -> Path:
    """A raw export; text stays as it is."""
    path = folder / "raw.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return path


def exchange(number: int, reply: str = "a reply that is long enough") -> dict[str, Any]:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": f"{reply} {number}"}]
    return {"messages": turns}


def senders(*said: tuple[str, str]) -> dict[str, Any]:
    """An export of one conversation in the chitchat format."""
    bursts = [[{"text": t, "timestamp": f"2020-01-01T00:00:{i:02}Z", "sender": s}] for i, (s, t) in enumerate(said)]
    return {"c1": {"start": "2020-01-01T00:00:00Z", "messages": bursts}}


@pytest.mark.parametrize("command", ["sft", "pairs", "dpo --fresh"])
def test_missing_data_says_how_to_make_it(made: Path, place: Path, fails: Callable[..., Said], command: str) -> None:
    said = fails(*command.split(), "--model", made / "model")
    assert said.error == "no data: data/clean/train.jsonl is missing"
    assert str(said.hint).startswith("make it with: mlx-persona clean EXPORT --me NAME")


@pytest.mark.parametrize("content", ["", "\n\n", '{"messages": [{"role": "user", "content": "nobody answers"}]}\n'])
def test_empty_data_is_an_error(workspace: Path, fails: Callable[..., Said], content: str) -> None:
    (workspace / "data/clean/train.jsonl").write_text(content)
    said = fails("sft", "--model", "model", *QUICK)
    assert said.error == "data/clean/train.jsonl holds no reply to train on"


@pytest.mark.parametrize("args", [("raw.jsonl",), (".",)])
def test_an_empty_export_is_an_error(place: Path, fails: Callable[..., Said], args: tuple[str, ...]) -> None:
    (place / "raw.jsonl").touch()
    assert "empty" in fails("clean", *args).error or "no chats" in fails("clean", *args).error
    assert not (place / "data").exists()


def test_a_missing_export_is_an_error(place: Path, fails: Callable[..., Said]) -> None:
    assert fails("clean", "nothing.json").error == "no such file or folder: nothing.json"


def test_malformed_lines_of_an_export_are_quarantined_by_file_and_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chatml(place, *(exchange(i) for i in range(30)), '{"messages": [{"role": "user", "cont')
    assert cli._status(["clean", "raw.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quarantined"] == 1
    bad = json.loads((place / "data/clean/quarantine.jsonl").read_text())
    assert (bad["file"], bad["line"]) == ("raw.jsonl", 31)
    assert bad["reason"].startswith("not JSON")


def test_too_many_malformed_lines_are_an_error(place: Path, fails: Callable[..., Said]) -> None:
    """Two of 20 are a tenth: more than the twentieth that is borne."""
    chatml(place, *(exchange(i) for i in range(18)), "{broken", "[1, 2")
    said = fails("clean", "raw.jsonl")
    assert "raw.jsonl:19" in said.error
    assert "2 of 20" in said.error
    assert not (place / "data").exists()


def test_a_malformed_line_of_the_clean_data_is_named(workspace: Path, fails: Callable[..., Said]) -> None:
    with (workspace / "data/clean/train.jsonl").open("a") as file:
        file.write("{broken\n")
    said = fails("sft", "--model", "model", *QUICK)
    assert said.error.startswith("data/clean/train.jsonl:13: not JSON")


def test_line_100_is_not_an_emoji(place: Path, fails: Callable[..., Said]) -> None:
    """Rich would print the 100 between colons as a picture."""
    (place / "train.jsonl").write_text(json.dumps(exchange(1)) + "\n" * 99 + "{\n")
    (place / "model").mkdir()
    assert "train.jsonl:100: not JSON" in fails("data", "show", "--data", "train.jsonl", "--model", "model").error


def test_an_unknown_config_key_suggests_the_nearest(place: Path, fails: Callable[..., Said]) -> None:
    (place / "sft.yaml").write_text("rnk: 8\n")
    said = fails("sft", "--config", "sft.yaml")
    assert said == Said("unknown key 'rnk' in sft.yaml", "did you mean rank?")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("sft --rank 0", "rank must be >= 1, got 0"),
        ("sft --alpha 0", "alpha must be > 0.0, got 0.0"),
        ("sft --alpha -3", "alpha must be > 0.0, got -3.0"),
        ("sft --learning-rate 0", "learning_rate must be > 0.0, got 0.0"),
        ("sft --learning-rate nan", "learning_rate must be finite, got nan"),
        ("sft --epochs inf", "epochs must be finite, got inf"),
        ("sft --updates 0", "updates must be >= 1, got 0"),
        ("sft --num-layers -2", "num_layers must be >= -1, got -2"),
        ("dpo --beta 0", "beta must be > 0.0, got 0.0"),
        ("dpo --beta -0.1", "beta must be > 0.0, got -0.1"),
        ("dpo --rank 0", "rank must be >= 1, got 0"),
        ("generate --temperature -1 --prompt x", "temperature must be >= 0.0, got -1.0"),
        ("clean raw --min-chars -1", "min_chars must be >= 0, got -1"),
        ("sft --config none.yaml", "no such config file: none.yaml"),
        ("sft -C nowhere", "cannot work in nowhere: No such file or directory"),
    ],
)
def test_a_value_out_of_bounds_states_the_requirement_and_the_value(
    place: Path, fails: Callable[..., Said], args: str, message: str
) -> None:
    assert fails(*args.split()).error == message


def test_more_layers_than_there_are_is_an_error(workspace: Path, fails: Callable[..., Said]) -> None:
    said = fails("sft", "--model", "model", *QUICK, "--num-layers", 9)
    assert said.error == "num_layers must be <= 2 for this model, got 9"


def test_a_model_directory_without_config(workspace: Path, fails: Callable[..., Said]) -> None:
    (workspace / "model/config.json").unlink()
    assert fails("sft", "--model", "model", *QUICK).error == "model is not a model: it has no config.json"


def test_a_model_directory_without_weights(workspace: Path, fails: Callable[..., Said]) -> None:
    (workspace / "model/model.safetensors").unlink()
    assert fails("sft", "--model", "model", *QUICK).error == "model has no weights (model*.safetensors)"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}"])
def test_a_model_directory_with_a_broken_config(workspace: Path, fails: Callable[..., Said], content: bytes) -> None:
    (workspace / "model/config.json").write_bytes(content)
    assert "model" in fails("sft", "--model", "model", *QUICK).error
    assert "model" in fails("pairs", "--model", "model", "--n", 2).error


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_model(workspace: Path, fails: Callable[..., Said], share: float) -> None:
    file = workspace / "model/model.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    said = fails("sft", "--model", "model", *QUICK)
    assert said == Said("model/model.safetensors is truncated or corrupt", "get the model again")
    assert [p.name for p in Path("runs").iterdir()] == ["sft-1"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("command", ["dpo", "fuse", "generate --prompt hi"])
def test_a_truncated_adapter(workspace: Path, fails: Callable[..., Said], share: float, command: str) -> None:
    file = workspace / "runs/sft-1/adapter/adapters.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    said = fails(*command.split(), "--model", "model", "--adapter", "runs/sft-1")
    assert said.error.startswith("runs/sft-1/adapter/adapters.safetensors is truncated or corrupt")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"fine_tune_type": "full"}'])
def test_an_adapter_with_a_broken_config(workspace: Path, fails: Callable[..., Said], content: str) -> None:
    (workspace / "runs/sft-1/adapter/adapter_config.json").write_text(content)
    assert "adapter_config.json" in fails("dpo", "--model", "model").error


@pytest.mark.parametrize("command", ["dpo", "fuse", "generate --prompt hi"])
def test_an_adapter_made_for_another_model(workspace: Path, fails: Callable[..., Said], command: str) -> None:
    write_model(workspace / "other", seed=1)
    said = fails(*command.split(), "--model", "other", "--adapter", "runs/sft-1")
    assert said == Said("runs/sft-1/adapter was made for another model: model, not other", "use --model model")


def test_a_me_that_does_not_occur_lists_who_does(place: Path, fails: Callable[..., Said]) -> None:
    export = senders(("Anna", "hello my friend"), ("Bob", "hi how are you"), ("Anna", "very well thank you"))
    (place / "raw.json").write_text(json.dumps(export))
    said = fails("clean", "raw.json", "--me", "Ana")
    assert said.error == "nobody in the export is called 'Ana'; there are Anna (2 messages), Bob (1 messages)"
    assert said.hint == "did you mean Anna?"
    assert "Anna (2 messages), Bob (1 messages)" in fails("clean", "raw.json").error
    assert not (place / "data").exists()


def test_conversations_without_any_turn_of_me(place: Path, fails: Callable[..., Said]) -> None:
    """Bob only ever opens: there is nothing that he answered."""
    (place / "raw.json").write_text(json.dumps(senders(("Bob", "hello my friend"), ("Anna", "hi how are you"))))
    said = fails("clean", "raw.json", "--me", "Bob")
    assert said.error.startswith("no conversation is left of 2 messages")
    assert said.hint == "the person must answer somebody: is --me the right one?"
    chatml(place, {"messages": [{"role": "user", "content": "is nobody there?"}]})
    assert "no conversation is left" in fails("clean", "raw.jsonl").error


def test_a_full_disk_while_a_checkpoint_is_written_leaves_the_earlier_one(
    workspace: Path, fails: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX reports a full disk as RuntimeError: here from the second checkpoint's optimizer state."""
    save = mx.save_safetensors
    written: list[str] = []

    def full(path: str, *args: Any, **kwargs: Any) -> None:
        written.append(Path(path).name)
        if written.count("optimizer.safetensors") == 2:
            Path(path).write_bytes(b"half")
            raise RuntimeError("[write] Unable to write 9 bytes to file.")
        save(path, *args, **kwargs)

    monkeypatch.setattr(mx, "save_safetensors", full)
    said = fails("sft", "--model", "model", *QUICK, "--eval-every", 1, "--updates", 3, "-q")
    assert said.error.startswith("cannot write runs/sft-2/checkpoints/000002: [write] Unable to write")
    assert said.hint == "free some disk space; what was there is unharmed"
    assert info(Path("runs/sft-2"))["status"] == "failed"
    kept = sorted_checkpoints(Path("runs/sft-2"))
    assert [p.name for p in kept] == ["000001"]
    assert [p.name for p in (workspace / "runs/sft-2/checkpoints").iterdir()] == ["000001"]
    monkeypatch.setattr(mx, "save_safetensors", save)
    assert cli._status(["sft", "--resume", "runs/sft-2", "-q"]) == 0
    sft(sft_config(Path("model"), Path("data/clean"), "whole", updates=3, eval_every=1, **same_as_quick()))
    assert events(Path("runs/sft-2")) == events(Path("whole"))


def test_a_disk_too_full_to_note_the_failure_still_tells_what_failed(
    workspace: Path, fails: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr("mlx_persona.runs.write_text", full)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mx, "save_safetensors", full)
    said = fails("sft", "--model", "model", *QUICK, "-q")
    assert said.error == "cannot write runs/sft-2/checkpoints/000002: No space left on device"
    assert info(Path("runs/sft-2"))["status"] == "running"


def same_as_quick() -> dict[str, Any]:
    """What ``QUICK`` leaves at its default, where the toy's settings differ."""
    return {"learning_rate": 2e-4, "warmup": 0.05}


def test_a_disk_that_is_really_full_is_told(workspace: Path) -> None:
    """A limit on the size of files stands for it: the weights fit below it and the optimizer's state does not."""
    adapter = workspace / "runs/sft-1/adapter/adapters.safetensors"
    limit = adapter.stat().st_size * 3 // 2

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    command = [sys.executable, "-m", "mlx_persona", "sft", "--model", "model", *QUICK, "-q"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, preexec_fn=limited, capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    said = parse(done.returncode, done.stdout, done.stderr)
    assert said.error.startswith("cannot write runs/sft-2/checkpoints/000002: ")
    assert said.hint == "free some disk space; what was there is unharmed"
    assert sorted_checkpoints(workspace / "runs/sft-2") == []


def test_a_full_disk_while_the_log_is_written_is_told(
    workspace: Path, fails: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Run, event: str, **values: Any) -> None:
        raise OSError(28, "No space left on device", str(run.path / "metrics.jsonl"))

    monkeypatch.setattr(Run, "log", full)
    said = fails("sft", "--model", "model", *QUICK, "-q")
    assert said == Said("runs/sft-2/metrics.jsonl: No space left on device", "free some disk space")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "no network"),
    ],
)
def test_without_network_a_hub_model_points_to_local_ones(
    workspace: Path, environment: dict[str, str], reason: str
) -> None:
    """In a process of its own: the client reads the environment when it is imported."""
    command = [sys.executable, "-m", "mlx_persona", "sft", "--model", "no-such-org/no-such-model", "-q"]
    here = {**os.environ, **environment, "HF_HOME": str(workspace / "hub"), "HF_HUB_ETAG_TIMEOUT": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=here, check=False, timeout=60)
    said = parse(done.returncode, done.stdout, done.stderr)
    assert "cannot download no-such-org/no-such-model" in said.error
    assert reason in said.error
    assert "give a local model directory: --model PATH" in str(said.hint)


def test_a_second_run_into_a_finished_one_is_refused(workspace: Path, fails: Callable[..., Said]) -> None:
    before = {p: p.read_bytes() for p in Path("runs/sft-1").rglob("*") if p.is_file()}
    said = fails("sft", "--model", "model", *QUICK, "--out", "runs/sft-1")
    assert said == Said("runs/sft-1 is in use already", "give another --out")
    assert {p: p.read_bytes() for p in Path("runs/sft-1").rglob("*") if p.is_file()} == before
    assert "is finished already" in fails("sft", "--resume", "runs/sft-1").error


def test_a_second_run_into_one_that_is_being_written_is_refused(workspace: Path, fails: Callable[..., Said]) -> None:
    script = (
        "import sys; from pathlib import Path; from mlx_persona.runs import Run;"
        "Run.create(Path('runs/sft-2'), {}, {'stage': 'sft'}); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdin is not None
    with other.stdin, other.stdout:
        assert other.stdout.readline() == b"held\n"
        said = fails("sft", "--model", "model", *QUICK, "--out", "runs/sft-2")
        assert said == Said("another process is writing to runs/sft-2", "wait for it, or give another --out")
    assert other.wait() == 0


def test_dpo_options_that_need_a_fresh_adapter(workspace: Path, fails: Callable[..., Said]) -> None:
    said = fails("dpo", "--rank", 8)
    assert said.error == "dpo continues the SFT adapter, whose rank is 4; rank 8 is another one"
    assert "--fresh" in str(said.hint)


def test_dpo_of_a_run_that_has_no_adapter(place: Path, fails: Callable[..., Said]) -> None:
    assert "no finished SFT run in runs/" in fails("dpo").error
    assert "no finished DPO or SFT run" in fails("fuse").error
    assert "no training run" in fails("eval").error
    assert "no finished DPO or SFT run" in fails("generate", "--prompt", "hi").error


def test_a_damaged_pair_is_named(workspace: Path, fails: Callable[..., Said]) -> None:
    with (workspace / "data/pairs/valid.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "x"}], "chosen": "a", "rejected": ""}\n')
    said = fails("dpo", "--updates", 1)
    assert said.error == "data/pairs/valid.jsonl:6: rejected must be non-empty text, got ''"


def test_an_empty_prompt(workspace: Path, fails: Callable[..., Said]) -> None:
    assert fails("generate", "--prompt", " ").error == "the prompt must not be empty"


def test_a_run_that_blows_up_is_told(workspace: Path, fails: Callable[..., Said]) -> None:
    said = fails("sft", "--model", "model", *QUICK, "--learning-rate", "1e30", "--eval-every", 1, "-q")
    assert "is not finite at update 1" in said.error
    assert said.hint == "try a smaller --learning-rate"
    assert info(Path("runs/sft-2"))["status"] == "failed"


@pytest.mark.parametrize(
    "args",
    ["nonsense", "sft --rnak 8", "sft --rank eight", "sft extra", "fuse --bits 5", "clean", "data", "sft --rank", ""],
)
def test_wrong_usage_is_2_and_says_how_it_is_used(place: Path, capsys: pytest.CaptureFixture[str], args: str) -> None:
    assert cli._status(args.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Usage: mlx-persona" in said.err or "Error: Option '--rank' requires an argument" in said.err
    assert "Traceback" not in said.err


def test_an_interrupt_is_130(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_persona.cli.data.clean", interrupted)
    assert cli._status(["clean", "raw"]) == 130
    assert capsys.readouterr().err.split() == ["interrupted"]
