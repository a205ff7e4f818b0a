"""A sweep from end to end on a toy model: what stays when it is stopped, killed, or a run fails."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlx_persona.cli import _status
from mlx_persona.config import SweepConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.experiments import cells
from mlx_persona.experiments.sweep import SweepResult, sweep
from mlx_persona.stages.sft import sft
from tests.toy import events, info, sft_config, write_pairs

QUICK = ("batch_size=4", "grad_accumulation=1", "max_seq_length=128", "eval_every=3", "warmup=0")
ARMS = ("learning_rate=3e-3,1e-2",)


def config(model: Path, data: Path, out: Path, **options: Any) -> SweepConfig:
    known = {"settings": (*QUICK, "rank=4"), "grid": ARMS, "seeds": "1,2", "updates": 6, "match": "updates"}
    return SweepConfig(
        model=str(model), data=str(data), out=str(out), **{**known, "measures": ("loss",), "loss_rows": 6, **options}
    )


def without_times(value: Any) -> Any:
    """A table without what no two sweeps share."""
    volatile = ("seconds", "wall_seconds", "peak_bytes", "title")
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in volatile}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep that nothing disturbed."""
    return sweep(config(model, data, tmp_path_factory.mktemp("whole") / "sweep"))


def test_every_run_is_an_ordinary_run(whole: SweepResult, model: Path, data: Path, tmp_path: Path) -> None:
    """What was run before it in the same process changes no number: the last run equals one by itself."""
    cell = whole.path / "cells" / "learning_rate=1e-2-seed2"
    alone = sft(sft_config(model, data, tmp_path / "alone", learning_rate=1e-2, seed=2, patience=0))
    assert events(cell) == events(alone.run)
    assert info(cell)["status"] == "done"
    assert (cell / "adapter" / "adapters.safetensors").is_file()
    assert not (cell / "checkpoints").exists()


def test_the_table_holds_every_run_and_every_arm(whole: SweepResult) -> None:
    table = json.loads((whole.path / "table.json").read_text())
    assert [(r["arm"], r["seed"], r["status"]) for r in table["runs"]] == [
        (f"learning_rate={rate}", seed, "done") for seed in (1, 2) for rate in ("3e-3", "1e-2")
    ]
    first = table["runs"][0]
    assert [update for update, _, _ in first["evals"]] == [0, 3, 6]
    assert first["eval_loss"] == min(loss for _, _, loss in first["evals"])
    assert len(first["rates"]) == 6
    assert first["held_out_loss"] == pytest.approx(
        sum(a for a, _ in first["held_out"]) / sum(b for _, b in first["held_out"])
    )
    assert first["held_out_loss"] < table["base"]["held_out_loss"]
    by = {arm["arm"]: arm for arm in table["arms"]}
    runs = [r for r in table["runs"] if r["arm"] == "learning_rate=1e-2"]
    mean = sum(r["held_out_loss"] for r in runs) / 2
    assert by["learning_rate=1e-2"]["figures"]["held_out_loss"]["mean"] == pytest.approx(mean)
    found = by["learning_rate=1e-2"]["differences"]["held_out_loss"]
    assert found["value"] < 0
    assert found["by_both"]["interval"][1] < 0  # a rate three times as high learns more in six updates
    text = (whole.path / "table.md").read_text()
    assert "| learning_rate=1e-2 | 2 |" in text
    assert "2 seeds" in text


def test_the_held_out_loss_is_that_of_eval(whole: SweepResult, model: Path, data: Path) -> None:
    """The sums per conversation come to the mean loss of the style part, which another function computes."""
    from mlx_persona.evals.parts.style import mean_loss
    from mlx_persona.models.adapters import load_adapter
    from mlx_persona.models.load import load_model
    from mlx_persona.tokens.batches import evenly
    from mlx_persona.tokens.dataset import conversation_rows, load_split
    from mlx_persona.tokens.render import Renderer

    record = whole.table["runs"][0]
    loaded = load_model(str(model))
    load_adapter(loaded.model, whole.path / record["run"] / "adapter", loaded.identity)
    found = conversation_rows(load_split(data, "test"), Renderer(loaded.tokenizer), 128).rows
    rows = [found[i] for i in evenly(len(found), 6)]
    assert record["held_out_loss"] == pytest.approx(mean_loss(loaded.model, rows), rel=1e-5)


def test_a_killed_sweep_goes_on_to_the_same_table(whole: SweepResult, model: Path, data: Path, tmp_path: Path) -> None:
    """kill -9 in the second run, after its first checkpoint: the run goes on, and the first is not made again."""
    out = tmp_path / "sweep"
    known = config(model, data, out)
    script = (
        "import mlx_persona.backend, sys\n"
        "from mlx_persona.config import SweepConfig\n"
        "from mlx_persona.experiments.sweep import sweep\n"
        f"sweep(SweepConfig(**{ {k: getattr(known, k) for k in known.__dataclass_fields__}!r}))\n"
    )
    second = out / "cells" / "learning_rate=1e-2-seed1"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        while not (second / "checkpoints" / "000003" / "state.json").is_file():
            assert process.poll() is None, "the sweep ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = out / "measured" / "learning_rate=3e-3-seed1" / "cell.json"
    before = first.stat().st_mtime_ns
    again = sweep(SweepConfig(resume=str(out)))
    assert first.stat().st_mtime_ns == before
    assert without_times(again.table) == without_times(whole.table)
    assert events(second) == events(whole.path / "cells" / second.name)


def test_a_stop_is_no_failure_and_a_finished_sweep_has_nothing_left_to_do(
    whole: SweepResult, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    trained: list[str] = []

    def stopping(made: Any) -> Any:
        trained.append(made.resume or made.out)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return sft(made)

    monkeypatch.setattr(cells, "sft", stopping)
    with pytest.raises(Interrupted, match="every run so far is kept") as stop:
        sweep(config(model, data, out))
    assert f"sweep --resume {out}" in str(stop.value.hint)
    assert info(out)["status"] == "stopped"
    assert len(json.loads((out / "table.json").read_text())["runs"]) == 1
    again = sweep(SweepConfig(resume=str(out)))
    assert len(trained) == 5  # the first, the one stopped, and the three that were left
    assert without_times(again.table) == without_times(whole.table)
    sweep(SweepConfig(resume=str(out)))
    assert len(trained) == 5


def test_a_failed_run_stands_in_the_table_and_is_tried_again(
    whole: SweepResult, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"

    def failing(made: Any) -> Any:
        if made.seed == 1 and made.learning_rate == 1e-2:
            raise PersonaError("the disk is full", "free some space")
        return sft(made)

    monkeypatch.setattr(cells, "sft", failing)
    found = sweep(config(model, data, out))
    assert [r["status"] for r in found.table["runs"]] == ["done", "failed", "done", "done"]
    assert found.table["runs"][1]["error"] == "the disk is full"
    assert (found.table["arms"][1]["runs"], found.table["arms"][1]["failed"]) == (1, 1)
    assert "failed: the disk is full" in (out / "table.md").read_text()
    assert "arms with failed runs are means over fewer seeds" in found.table["notes"]
    monkeypatch.setattr(cells, "sft", sft)
    assert without_times(sweep(SweepConfig(resume=str(out))).table) == without_times(whole.table)


def test_a_run_that_really_fails_does_not_end_the_sweep(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate at which the loss is not finite, as a user would meet it; a run is told of in two lines."""
    found = sweep(config(model, data, tmp_path / "sweep", grid=("learning_rate=1e30,3e-3",), seeds="1"))
    bad, good = found.table["runs"]
    assert bad["status"] == "failed"
    assert "not finite" in bad["error"]
    assert good["status"] == "done"
    lines = capsys.readouterr().err.splitlines()
    assert [" ".join(line.split()[:2]) for line in lines] == [
        *("2 runs:", "run 1", "warning: it", "run 2", "evaluation loss")
    ]


def test_a_run_that_kills_the_process_again_and_again_is_given_up(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands in for the end of the process: nothing in the house catches it."""

    def dying(made: Any) -> Any:
        raise Killed

    out = tmp_path / "sweep"
    monkeypatch.setattr(cells, "sft", dying)
    with pytest.raises(Killed):
        sweep(config(model, data, out, seeds="1", grid=("learning_rate=3e-3",)))
    for _ in range(cells.DEATHS - 1):
        with pytest.raises(Killed):
            sweep(SweepConfig(resume=str(out)))
    (only,) = sweep(SweepConfig(resume=str(out))).table["runs"]
    assert only["error"] == "the process ended without a word in this run, 3 times"


def test_arms_at_matched_tokens_see_the_same_tokens(model: Path, data: Path, tmp_path: Path) -> None:
    """Batches of 2 and of 4 rows: as many tokens, up to a batch, in about twice as many updates."""
    settings = tuple(one for one in QUICK if not one.startswith("batch_size"))
    found = sweep(
        config(model, data, tmp_path / "s", match="tokens", settings=settings, grid=("batch_size=4,2",), seeds="1")
    )
    four, two = found.table["runs"]
    wanted = found.table["each"]["tokens"]
    assert wanted <= two["tokens"] <= four["tokens"] < wanted + 4 * 128
    assert two["updates"] > 1.5 * four["updates"]


def test_style_and_shorter_prompts_are_measured(model: Path, data: Path, tmp_path: Path) -> None:
    measured = config(
        model, data, tmp_path / "s", seeds="1", measures=("loss", "style", "prompts"), prompts=10, max_tokens=4
    )
    found = sweep(measured)
    first = found.table["runs"][0]
    assert 0 <= first["style_distance"] <= 2
    low, high = first["style_interval"]
    assert low <= first["style_distance"] <= high
    assert set(first["prompts"]["tokens"]) >= {"full", "slim", "none"}
    replies = (tmp_path / "s" / "measured" / "learning_rate=3e-3-seed1" / "replies.jsonl").read_text()
    parts = [json.loads(line)["part"] for line in replies.splitlines()]
    assert set(parts) == {"style", "prompts"}


def test_betas_start_from_one_adapter_with_the_same_pairs(
    whole: SweepResult, model: Path, data: Path, tmp_path: Path
) -> None:
    start = whole.path / whole.table["runs"][0]["run"]
    pairs = write_pairs(tmp_path / "pairs")
    settings = (*QUICK, f"adapter={start}", f"pairs={pairs}")
    found = sweep(config(model, data, tmp_path / "s", preset="beta", grid=(), settings=settings, seeds="1", match=""))
    assert [r["arm"] for r in found.table["runs"]] == ["beta 0.05", "beta 0.1", "beta 0.2", "beta 0.5"]
    assert [r["base_eval_loss"] for r in found.table["runs"]] == pytest.approx([math.log(2)] * 4, abs=1e-4)
    assert all(0 <= r["accuracy"] <= 1 for r in found.table["runs"])
    assert found.verdicts == []


def test_a_dry_run_shows_what_would_be_run_and_writes_nothing(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(model), "--data", str(data), "--preset", "tpt-ablation", "--set", "learning_rate=1e-3"]
    common = ["-C", str(tmp_path), "--updates", "5", "--set", "max_seq_length=128", "--dry-run"]
    assert _status(["sweep", *options, *common, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert len(planned["runs"]) == 36
    assert planned["each"]["tokens"] > 0
    assert _status(["sweep", *options, *common]) == 0
    shown = capsys.readouterr().out
    assert "does the onset follow the LR?" in shown
    assert "36 runs of sft" in shown
    assert not list(tmp_path.iterdir())


def test_changed_data_is_noticed(model: Path, data: Path, tmp_path: Path) -> None:
    own = tmp_path / "data"
    own.mkdir()
    for file in data.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    out = tmp_path / "sweep"
    sweep(config(model, own, out, seeds="1", grid=("learning_rate=3e-3",)))
    lines = (own / "train.jsonl").read_text().splitlines(keepends=True)
    (own / "train.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(PersonaError, match="the data changed"):
        sweep(SweepConfig(resume=str(out)))


def test_a_sweep_without_arms_names_the_presets(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="needs --preset") as error:
        sweep(config(model, data, tmp_path / "sweep", grid=(), settings=()))
    assert "tpt-ablation" in str(error.value.hint)
