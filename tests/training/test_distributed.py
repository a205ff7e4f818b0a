"""Several ranks do what one does: the same curves and pairs, one voice, and one end for all."""

from __future__ import annotations

import json
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_persona.config import PairsConfig
from mlx_persona.errors import PersonaError
from mlx_persona.runs import sorted_checkpoints
from mlx_persona.stages.dpo import dpo
from mlx_persona.stages.pairs import make_pairs
from mlx_persona.stages.sft import sft
from mlx_persona.training import distributed, lifeline
from mlx_persona.training.distributed import Group, join
from mlx_persona.training.lifeline import Lifeline
from tests.toy import dpo_config, events, info, sft_config
from tests.training.ranks import launched

CLOSE = 1e-4  # ranks add up in another order than one process does
# Three micro-batches for two ranks: one of them repeats one that does not count.
TRAIN: dict[str, Any] = {"updates": 50, "eval_every": 20, "batch_size": 2, "grad_accumulation": 3, "dropout": 0.1}


@pytest.fixture(scope="module")
def one(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SFT run of a single process."""
    return sft(sft_config(model, data, tmp_path_factory.mktemp("one") / "run", **TRAIN)).run


def flags(config: Any) -> list[str]:
    """A config as command-line options, where it differs from the defaults."""
    said = []
    for name, value in vars(config).items():
        if value != getattr(type(config)(), name):
            said += [f"--{name.replace('_', '-')}", str(value)]
    return said


def sft_words(model: Path, data: Path, **options: Any) -> list[str]:
    return ["sft", *flags(sft_config(model, data, "run", **{**TRAIN, **options}))]


def assert_same_curve(run: Path, other: Path) -> None:
    """Every figure of every event is close, and everything that is counted is equal."""
    first, second = events(run), events(other)
    assert [(e["event"], e["update"]) for e in first] == [(e["event"], e["update"]) for e in second]
    for one, two in zip(first, second, strict=True):
        assert one == pytest.approx(two, abs=CLOSE)
        assert one.get("tokens") == two.get("tokens")
        assert one.get("supervised_tokens") == two.get("supervised_tokens")


class Member(Group):
    """One of several, for what needs no others."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_every_item_counts_on_exactly_one_rank_and_all_make_equal_steps(items: list[int], size: int) -> None:
    numbered = list(enumerate(items))
    shares = [Member(rank, size).share(numbered) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(item for share in shares for item, counts in share if counts) == numbered
    assert sum(value for share in shares for (_, value), counts in share if counts) == sum(items)


def test_a_process_on_its_own_joins_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = join()
    assert (type(group), group.rank, group.size) == (Group, 0, 1)
    assert group.share("abc") == [("a", True), ("b", True), ("c", True)]
    # mlx.launch -n 1 gives a rank and an empty list of hosts.
    (tmp_path / "hosts").write_text("\n")
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    assert distributed._launched() is None


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"MLX_IBV_DEVICES": "f", "MLX_JACCL_COORDINATOR": "10.0.0.1:32323"}, ("jaccl", "10.0.0.1")),
        ({"NCCL_HOST_IP": "10.0.0.2", "MLX_WORLD_SIZE": "2"}, ("nccl", "10.0.0.2")),
        ({"NCCL_HOST_IP": "10.0.0.2", "MLX_WORLD_SIZE": "1"}, None),
    ],
)
def test_the_backend_is_the_one_that_mlx_launch_was_told(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, str], expected: tuple[str, str] | None
) -> None:
    for name, value in {"MLX_RANK": "1", **known}.items():
        monkeypatch.setenv(name, value)
    assert distributed._launched() == expected


def test_ranks_must_agree_and_the_error_names_what_differs() -> None:
    class Two(Member):
        def gather(self, value: Any) -> list[Any]:
            return [value, {**value, "seed": 8}]

    Two(0, 2).agree({"rank": 4, "seed": 8})
    with pytest.raises(PersonaError, match="differ in seed: 7 on rank 0, 8 on rank 1"):
        Two(0, 2).agree({"rank": 4, "seed": 7})


def pair_of_lines() -> tuple[Lifeline, Lifeline, socket.socket]:
    """Rank 0 and rank 1, and rank 1's end of the line."""
    one, other = socket.socketpair()
    return Lifeline(0, {1: one}, beat=0.02), Lifeline(1, {0: other}, beat=0.02), other


def test_a_rank_that_fails_says_why_and_all_others_hear_it() -> None:
    (a, to_one), (b, to_two) = socket.socketpair(), socket.socketpair()
    first = Lifeline(0, {1: a, 2: b}, beat=0.02)
    second, third = Lifeline(1, {0: to_one}, beat=0.02), Lifeline(2, {0: to_two}, beat=0.02)
    second.fail("its disk is full")
    assert first.reason(60) == third.reason(60) == "rank 1 failed: its disk is full"


def test_a_rank_whose_line_closes_is_gone() -> None:
    rank_0, _, line = pair_of_lines()
    assert rank_0.reason(0.2) is None
    line.shutdown(socket.SHUT_RDWR)
    assert "rank 1 is gone" in str(rank_0.reason(60))


def test_a_rank_that_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "SILENT_BEATS", 5)
    one, other = socket.socketpair()
    assert "has not been heard of" in str(Lifeline(0, {1: one}, beat=0.02).reason(60))
    other.close()


def test_a_reduction_that_all_have_entered_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "STALLED_BEATS", 5)
    rank_0, rank_1, _ = pair_of_lines()
    rank_0.enter()
    assert rank_0.reason(0.5) is None  # rank 1 is still computing
    rank_1.enter()
    assert "did not end" in str(rank_0.reason(60))


def test_two_ranks_train_as_one_does_and_rank_0_alone_speaks(
    model: Path, data: Path, one: Path, tmp_path: Path
) -> None:
    words = [*sft_words(model, data), "--json"]
    with launched(tmp_path, [words, words]) as ranks:
        out, err, status = ranks.end()
    assert status == [0, 0], err
    result = json.loads(out)
    assert result["run"] == "run"
    assert_same_curve(tmp_path / "run", one)
    assert err.count("update 50: evaluation loss") == 1
    assert info(tmp_path / "run")["status"] == "done"
    assert (tmp_path / "run/adapter/adapters.safetensors").is_file()


@pytest.mark.slow
def test_two_ranks_write_the_pairs_and_the_dpo_curve_of_one(model: Path, data: Path, one: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"n": 11, "max_tokens": 6, "batch_size": 2}
    asked = PairsConfig(model=str(model), data=str(data), adapter=str(one), **sizes)
    alone = make_pairs(replace(asked, out=str(tmp_path / "alone")))
    expected = dpo(dpo_config(one, alone.path, tmp_path / "dpo", **TRAIN))
    pairs = ["pairs", *flags(asked)]
    train = ["dpo", *flags(dpo_config(one, Path("data/pairs"), "dpo", **TRAIN)), "--json"]
    folder = tmp_path / "two"
    with launched(folder, [pairs, pairs]) as ranks:
        _, err, status = ranks.end()
    assert status == [0, 0], err
    for split in ("train", "valid"):
        assert (folder / f"data/pairs/{split}.jsonl").read_bytes() == (alone.path / f"{split}.jsonl").read_bytes()
    with launched(folder, [train, train]) as ranks:
        out, err, status = ranks.end()
    assert status == [0, 0], err
    assert_same_curve(folder / "dpo", expected.run)
    assert json.loads(out)["margin"] == pytest.approx(expected.extra["margin"], abs=CLOSE)


def test_a_killed_rank_ends_the_other_with_an_error_and_a_checkpoint(model: Path, data: Path, tmp_path: Path) -> None:
    # Few enough not to be compiled, which takes longer than all of them.
    words = sft_words(model, data, updates=190, eval_every=190, grad_accumulation=2)
    with launched(tmp_path, [words, words]) as ranks:
        ranks.wait_for(tmp_path / "run/metrics.jsonl", '"update": 3,')
        ranks.kill(1, signal.SIGKILL)
        _, err, status = ranks.end()
    assert status[0] == 1, err
    assert "error: rank 1 is gone" in err
    assert "hint: continue with --resume run" in err
    assert "Traceback" not in err
    run = tmp_path / "run"
    assert info(run)["status"] == "failed"
    # Nothing was lost but the update that was under way: every update that was logged is in the checkpoint.
    saved = json.loads((sorted_checkpoints(run)[-1] / "state.json").read_text())["update"]
    assert saved == events(run, "train")[-1]["update"] >= 3


@pytest.mark.slow
def test_a_stop_on_one_rank_stops_all_after_the_same_update_and_resumes_exactly(
    model: Path, data: Path, tmp_path: Path
) -> None:
    words = sft_words(model, data, updates=130, eval_every=130)
    with launched(tmp_path, [words, words]) as ranks:
        ranks.wait_for(tmp_path / "run/metrics.jsonl", '"update": 3,')
        ranks.kill(1, signal.SIGTERM)
        _, err, status = ranks.end()
    assert status[0] == 130, err
    assert status[1] in (130, -signal.SIGTERM), err
    run = tmp_path / "run"
    stopped = json.loads((sorted_checkpoints(run)[-1] / "state.json").read_text())["update"]
    assert f"stopped after update {stopped}" in err
    before = events(run)
    assert before[-1]["update"] == stopped
    with launched(tmp_path, [["sft", "--resume", "run"]] * 2) as ranks:
        _, err, status = ranks.end()
    assert status == [0, 0], err
    with launched(tmp_path / "whole", [words, words]) as ranks:
        _, err, status = ranks.end()
    assert status == [0, 0], err
    assert events(run) == events(tmp_path / "whole/run")


def test_ranks_with_other_options_do_not_begin(model: Path, data: Path, tmp_path: Path) -> None:
    commands = [sft_words(model, data, learning_rate=rate) for rate in (1e-3, 2e-3)]
    with launched(tmp_path, commands) as ranks:
        _, err, status = ranks.end()
    assert status[0] == 1
    assert status[1] != 0  # 1, or ended by mlx.launch once rank 0 had spoken
    assert "error: the ranks differ in learning_rate: 0.001 on rank 0, 0.002 on rank 1" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_error_on_one_rank_ends_the_other_too(model: Path, data: Path, tmp_path: Path) -> None:
    good = sft_words(model, data)
    bad = sft_words(model, tmp_path / "nowhere")
    with launched(tmp_path, [good, bad]) as ranks:
        _, err, status = ranks.end()
    assert 0 not in status
    assert "error: rank 1: " in err
    assert "nowhere" in err
