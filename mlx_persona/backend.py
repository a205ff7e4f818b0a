"""Device, fast BLAS and memory. Imported before :mod:`mlx`, wherever mlx is used.

Importing this module loads a fast BLAS on Linux (:mod:`mlx_persona.blas`). It never fails; it
reports, in :func:`doctor` and :func:`slow_blas_problem`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_persona import blas, heap

BLAS_HINT = "pip install 'mlx-persona[cpu]'  (or: apt-get install libopenblas0-pthread)"
SLOW_GFLOPS = 15.0
# What changes how MLX computes.
_MLX_SETTINGS = ("MLX_DISABLE_COMPILE", "MLX_ENABLE_TF32", "MLX_METAL_FAST_SYNCH")


BLAS: str | None = blas.load()

import mlx.core as mx  # noqa: E402  (only after the BLAS)


@functools.cache
def on_cpu() -> bool:
    """Whether MLX computes on the CPU (no Metal, no CUDA)."""
    return bool(mx.default_device() == mx.cpu)


if on_cpu():
    # MLX orders the operations of a graph breadth first, at most this wide. On one stream width gains nothing, and
    # with 20, the default, the backward pass holds several blocks' work at once: 105 MB instead of 84 for six
    # checkpointed blocks of SmolLM2 (docs/planner.md). Read at the first evaluation.
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "1")
    heap.keep_freed()


def device_name() -> str:
    """``metal``, ``cuda`` or ``cpu``."""
    if on_cpu():
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def blas_name() -> str | None:
    """The file name of the BLAS that was loaded before mlx."""
    return Path(BLAS).name if BLAS else None


# A Mac lets the GPU have two thirds of a memory of up to 36 GB, three quarters of a larger one.
_METAL_SHARES = ((36 * 2**30, 2 / 3), (math.inf, 3 / 4))
_CPU_SHARE = 0.9  # the system and the desktop keep the rest


def usable_bytes(total: int | None = None, device: str = "") -> int:
    """What a run may take of a machine's memory, in bytes: a Mac keeps a third or a quarter from the GPU.

    Args:
        total: the machine's memory (default: this machine's).
        device: ``metal``, ``cuda`` or ``cpu`` (default: this machine's).
    """
    device = device or device_name()
    if total is None and device == "metal" == device_name():
        known = mx.device_info().get("max_recommended_working_set_size")
        if known:
            return int(known)
    there = memory_bytes() if total is None else total
    if device == "metal":
        return int(there * next(share for limit, share in _METAL_SHARES if there <= limit))
    return int(there * _CPU_SHARE)


def memory_bytes() -> int:
    """Physical memory in bytes (of the device, where it has its own)."""
    if not on_cpu():
        info = mx.device_info()
        for key in ("memory_size", "total_memory"):
            if key in info:
                return int(info[key])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure_gflops(size: int = 1024, seconds: float = 0.5) -> float:
    """Measured rate of fp32 matrix products, in GFLOP/s (best of several, since machines are noisy)."""
    a = mx.random.normal((size, size), key=mx.random.key(0))
    mx.eval(a, a @ a)
    best, end = 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        mx.eval(a @ a)
        now = time.perf_counter()
        best = max(best, 2 * size**3 / (now - start) / 1e9)
        if now >= end:
            return best


@functools.cache
def slow_blas_problem() -> str | None:
    """What is wrong with matrix products here and the command that mends it, or None. Measured, not guessed."""
    if not on_cpu() or BLAS is not None:
        return None
    rate = measure_gflops(512, 0.2)
    if rate >= SLOW_GFLOPS:
        return None
    return f"matrix products run at {rate:.0f} GFLOP/s, for lack of a fast BLAS; mend it with: {BLAS_HINT}"


def versions() -> dict[str, str]:
    """Versions that decide whether a run can be repeated bit for bit."""
    out = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for package in ("mlx", "mlx-lm", "numpy", "mlx-persona"):
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            out[package] = "unknown"
    out["blas"] = blas_name() or "built in"
    threads = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    out["threads"] = threads or str(os.cpu_count())
    return out


def chip_name() -> str:
    """The processor as its maker calls it, where the system tells."""
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_machine() -> dict[str, str]:
    """What a maintainer must know to repeat what happened here; it names no person and no path."""
    known = versions()
    info = mx.device_info()
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k in _MLX_SETTINGS)
    return {
        "mlx-persona": known["mlx-persona"],
        "mlx, mlx-lm": f"{known['mlx']}, {known['mlx-lm']}",
        "Python, NumPy": f"{known['python']}, {known['numpy']}",
        "system": platform.platform(),
        "device": f"{device_name()}: {info.get('device_name', 'unknown')} ({info.get('architecture', 'unknown')})",
        "chip": f"{chip_name()}, {os.cpu_count()} cores",
        "memory": f"{memory_bytes() / 2**30:.1f} GB",
        "BLAS, threads": f"{known['blas']}, {known['threads']}",
        "MLX settings": ", ".join(settings) or "none",
    }


@dataclass(frozen=True)
class DoctorReport:
    """What this machine can do."""

    device: str
    mlx: str
    mlx_lm: str
    blas: str | None
    gflops: float
    memory_bytes: int
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "problems": list(self.problems)}


def doctor(seconds: float = 0.5) -> DoctorReport:
    """Measure this machine: device, versions, BLAS, GFLOP/s, memory, and what should be mended."""
    known = versions()
    problems = []
    gflops = measure_gflops(seconds=seconds)
    if on_cpu() and gflops < SLOW_GFLOPS:
        problems.append(f"matrix products run at {gflops:.0f} GFLOP/s; mend it with: {BLAS_HINT}")
    if sys.platform == "darwin" and on_cpu():
        problems.append("MLX does not see the GPU; use an arm64 Python on Apple silicon")
    gigabytes = memory_bytes() / 2**30
    if gigabytes < 15:
        problems.append(f"{gigabytes:.0f} GB of memory: choose a model under 4 B parameters (4-bit)")
    return DoctorReport(
        device_name(), known["mlx"], known["mlx-lm"], blas_name(), round(gflops, 1), memory_bytes(), tuple(problems)
    )
