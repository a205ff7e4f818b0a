"""The DPO benchmark does the same work on every side, and leaves the model as it was."""

from __future__ import annotations

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_persona.benchmarks import dpo as bench
from mlx_persona.benchmarks.dpo import PEER, DpoBenchResult, bench_dpo
from mlx_persona.config import DpoBenchConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models import adapters
from mlx_persona.models.load import load_model
from mlx_persona.tokens.batches import make_row
from tests.toy import write_model, write_pairs

STACKED = "ours, prompts read twice"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def config(model: Path, pairs: Path, **options: Any) -> DpoBenchConfig:
    quick: dict[str, Any] = {"n": 10, "rank": 2, "batch_size": 4, "max_seq_length": 128, "rounds": 1}
    return DpoBenchConfig(model=str(model), pairs=str(pairs), **{**quick, **options})


def test_without_the_peer_ours_is_measured_against_itself(
    model: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten pairs are two whole micro-batches of four; both layouts start at the reference and learn alike."""
    monkeypatch.setattr(bench, "_peer_module", lambda: None)
    result = bench_dpo(config(model, pairs))
    assert f"{PEER} is not installed" in capsys.readouterr().err
    assert list(result.sides) == ["ours", STACKED]
    assert result.pairs == 8
    losses = [side["loss"] for side in result.sides.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] == pytest.approx(math.log(2), abs=0.02)
    for side in result.sides.values():
        assert 0 < side["reference_seconds_per_pair"] < side["seconds_per_pair"]
        assert side["peak_bytes"] > 0
    assert json.loads(json.dumps(result.to_json()))["ratio"].keys() == {STACKED}


class Peer:
    """Stands in for mlx-lm-lora's trainer: notes what it is given, takes no step."""

    seen: list[Any]
    arguments: dict[str, Any]

    def DPOTrainingArgs(self, **arguments: Any) -> dict[str, Any]:
        """Its options, as they are."""
        self.seen, self.arguments = [], arguments
        return arguments

    def iterate_dpo_batches(self, dataset: Any, batch_size: int, max_seq_length: int, **_: Any) -> Any:
        """Every pair once, in order."""
        return iter([dataset[i : i + batch_size] for i in range(0, len(dataset), batch_size)])

    def train_dpo(
        self, model: Any, ref_model: Any, optimizer: Any, data: Any, _: Any, args: Any, training_callback: Any
    ) -> None:
        """Asks for a new iterator in every step, as the real one does."""
        assert mx.device_info()["max_recommended_working_set_size"] >= 0
        assert ref_model is not model
        assert not adapters.trainable(ref_model)
        assert adapters.trainable(model)
        for _ in range(args["iters"]):
            self.seen.append(next(self.iterate_dpo_batches(dataset=data, batch_size=1, max_seq_length=1, train=True)))
            training_callback.on_train_loss_report({"train_loss": 0.5})


def test_the_peer_sees_every_pair_once_in_a_pass_and_leaves_no_trace(model: Path, pairs: Path) -> None:
    peer, loaded = Peer(), load_model(str(model)).model
    settings = config(model, pairs, n=8)
    rows = bench._whole_batches(
        bench.pair_rows(bench.load_pairs(pairs, "train"), bench.Renderer(load_model(str(model)).tokenizer), 128),
        settings,
    )
    before = loaded(mx.array([[1, 2, 3]]))
    figures = bench._peer(peer, loaded, rows, settings)
    assert figures["loss"] == 0.5
    assert peer.arguments["iters"] == 4
    assert peer.seen[:2] == peer.seen[2:]
    examples = [example for batch in peer.seen[:2] for example in batch]
    assert [e["chosen"] for e in examples] == [bench._peer_example(c, c)["chosen"] for c in rows.chosen]
    assert mx.array_equal(loaded(mx.array([[1, 2, 3]])), before)
    assert not adapters.trainable(loaded)


def test_the_peer_is_given_exactly_our_targets() -> None:
    """Its mask runs from the prompt's end to the row's, so what follows the last target is cut off."""
    chosen = make_row([1, 2, 3, 4, 5], [False, False, True, True, False])
    rejected = make_row([1, 2, 9], [False, False, True])
    found = bench._peer_example(chosen, rejected)
    expected = {"chosen": [1, 2, 3, 4], "chosen_prompt_length": 2, "rejected": [1, 2, 9], "rejected_prompt_length": 2}
    assert found == expected
    targets = [found[side][found[f"{side}_prompt_length"] :] for side in ("chosen", "rejected")]
    assert targets == [row.ids[np.flatnonzero(row.mask)].tolist() for row in (chosen, rejected)]


def test_the_table_puts_ours_over_the_others() -> None:
    ours = {"seconds_per_pair": 1.0, "reference_seconds_per_pair": 0.25, "peak_bytes": 1e9, "loss": 0.7}
    other = {"seconds_per_pair": 4.0, "reference_seconds_per_pair": 0.0, "peak_bytes": 2e9, "loss": 0.7}
    _, rows = DpoBenchResult({"ours": ours, PEER: other}, 8).table()
    assert rows == [
        ["ours", "1.000", "0.250", "1.00", "1000", "1.00"],
        [PEER, "4.000", "0.000", "0.25", "2000", "0.50"],
    ]


def test_too_few_pairs_are_an_error(model: Path, pairs: Path) -> None:
    with pytest.raises(PersonaError, match=r"13 pairs are needed, .* has 12 that fit in 128 tokens"):
        bench_dpo(config(model, pairs, batch_size=13))
