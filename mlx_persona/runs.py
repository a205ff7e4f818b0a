"""A run directory: resolved config, metrics, checkpoints, lineage, and who may write to it.

``runs/<stage>-<n>/`` holds ``config.yaml``, ``run.json``, ``metrics.jsonl``, ``checkpoints/<update>/``
and ``adapter/`` (the chosen one).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import yaml

from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.files import write_text
from mlx_persona.schema import dump_line
from mlx_persona.settings import build

Config = TypeVar("Config", bound=Any)
RUNS = Path("runs")
ADAPTER = "adapter"
ADAPTER_FILES = ("adapter_config.json", "adapters.safetensors")


def next_free(stage: str, root: Path = RUNS) -> Path:
    """The first unused ``runs/<stage>-<n>``."""
    numbers = [number for number, _ in _numbered(stage, root)]
    return root / f"{stage}-{max(numbers, default=0) + 1}"


def claim(stage: str, root: Path = RUNS) -> Path:
    """Make the first unused ``runs/<stage>-<n>``; two processes never get the same. Raises PersonaError."""
    while True:
        path = next_free(stage, root)
        try:
            path.mkdir(parents=True)
        except OSError as error:
            if path.is_dir():
                continue  # another process was faster
            raise PersonaError(f"cannot write to {path}: {error.strerror}") from error
        return path


def _numbered(stage: str, root: Path) -> list[tuple[int, Path]]:
    """Existing run directories of a stage with their numbers, oldest first."""
    found = []
    if root.is_dir():
        for path in root.iterdir():
            match = re.fullmatch(rf"{re.escape(stage)}-(\d+)", path.name)
            if match and path.is_dir():
                found.append((int(match[1]), path))
    return sorted(found)


def newest(stages: tuple[str, ...], root: Path = RUNS) -> Path | None:
    """The most recent run of any of these stages that has a result to build on; earlier stages win no ties."""
    fits = []
    for rank, stage in enumerate(stages):
        for number, path in _numbered(stage, root):
            info = read_info(path)
            if info and info.get("status") in ("done", "stopped") and find_adapter(path):
                fits.append(((info.get("finished", 0.0), -rank, number), path))
    return max(fits)[1] if fits else None


def newest_begun(stages: tuple[str, ...], root: Path = RUNS) -> Path | None:
    """The run of any of these stages to look at: one that is being written, or else the one that was begun last."""
    begun = []
    for stage in stages:
        for number, path in _numbered(stage, root):
            if info := read_info(path):
                started = info.get("started")
                held = info.get("status") == "running" and is_held(path)
                begun.append(((held, started if isinstance(started, int | float) else 0.0, number), path))
    return max(begun)[1] if begun else None


def newest_model(root: Path = RUNS) -> str | None:
    """The base model of the most recent training run, as its user named it; None where there is no run."""
    run = newest(("dpo", "sft"), root)
    model = (read_info(run) or {}).get("model") if run else None
    return model if isinstance(model, str) and model else None


def newest_fused(root: Path = RUNS) -> Path | None:
    """The most recent fused model that is whole."""
    whole = [path for _, path in _numbered("fused", root) if (read_info(path) or {}).get("status") == "done"]
    return whole[-1] if whole else None


def read_info(run: Path) -> dict[str, Any] | None:
    """``run.json`` of a run, or None where there is none that can be read."""
    try:
        value = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None


def find_adapter(path: Path) -> Path | None:
    """The adapter in ``path``: itself, its ``adapter/``, or (a run that was cut off) its best checkpoint.

    The checkpoints of a stacked run are none: they hold only the outer half.
    """
    for folder in (path, path / ADAPTER):
        if (folder / ADAPTER_FILES[0]).is_file():
            return folder
    checkpoints = sorted_checkpoints(path)
    if not checkpoints or (read_info(path) or {}).get("stacked"):
        return None
    state = json.loads((checkpoints[-1] / "state.json").read_text(encoding="utf-8"))
    best = path / "checkpoints" / f"{state['best_update']:06d}"
    return best if best.is_dir() else checkpoints[-1]


def resolve_adapter(name: str) -> Path:
    """An adapter named by the user: its folder, or a run's; raises PersonaError."""
    path = Path(name)
    if not path.is_dir():
        raise PersonaError(f"no such adapter or run: {name}")
    found = find_adapter(path)
    if found is None:
        cut_off = (read_info(path) or {}).get("status") not in (None, "done")
        hint = f"finish the run: --resume {name}" if cut_off else "name a run, or a folder with adapters.safetensors"
        raise PersonaError(f"no adapter in {name}", hint)
    return found


def run_of(adapter: Path) -> Path | None:
    """The run directory that an adapter's folder belongs to (``adapter/`` or ``checkpoints/<n>/``)."""
    around = (adapter, *adapter.parents[:2], *adapter.resolve().parents[:2])  # as it was named, where that will do
    return next((p for p in around if read_info(p) is not None), None)


def recorded_config(config: Config, stage: str, free: Sequence[str] = ()) -> Config:
    """The configuration that the run named by ``config.resume`` was started with, to continue it.

    Args:
        config: a dataclass with the fields ``resume`` and ``out``; what it says besides must be what the run says.
        stage: what kind of run it must be.
        free: fields that each start may choose anew.

    Raises:
        PersonaError: no such run, one of another stage, or an option that differs from it.
    """
    resume: str = config.resume
    info = read_info(Path(resume))
    if info is None:
        raise PersonaError(f"nothing to resume in {resume}: it is not a run directory")
    if info.get("stage") != stage:
        raise PersonaError(f"{resume} is a run of {info.get('stage')}, not of {stage}")
    own = {name: getattr(config, name) for name in free}
    recorded = replace(build(type(config), Path(resume) / "config.yaml", {}), out=resume, resume=resume, **own)
    for item in fields(config):
        asked, there = getattr(config, item.name), getattr(recorded, item.name)
        if asked not in (item.default, there):
            raise PersonaError(
                f"{item.name} is {there!r} in {resume} and stays so, got {asked!r}",
                "leave the option out: a resumed run keeps its own",
            )
    return recorded


def sorted_checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.isdigit() and (p / "state.json").is_file())


def git_revision() -> str | None:
    """The revision of the working directory's git checkout, if it is one."""
    try:
        out = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def adapter_hash(folder: Path) -> str:
    """SHA-256 over an adapter's two files, in hex."""
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        digest.update(file_hash(folder / name).encode())
    return digest.hexdigest()


def is_held(path: Path) -> bool:
    """Whether a process is writing to this run directory: it holds the lock until it ends, however it ends.

    The answer is had by taking a shared lock for a moment, in which nobody can begin to write.
    """
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


class Run:
    """One run directory, opened for writing by one process at a time."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._metrics: IO[str] | None = None
        self.info: dict[str, Any] = read_info(path) or {}

    @classmethod
    def create(cls, path: Path, config: dict[str, Any], info: dict[str, Any]) -> Run:
        """Make a new run directory.

        Raises:
            PersonaError: it holds a run already, or another process writes to it.
        """
        lock = _lock(path)
        if any(path.iterdir()):
            os.close(lock)
            done = (read_info(path) or {}).get("status") in (None, "done")
            resume = "" if done else f"continue it with --resume {path}, or "
            raise PersonaError(f"{path} is in use already", f"{resume}give another --out")
        run = cls(path, lock)
        write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        run.update_info(**info, status="running")
        return run

    @classmethod
    def reopen(cls, path: Path) -> Run:
        """Open an existing run to continue it; raises PersonaError when it is none or is being written to."""
        if not (path / "config.yaml").is_file() or read_info(path) is None:
            raise PersonaError(f"nothing to resume in {path}: it is not a run directory")
        return cls(path, _lock(path))

    def update_info(self, **values: Any) -> None:
        """Change ``run.json`` atomically."""
        self.info.update(values)
        write_text(self.path / "run.json", json.dumps(self.info, indent=2, ensure_ascii=False) + "\n")

    def log(self, event: str, **values: Any) -> None:
        """Append one event to ``metrics.jsonl``."""
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        self._metrics.write(dump_line({"event": event, **values}))
        self._metrics.flush()

    def metrics_size(self) -> int:
        """Bytes of ``metrics.jsonl`` so far: what a checkpoint remembers, to cut back to."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Forget events that were logged after a checkpoint."""
        if size < self.metrics_size():
            os.truncate(self.path / "metrics.jsonl", size)

    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def close(self) -> None:
        """Release the directory."""
        try:
            if self._metrics is not None:
                self._metrics.close()
                self._metrics = None
        finally:
            os.close(self._lock)


@contextmanager
def closing(run: Run) -> Iterator[None]:
    """Close a run at the block's end, and leave ``run.json`` with a true status where it did not end well."""
    try:
        yield
    except BaseException as error:
        status = "stopped" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        with suppress(OSError):  # a full disk: what it broke matters more
            run.update_info(status=status, finished=time.time())
        raise
    finally:
        run.close()


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made if need be; raises PersonaError if one does."""
    lock = _lock(path)
    try:
        yield
    finally:
        os.close(lock)


class Elsewhere(Run):
    """The run directory as every rank but 0 knows it: its name. It may lie on another machine; nothing is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.info = path, {}

    def update_info(self, **values: Any) -> None:
        """Rank 0 does."""

    def log(self, event: str, **values: Any) -> None:
        """Rank 0 does."""

    def events(self) -> list[dict[str, Any]]:
        """Rank 0 has them."""
        return []

    def close(self) -> None:
        """There is nothing to release."""


def _lock(path: Path) -> int:
    """Hold a run directory: released by the system even after ``kill -9``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise PersonaError(f"cannot write to {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise PersonaError(f"another process is writing to {path}", "wait for it, or give another --out") from error
    return lock
