"""The machine: which BLAS is loaded, what the doctor says, and what a slow machine is told."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_persona import backend, blas


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``machine("libmkl_rt.so.2", bad=("libopenblas.so.0",))``: a Linux where these libraries can be loaded.

    Returns the names that were tried, in order; ``bad`` ones load but lack what MLX calls.
    """
    tried: list[str] = []

    def make(*there: str, bad: tuple[str, ...] = ()) -> list[str]:
        def load(name: str, mode: int = 0) -> Any:
            tried.append(name)
            if name in bad:
                return SimpleNamespace()
            if name not in there:
                raise OSError(name)
            assert mode == ctypes.RTLD_GLOBAL  # or MLX would not see it
            return SimpleNamespace(cblas_sgemm=print)

        monkeypatch.setattr(ctypes, "CDLL", load)
        return tried

    monkeypatch.delitem(sys.modules, "mlx.core")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(blas.VARIABLE, raising=False)
    monkeypatch.setattr(blas, "_installed", lambda package, prefix: None)
    return make


def test_the_systems_libraries_are_tried_in_their_order(machine: Callable[..., list[str]]) -> None:
    tried = machine("libmkl_rt.so.2")
    assert blas.load() == "libmkl_rt.so.2"
    assert tried == ["libopenblas.so.0", "libopenblasp.so.0", "libmkl_rt.so.3", "libmkl_rt.so.2"]


def test_a_library_without_plain_names_is_passed_over(machine: Callable[..., list[str]]) -> None:
    """SciPy's and NumPy's copies have prefixed names: they load and do not help."""
    machine("libopenblasp.so.0", bad=("libopenblas.so.0",))
    assert blas.load() == "libopenblasp.so.0"


def test_without_any_library_there_is_none(machine: Callable[..., list[str]]) -> None:
    machine()
    assert blas.load() is None


def test_the_variable_comes_first_and_the_wheel_second(
    machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("/own/libblas.so", "/wheel/libopenblas.so", "libopenblas.so.0")
    wheel = {"ngsolve-openblas": Path("/wheel/libopenblas.so")}
    monkeypatch.setattr(blas, "_installed", lambda package, prefix: wheel.get(package))
    assert blas.load() == "/wheel/libopenblas.so"
    monkeypatch.setenv(blas.VARIABLE, "/own/libblas.so")
    assert blas.load() == "/own/libblas.so"
    monkeypatch.setenv(blas.VARIABLE, "/missing.so")
    assert blas.load() == "/wheel/libopenblas.so"


def test_a_wheel_that_lacks_gfortran_is_linked_to_the_one_that_mlx_brings(
    machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLX_PERSONA_CACHE", str(tmp_path))
    files = {"libopenblas": "w/libopenblas.so", "libgfortran": "m/libgfortran-1.so.5", "libquadmath": "m/libq.so"}
    monkeypatch.setattr(blas, "_installed", lambda package, prefix: tmp_path / files[prefix])
    loaded: list[Path] = []

    def load(name: str, mode: int = 0) -> Any:
        path = Path(name)
        if path == tmp_path / "m/libq.so" or (path.parent / "libgfortran.so.5").is_symlink():
            loaded.append(path)
            return SimpleNamespace(cblas_sgemm=print)
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    found = blas.load()
    assert found == blas.load()  # the links are there the second time
    folder = Path(str(found)).parent
    assert folder.parent == tmp_path / "blas"
    assert {p.name: p.readlink() for p in folder.iterdir()} == {
        "libopenblas.so": tmp_path / "w/libopenblas.so",
        "libgfortran.so.5": tmp_path / "m/libgfortran-1.so.5",
    }


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_is_loaded_where_none_is_needed(
    machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    tried = machine("libopenblas.so.0")
    monkeypatch.setattr(sys, "platform", platform)
    assert blas.load() is None
    assert tried == []


def test_after_mlx_it_is_too_late(machine: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    tried = machine("libopenblas.so.0")
    monkeypatch.setitem(sys.modules, "mlx.core", SimpleNamespace())  # type: ignore[arg-type]
    assert blas.load() is None
    assert tried == []


def test_the_doctors_report_has_the_keys_of_the_contract() -> None:
    report = backend.doctor(0.05).to_json()
    assert json.loads(json.dumps(report)) == report
    assert report.keys() == {"device", "mlx", "mlx_lm", "blas", "gflops", "memory_bytes", "problems"}
    assert report["device"] in ("cpu", "metal", "cuda")
    assert report["gflops"] > 0
    assert report["memory_bytes"] > 2**28


@pytest.mark.parametrize(
    ("gflops", "gigabytes", "expected"),
    [
        (100.0, 16, []),
        (4.0, 16, ["matrix products run at 4 GFLOP/s; mend it with: " + backend.BLAS_HINT]),
        (100.0, 8, ["8 GB of memory: choose a model under 4 B parameters (4-bit)"]),
    ],
)
def test_the_doctor_says_what_to_mend(
    monkeypatch: pytest.MonkeyPatch, gflops: float, gigabytes: int, expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(backend, "on_cpu", lambda: True)
    monkeypatch.setattr(backend, "measure_gflops", lambda size=1024, seconds=0.5: gflops)
    monkeypatch.setattr(backend, "memory_bytes", lambda: gigabytes * 2**30)
    assert list(backend.doctor().problems) == expected


@pytest.mark.parametrize(("library", "gflops", "slow"), [(None, 4.0, True), (None, 40.0, False), ("x.so", 4.0, False)])
def test_a_run_on_a_slow_blas_is_told_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, library: str | None, gflops: float, slow: bool
) -> None:
    monkeypatch.setattr(backend, "BLAS", library)
    monkeypatch.setattr(backend, "on_cpu", lambda: True)
    monkeypatch.setattr(backend, "measure_gflops", lambda size, seconds: gflops)
    backend.slow_blas_problem.cache_clear()
    problem = backend.slow_blas_problem()
    backend.slow_blas_problem.cache_clear()
    if not slow:
        assert problem is None
    else:
        assert "4 GFLOP/s" in str(problem)
        assert "pip install 'mlx-persona[cpu]'" in str(problem)


def test_versions_name_everything_that_moves_the_last_bit() -> None:
    known = backend.versions()
    assert known.keys() == {"python", "platform", "mlx", "mlx-lm", "numpy", "mlx-persona", "blas", "threads"}
    assert "unknown" not in known.values()


def test_the_backend_loads_its_blas_before_mlx() -> None:
    """In a process of its own: here mlx is loaded already."""
    script = "import mlx_persona.backend as b, sys; print(b.BLAS); sys.exit(b.BLAS is None and sys.platform == 'linux')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("gigabytes", "device", "share"),
    [(16, "metal", 2 / 3), (36, "metal", 2 / 3), (64, "metal", 3 / 4), (16, "cpu", 0.9)],
)
def test_a_budget_is_less_what_the_system_keeps(gigabytes: int, device: str, share: float) -> None:
    assert backend.usable_bytes(gigabytes * 2**30, device) == int(gigabytes * 2**30 * share)


@pytest.mark.skipif(not backend.on_cpu(), reason="the CPU's order of evaluation")
def test_on_the_cpu_graphs_are_ordered_depth_first() -> None:
    code = "import os, mlx_persona.backend; print(os.environ['MLX_BFS_MAX_WIDTH'])"
    for given, expected in (({}, "1"), ({"MLX_BFS_MAX_WIDTH": "7"}, "7")):
        without = {k: v for k, v in os.environ.items() if k != "MLX_BFS_MAX_WIDTH"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=without | given)
        assert done.stdout.strip() == expected
