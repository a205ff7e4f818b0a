"""Building something in the cache exactly once, however many processes want it."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from mlx_persona.errors import PersonaError


def build_once(target: Path, build: Callable[[Path], object]) -> Path:
    """Return ``target``, made by ``build(scratch)`` where it is not there yet.

    ``build`` must put ``target`` there in one move, when it is whole. ``scratch`` is an empty folder beside it,
    removed at the end; what a killed process left there is thrown away. Processes that want the same target
    wait for the first one.

    Raises:
        PersonaError: the cache cannot be written, or whatever ``build`` raises.
    """
    if target.exists():
        return target
    scratch = target.with_name(f".{target.name}.scratch")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The lock file stays: deleting it would let two processes hold two locks of one name.
        with target.with_name(f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return target
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                build(scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise PersonaError(
            f"cannot write {target}: {error.strerror or error}",
            "choose another folder for the cache: MLX_PERSONA_CACHE=/path/with/space",
        ) from error
    return target
