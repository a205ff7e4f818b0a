"""The selftest as a whole: all checks run whatever happens, and what is printed can be pasted into a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_persona import backend, cli
from mlx_persona.errors import Interrupted
from mlx_persona.selftest import run
from mlx_persona.selftest.kit import Measured
from mlx_persona.selftest.run import Check, CheckResult, run_check, selftest


def _raises(error: BaseException) -> Callable[[], Measured]:
    def measure() -> Measured:
        raise error

    return measure


GOOD = Check("fine", lambda: Measured(1e-5, 1e-4))
BAD = Check("too far", lambda: Measured(2e-4, 1e-4))
BROKEN = Check("broken", _raises(RuntimeError("[metal] no such kernel\nin a file")))


def test_all_checks_run_and_what_one_raises_is_a_row() -> None:
    result = selftest([BROKEN, BAD, GOOD])
    assert [(c.name, c.passed, c.figure, c.limit, c.error) for c in result.checks] == [
        ("broken", False, None, None, "RuntimeError: [metal] no such kernel"),
        ("too far", False, 2e-4, 1e-4, ""),
        ("fine", True, 1e-5, 1e-4, ""),
    ]
    assert result.failed == ["broken", "too far"]
    assert [row[:4] for row in result.table()[1]] == [
        ["broken", "FAILED", "RuntimeError: [metal] no such kernel", ""],
        ["too far", "FAILED", "2.0e-04", "1.0e-04"],
        ["fine", "ok", "1.0e-05", "1.0e-04"],
    ]


def test_an_exception_without_a_word_is_named() -> None:
    assert run_check(Check("x", _raises(MemoryError()))).error == "MemoryError"


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_what_is_not_finite_fails_and_is_json(figure: float) -> None:
    result = run_check(Check("x", lambda: Measured(figure, 1.0)))
    assert (result.passed, result.figure, result.limit) == (False, None, 1.0)
    assert result.row()[2] == "not finite"
    json.dumps(selftest([Check("x", lambda: Measured(figure, 1.0))]).to_json(), allow_nan=False)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("stopped", "continue with --resume /tmp/x")])
def test_the_user_can_stop_it(stop: BaseException) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_check(Check("x", _raises(stop)))


def _doctor(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    status = cli._status(["doctor", "--seconds", "0.01", *flags])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(("checks", "status"), [([GOOD], 0), ([GOOD, BROKEN], 1)])
def test_the_exit_status_says_whether_all_passed(
    checks: list[Check],
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "all_checks", lambda: iter(checks))
    got, out, err = _doctor(capsys, "--selftest")
    assert got == status
    assert out.index("mlx-persona") < out.index("GFLOP/s") < out.index("fine")
    for word in ("mlx, mlx-lm", "Python", "system", "device", "chip", "memory", "BLAS", "1.0e-05"):
        assert word in out
    assert ("error: 1 of 2 checks failed: broken" in err) == (status == 1)
    assert ("RuntimeError: [metal] no such kernel" in out) == (status == 1)
    assert "Traceback" not in out + err


def test_json_holds_everything_and_the_status_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "all_checks", lambda: iter([GOOD, BROKEN]))
    status, out, _ = _doctor(capsys, "--selftest", "--json")
    found = json.loads(out)
    assert status == 1
    assert {"device", "gflops", "problems"} <= found.keys()
    assert found["selftest"]["passed"] is False
    assert found["selftest"]["machine"] == backend.describe_machine()
    assert [set(c) for c in found["selftest"]["checks"]] == [set(CheckResult.__dataclass_fields__)] * 2


def test_without_the_flag_nothing_is_checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "all_checks", _raises(AssertionError("asked for checks")))
    status, out, _ = _doctor(capsys, "--json")
    assert status == 0
    assert "selftest" not in json.loads(out)


def test_the_machine_is_described_without_a_person_or_a_path() -> None:
    text = json.dumps(backend.describe_machine())
    assert str(Path.home()) not in text
    assert Path.home().name not in text or len(Path.home().name) < 5
    assert "unknown" not in text
