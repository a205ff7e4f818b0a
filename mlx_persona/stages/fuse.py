"""Fusing: adapter -> standalone model, if enough of the adapter's effect survives.

    mlx-persona fuse

Each width is written, loaded again and compared with the adapter on held-out replies (the parity gate);
one model is in memory at a time. The chosen one becomes ``runs/fused-<n>/``, whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import yaml

from mlx_persona import backend, ui
from mlx_persona.config import FuseConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals import parity
from mlx_persona.files import new_folder, write_text
from mlx_persona.models import adapters, merge
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.models.trained import Trained, find_trained
from mlx_persona.runs import adapter_hash, file_hash, git_revision, next_free
from mlx_persona.schema import Conversation
from mlx_persona.settings import plain
from mlx_persona.stages.model_card import model_card
from mlx_persona.tokens.batches import Row
from mlx_persona.tokens.dataset import load_held_out
from mlx_persona.tokens.render import Renderer


@dataclass(frozen=True)
class FuseResult:
    """What was written and what it keeps; KL in nats per held-out reply token."""

    path: Path
    bits: int
    retention: float
    kl: float
    kl_base: float
    widths: dict[str, dict[str, float]]
    base: str
    adapter: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {**self.__dict__, "path": str(self.path), "adapter": str(self.adapter)}


@dataclass(frozen=True)
class Trial:
    """One width: where it was written, its bytes, and KL(adapter || fused) with what it means."""

    bits: int
    folder: Path
    size: int
    kl: float
    retention: float
    sha256: str

    def to_json(self) -> dict[str, float]:
        """The figures of this width."""
        return {"retention": self.retention, "kl": self.kl, "bytes": self.size}


def fuse(config: FuseConfig) -> FuseResult:
    """Merge an adapter into its base model and write a model that stock mlx-lm opens.

    Raises:
        PersonaError: no adapter, no held-out data, too little disk, an output folder in use, or a width that
            loses too much of the adapter's effect (naming the width that does not).
    """
    started = time.perf_counter()
    source = find_trained(config.adapter, config.model, ("dpo", "sft"))
    out = _free_out(config)
    mx.reset_peak_memory()
    with _scratch(out) as scratch:
        gate = Gate(config, source, scratch)
        chosen = _choose(config, gate)
        result = FuseResult(
            path=out,
            bits=chosen.bits,
            retention=chosen.retention,
            kl=chosen.kl,
            kl_base=gate.kl_base,
            widths={str(bits): trial.to_json() for bits, trial in sorted(gate.trials.items())},
            base=gate.base["name"],
            adapter=source.adapter,
            seconds=round(time.perf_counter() - started, 1),
        )
        _describe(config, gate, source, chosen, result)
        try:
            chosen.folder.replace(out)
        except OSError as error:
            raise PersonaError(f"cannot write {out}: {error.strerror}", "give another --out") from error
    return result


def _free_out(config: FuseConfig) -> Path:
    out = Path(config.out).expanduser() if config.out else next_free("fused")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PersonaError(f"{out} is in use already", "give another --out")
    return out


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside the output that goes away whatever happens; what a killed fuse left there goes first."""
    path = out.with_name(f".{out.name}.part")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise PersonaError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the system even after `kill -9`
    except OSError as error:
        os.close(lock)
        raise PersonaError(f"another process is writing {out}", "wait for it, or give another --out") from error
    try:
        for left in path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


class Gate:
    """The adapter's effect on held-out replies, and what each width keeps of it.

    Attributes:
        base: identity of the base model.
        base_path: its folder.
        kl_base: KL(adapter || base).
        held_out: what was scored, for ``run.json``.
        trials: the widths measured so far.
    """

    def __init__(self, config: FuseConfig, source: Trained, scratch: Path) -> None:
        self._source, self._scratch = source, scratch
        self._reference = scratch / "adapter.npy"
        self.trials: dict[int, Trial] = {}
        file, conversations = load_held_out(Path(config.data), ("valid", "test"))
        loaded = load_model(source.model)
        self.base, self.base_path = loaded.identity, loaded.path
        adapters.load_adapter(loaded.model, source.adapter, loaded.identity)
        loaded.model.eval()
        self._rows = self._sample(config, conversations, loaded)
        tokens = sum(row.targets for row in self._rows)
        self.held_out = {"file": str(file), "sha256": file_hash(file), "rows": len(self._rows), "tokens": tokens}
        first = merge.WIDTHS[0] if config.bits == "auto" else int(config.bits)
        _check_disk(scratch, parity.reference_bytes(loaded.model, self._rows) + self._size(first))
        ui.info(f"comparing adapter, base and fused on {tokens} held-out reply tokens of {len(self._rows)} rows")
        parity.write_reference(loaded.model, self._rows, self._reference)
        adapters.detach(loaded.model)
        self.kl_base = parity.divergence(loaded.model, self._rows, self._reference, "scoring the base")
        ui.info(f"KL(adapter || base) = {self.kl_base:.4f} nats per token")
        if self.kl_base < parity.NOTHING:
            ui.warn("on these replies the adapter does nothing: the fused model will be the base model")
        del loaded  # before the next model comes
        mx.clear_cache()

    def _sample(self, config: FuseConfig, conversations: Sequence[Conversation], loaded: LoadedModel) -> list[Row]:
        renderer = Renderer(loaded.tokenizer, system=self._source.spec.system)
        rows = parity.sample_rows(conversations, renderer, config.gate_tokens, config.max_seq_length)
        if not rows:
            raise PersonaError(
                f"no held-out conversation fits in {config.max_seq_length} tokens", "raise --max-seq-length"
            )
        return rows

    def _size(self, bits: int) -> int:
        return merge.fused_bytes(self.base_path, self._source.adapter, bits)

    def measure(self, bits: int) -> Trial:
        """Write the model at this width, load it from disk, and score it."""
        folder, size = self._scratch / str(bits), self._size(bits)
        _check_disk(self._scratch, size)
        with new_folder(folder) as part:
            merge.write_fused(self.base_path, self._source.adapter, bits, part)
        mx.clear_cache()
        loaded = load_model(str(folder))
        kl = parity.divergence(loaded.model, self._rows, self._reference, f"scoring {bits} bits")
        trial = Trial(bits, folder, size, kl, parity.retention(kl, self.kl_base), loaded.identity["sha256"])
        self.trials[bits] = trial
        ui.info(f"{bits} bits: keeps {trial.retention:.3f} of the adapter's effect (KL {kl:.4f}), {_gb(size)}")
        del loaded
        mx.clear_cache()
        return trial


def _choose(config: FuseConfig, gate: Gate) -> Trial:
    """The width to write; every other one is deleted as soon as it is scored. Raises PersonaError if none passes."""
    best: Trial | None = None
    named = 0 if config.bits == "auto" else int(config.bits)
    for bits in merge.WIDTHS:
        if bits < named:
            continue
        trial = gate.measure(bits)
        passes = trial.retention >= config.min_retention
        if bits == named and not passes and config.force:
            ui.warn(
                f"{bits} bits keep {trial.retention:.2f} of the adapter's effect, less than {config.min_retention:g}"
            )
            return trial
        if passes and best is None:
            best = trial
        else:
            shutil.rmtree(trial.folder)
        if best is not None and (named or not config.try_all):
            break
    if best is not None and named in (0, best.bits):
        return best
    raise _refusal(config, gate, best)


def _refusal(config: FuseConfig, gate: Gate, wider: Trial | None) -> PersonaError:
    """What the gate found, and the way out."""
    if config.bits == "auto":
        figures = ", ".join(f"{bits} bits keep {trial.retention:.2f}" for bits, trial in gate.trials.items())
        return PersonaError(
            f"no width keeps {config.min_retention:g} of the adapter's effect: {figures}",
            "name a width with --bits and add --force, or train longer: a small effect drowns in rounding",
        )
    bits = int(config.bits)
    return PersonaError(
        f"fusing at {bits} bits keeps {gate.trials[bits].retention:.2f} of the adapter's effect; "
        f"it must be >= {config.min_retention:g}",
        f"use --bits {wider.bits} (keeps {wider.retention:.2f}), or --force"
        if wider
        else "no wider width passes; --force writes it all the same",
    )


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PersonaError(
            f"fusing needs {_gb(needed)} on disk, but {folder.parent} has {_gb(free)} free",
            "free some space, or write to another disk with --out",
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _describe(config: FuseConfig, gate: Gate, source: Trained, chosen: Trial, result: FuseResult) -> None:
    """``config.yaml``, ``run.json`` and the model card, into the chosen folder before it gets its name."""
    resolved = replace(config, model=source.model, adapter=_shown(source.adapter), out=str(result.path))
    write_text(chosen.folder / "config.yaml", yaml.safe_dump(plain(resolved), sort_keys=False, allow_unicode=True))
    run = _shown(source.run) if source.run else None
    info = {
        "stage": "fuse",
        "model": source.model,
        "model_identity": gate.base,
        "parent": run,
        "adapter": _shown(source.adapter),
        "adapter_sha256": adapter_hash(source.adapter),
        "identity": {"name": result.path.name, "sha256": chosen.sha256},
        "system": source.spec.system,
        "bits": result.bits,
        "retention": result.retention,
        "min_retention": config.min_retention,
        "kl": result.kl,
        "kl_base": result.kl_base,
        "widths": result.widths,
        "held_out": gate.held_out,
        "versions": backend.versions(),
        "git": git_revision(),
        "device": backend.device_name(),
        "seconds": result.seconds,
        "peak_bytes": mx.get_peak_memory(),
        "finished": time.time(),
        "status": "done",
    }
    write_text(chosen.folder / "run.json", json.dumps(info, indent=2, ensure_ascii=False) + "\n")
    write_text(chosen.folder / "README.md", model_card(info, source.spec, source.info, gate.base_path))


def _shown(path: Path) -> str:
    """A path as it may stand in a model that others get: relative wherever it can be."""
    whole, here = path.resolve(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(path)
