"""The phase controller in whole runs: what it changes, what it leaves alone, and what is told of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_persona.config import SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models.load import load_model
from mlx_persona.phase.noise import bootstrap_error
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.sft import sft
from mlx_persona.training.optim import learning_rate
from tests.toy import dpo_config, events, info, sft_config, write_pairs

# Falls fast at first and has settled in the end; evaluated often enough to see both.
SETTLES: dict[str, Any] = {"updates": 60, "eval_every": 2, "learning_rate": 1e-2, "patience": 0}
NEVER = ("onset=1000", "commit=0.02")


@pytest.fixture(scope="module")
def controlled(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under control through S0, S1 and S2."""
    out = tmp_path_factory.mktemp("controlled") / "run"
    return sft(sft_config(model, data, out, **SETTLES, phase="control", phase_set=("commit=0.04",))).run


def own(event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("seconds", "peak_bytes")}


def test_observing_changes_no_number(model: Path, data: Path, tmp_path: Path) -> None:
    logged = {}
    for mode in ("off", "observe"):
        sft(sft_config(model, data, tmp_path / mode, **SETTLES, phase=mode))
        logged[mode] = [own(e) for e in events(tmp_path / mode)]
    assert [e for e in logged["observe"] if e["event"] != "phase"] == logged["off"]
    evals = [e["update"] for e in logged["off"] if e["event"] == "eval"]
    assert [e["update"] for e in logged["observe"] if e["event"] == "phase"] == evals
    assert {e["phase"] for e in logged["observe"] if e["event"] == "phase"} >= {"S0", "S1"}
    assert all(e["lr_factor"] == 1 and e["batch_factor"] == 1 for e in logged["observe"] if e["event"] == "phase")
    off, seen = (info(tmp_path / mode) for mode in ("off", "observe"))
    assert "phase" not in off
    assert off["phases"] == []
    assert (off["best_update"], off["eval_loss"]) == (seen["best_update"], seen["eval_loss"])
    assert seen["phase"]["mode"] == "observe"


def test_the_pulse_and_the_rate_are_on_in_s1_only(controlled: Path) -> None:
    """Twelve rows are an epoch of three micro-batches of like size: four times as many are four times the tokens."""
    phases = {e["update"]: e for e in events(controlled, "phase")}
    onset = next(u for u, e in phases.items() if e["phase"] == "S1")
    settled = next(u for u, e in phases.items() if e["phase"] == "S2")
    train = events(controlled, "train")
    typical = np.median([e["supervised_tokens"] for e in train if e["update"] <= onset])
    for event in train:
        update = event["update"]
        pulsed = onset < update <= onset + 6  # a tenth of 60 updates
        ratio = event["supervised_tokens"] / typical
        assert 3 < ratio < 5.5 if pulsed else 0.6 < ratio < 1.6, update
        rate = learning_rate(update, 60, 1e-2, 0.0, SftConfig().final_lr)
        assert event["learning_rate"] == rate * (1.1 if onset < update <= settled else 1.0)


def test_what_is_recorded_of_the_phases(controlled: Path) -> None:
    told, train = info(controlled)["phase"], events(controlled, "train")
    assert told["mode"] == "control"
    assert told["profile"]["onset"] == 0.05
    assert [one["phase"] for one in told["phases"]] == ["S0", "S1", "S2"]
    assert sum(one["updates"] for one in told["phases"]) == 60
    assert sum(one["tokens"] for one in told["phases"]) == sum(e["tokens"] for e in train)
    s1 = told["phases"][1]
    norms = [e["grad_norm"] for e in train if s1["from"] < e["update"] <= s1["to"]]
    assert s1["grad_norm"]["peak"] == max(norms)
    assert s1["grad_norm"]["median"] == pytest.approx(np.median(norms))
    s2 = told["phases"][2]["grad_norm"]
    assert told["calming"]["variance"] == pytest.approx(s2["variance"] / np.var(norms))
    assert told["calming"]["mean_to_peak"] == pytest.approx(s2["mean"] / max(norms))
    assert told["calming"]["median_to_p95"] == pytest.approx(s2["median"] / np.quantile(norms, 0.95))
    assert info(controlled)["phases"] == told["phases"]
    assert "S1" in told["story"]
    assert "learning rate times 1.1" in told["story"]


def test_the_chosen_checkpoint_is_the_eligible_one(controlled: Path) -> None:
    out = controlled
    phases, losses = events(out, "phase"), {e["update"]: e["loss"] for e in events(out, "eval")}
    eligible = [e["update"] for e in phases if e["eligible"]]
    assert eligible
    assert all(e["phase"] == "S2" for e in phases if e["eligible"])
    best = min(eligible, key=lambda update: losses[update])
    chosen = info(out)["phase"]["chosen"]
    assert chosen == {"update": best, "phase": "S2", "eligible": True}
    assert info(out)["best_update"] == best
    assert info(out)["eval_loss"] == losses[best]
    assert (out / "checkpoints" / f"{best:06d}").is_dir()


def test_an_eligible_checkpoint_is_kept_and_chosen_over_a_lower_loss(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_persona.training import watch

    real = watch.on_eval

    def only_early(controller: Any, state: Any, update: int, loss: float) -> Any:
        state, verdict = real(controller, state, update, loss)
        return (state._replace(chosen=4, chosen_loss=loss), verdict) if update == 4 else (state, verdict)

    monkeypatch.setattr(watch, "on_eval", only_early)
    asked = {"updates": 16, "eval_every": 2, "learning_rate": 1e-2, "patience": 0, "keep_last": 1}
    by_phase = sft(sft_config(model, data, tmp_path / "phase", **asked, select="phase"))
    by_loss = sft(sft_config(model, data, tmp_path / "loss", **asked))
    assert by_phase.best_update == 4
    assert by_loss.best_update == 16
    assert sorted(int(p.name) for p in (tmp_path / "phase/checkpoints").iterdir()) == [4, 16]
    one, other = ((tmp_path / name / "adapter/adapters.safetensors").read_bytes() for name in ("phase", "loss"))
    assert one != other


def test_overfitting_ends_the_run_and_the_best_is_restored(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation losses that turn round at update 8, while training goes on as it does."""
    from mlx_persona.training.loop import Loop

    real = Loop._evaluate

    def turning(loop: Loop) -> dict[str, float]:
        emit, update = loop._emit, loop.state.update
        shown = {"loss": 5 - 0.2 * update if update <= 8 else 3.4 + 0.1 * (update - 8)}
        loop._emit = lambda event, **values: emit(event, **(values | shown if event == "eval" else values))  # type: ignore[method-assign]
        try:
            return real(loop) | shown
        finally:
            loop._emit = emit  # type: ignore[method-assign]

    monkeypatch.setattr(Loop, "_evaluate", turning)
    result = sft(sft_config(model, data, tmp_path / "run", **SETTLES, phase="control"))
    assert info(tmp_path / "run")["status"] == "stopped"
    assert events(tmp_path / "run")[-1]["event"] == "early_stop"
    assert "training loss falls" in events(tmp_path / "run")[-1]["reason"]
    assert (result.best_update, result.phases[-1]["phase"]) == (8, "S3")
    assert result.phases[-1]["from"] == 14
    watched = sft(sft_config(model, data, tmp_path / "observed", **SETTLES))
    assert info(tmp_path / "observed")["status"] == "done"
    assert watched.phases[-1]["phase"] == "S3"


def test_a_run_by_tokens_ends_at_them_and_its_schedule_too(model: Path, data: Path, tmp_path: Path) -> None:
    """Whatever a pulse does, arms of an experiment see the same amount of data and end at the same learning rate."""
    out = {}
    for name, extra in (("plain", {}), ("pulsed", {"phase": "control"})):
        options = {**SETTLES, "updates": None, "tokens": 9000}
        sft(sft_config(model, data, tmp_path / name, **options, **extra))
        out[name] = events(tmp_path / name, "train")
    longest = max(e["tokens"] for e in out["pulsed"])
    for train in out.values():
        assert 9000 <= sum(e["tokens"] for e in train) < 9000 + longest
        assert train[-1]["learning_rate"] == pytest.approx(1e-3, rel=0.35)
    assert len(out["pulsed"]) < len(out["plain"])
    evals = [e["update"] for e in events(tmp_path / "pulsed", "eval")]
    assert evals[-1] == out["pulsed"][-1]["update"]


def test_dpo_is_watched_too(model: Path, data: Path, tmp_path: Path) -> None:
    start = sft(sft_config(model, data, tmp_path / "sft", updates=2)).run
    result = dpo(dpo_config(start, write_pairs(tmp_path / "pairs"), tmp_path / "dpo", updates=8))
    assert [e["update"] for e in events(tmp_path / "dpo", "phase")] == [0, 2, 4, 6, 8]
    assert info(tmp_path / "dpo")["phase"]["noise"] == pytest.approx(0, abs=1e-6)  # ln 2 for every pair
    assert result.phases


def test_noise_is_that_of_the_examples(model: Path, data: Path, tmp_path: Path) -> None:
    """The standard error that SciPy's bootstrap gives for the losses of mlx-lm's own forward pass."""
    from scipy.stats import bootstrap

    from mlx_persona.tokens.dataset import conversation_rows, load_split
    from mlx_persona.tokens.render import Renderer

    config = sft_config(model, data, tmp_path / "run", updates=2, max_seq_length=64)
    sft(config)
    loaded = load_model(str(model))
    rows = conversation_rows(load_split(data, "valid"), Renderer(loaded.tokenizer), 64).rows
    sums, weights = [], []
    for row in rows:
        logits = loaded.model(mx.array(row.ids[None, :-1]))[0]
        told = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        mask = np.array(row.mask[1:], bool)
        sums.append(-float(np.array(told)[np.arange(len(mask)), np.array(row.ids[1:])][mask].sum()))
        weights.append(float(mask.sum()))
    found = bootstrap(
        (np.array(sums), np.array(weights)),
        lambda s, w, axis: s.sum(axis=axis) / w.sum(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    assert info(tmp_path / "run")["phase"]["noise"] == pytest.approx(found.standard_error, rel=0.1)
    assert bootstrap_error(sums, weights) == pytest.approx(found.standard_error, rel=0.1)
    assert bootstrap_error([1.0], [2.0]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"phase": "often"}, "phase must be one of"),
        ({"phase_profile": "demo"}, "phase_profile must be one of"),
        ({"phase_set": ("speed=9",)}, "phase_set must be NAME=VALUE"),
        ({"phase": "off", "select": "phase"}, "select must not be phase"),
        ({"tokens": 100, "updates": 3}, "tokens must be left out"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PersonaError, match=words):
        SftConfig(**options)


def test_a_profile_that_never_sees_anything(model: Path, data: Path, tmp_path: Path) -> None:
    result = sft(sft_config(model, data, tmp_path / "run", **SETTLES, phase="control", phase_set=NEVER))
    told = info(tmp_path / "run")["phase"]
    assert [one["phase"] for one in result.phases] == ["S0"]
    assert told["calming"] == {"variance": None, "mean_to_peak": None, "median_to_p95": None}
    assert "The controller changed nothing." in told["story"]
    assert math.isfinite(result.eval_loss)
