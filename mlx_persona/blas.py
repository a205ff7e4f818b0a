"""A fast BLAS for Linux CPU, loaded before mlx. Imports no mlx.

MLX's CPU build brings a reference BLAS (3-7 GFLOP/s here). A library whose plain ``cblas_sgemm``
is loaded globally first takes its place: 20-40 times faster (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path

from mlx_persona.cache import cache_dir

VARIABLE = "MLX_PERSONA_BLAS"
# Debian and Fedora keep a threaded build; oneMKL's runtime has plain symbols too.
SYSTEM_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libmkl_rt.so.3", "libmkl_rt.so.2")


def _installed(package: str, prefix: str) -> Path | None:
    """The first file of an installed package whose name starts with ``prefix``."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if f.name.startswith(prefix)), None)


def _open(name: str) -> bool:
    """Load one library globally, if it has what mlx calls."""
    try:
        return bool(ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL).cblas_sgemm)
    except (OSError, AttributeError):
        return False


def _with_gfortran(library: Path) -> str | None:
    """A path from which ``library`` also finds a ``libgfortran.so.5`` on machines that have none.

    The wheel's library searches its own folder for it ($ORIGIN), and mlx-cpu's wheel brings one
    under a mangled name. A folder of two links in the cache joins them; nothing is copied.
    """
    gfortran, quadmath = _installed("mlx-cpu", "libgfortran"), _installed("mlx-cpu", "libquadmath")
    if gfortran is None or quadmath is None:
        return None
    key = hashlib.sha256(f"{library}\0{gfortran}".encode()).hexdigest()[:16]
    folder = cache_dir() / "blas" / key
    try:
        ctypes.CDLL(str(quadmath))  # libgfortran's own dependency, found by its name once loaded
        folder.mkdir(parents=True, exist_ok=True)
        for link, target in ((folder / library.name, library), (folder / "libgfortran.so.5", gfortran)):
            if not link.is_symlink():
                part = folder / f".{link.name}.{os.getpid()}"
                part.symlink_to(target)
                part.replace(link)
    except OSError:
        return None
    return str(folder / library.name)


def load() -> str | None:
    """Load a fast BLAS and return its name; None where there is none, or where none is needed.

    Order: ``$MLX_PERSONA_BLAS``, the ``[cpu]`` extra's wheel, the system's libraries. Must run
    before mlx is imported, or it cannot take effect.
    """
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return None
    if (named := os.environ.get(VARIABLE)) and _open(named):
        return named
    if wheel := _installed("ngsolve-openblas", "libopenblas"):
        if _open(str(wheel)):
            return str(wheel)
        linked = _with_gfortran(wheel)
        if linked and _open(linked):
            return linked
    return next((name for name in SYSTEM_NAMES if _open(name)), None)
