"""A smaller model out of a model: some of its blocks, evenly spread, for experiments that must be cheap.

Without training such a slice is a bad model, whatever the whole one is: its loss at update 0 says how bad. Blocks of a
residual network can be left out without the rest falling apart (Veit, Wilber & Belongie, 2016, "Residual networks
behave like ensembles of relatively shallow networks"), the first and the last less than those between.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_persona.cache import cache_dir
from mlx_persona.errors import PersonaError
from mlx_persona.files import new_folder
from mlx_persona.models.load import identity, resolve_model
from mlx_persona.models.once import build_once
from mlx_persona.models.weights import check_weights, weight_files

_BLOCK = re.compile(r"^(.*\blayers\.)(\d+)(\..*)$")
# Fields of a config that hold one entry per block.
_PER_BLOCK = ("layer_types",)


def kept_blocks(total: int, wanted: int) -> list[int]:
    """Which blocks a slice keeps, counted from 0: evenly spread, with the first and the last.

    Raises:
        PersonaError: fewer than 1, or more than there are.
    """
    if not 1 <= wanted <= total:
        raise PersonaError(f"blocks must be 1 to {total}, what the model has, got {wanted}")
    return sorted(set(np.linspace(0, total - 1, wanted).round().astype(int).tolist()))


def slice_model(name: str, blocks: int) -> Path:
    """The model directory of a slice, made once and kept in the cache.

    Args:
        name: as ``--model`` takes it.
        blocks: how many blocks it keeps (:func:`kept_blocks`); all of them give the model itself.

    Raises:
        PersonaError: no such model, a number that does not fit, or a model whose blocks are not ``layers.N``.
    """
    source = resolve_model(name)
    check_weights(source)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    total = config.get("num_hidden_layers")
    if not isinstance(total, int):
        raise PersonaError(f"{name} cannot be sliced: its config has no num_hidden_layers", "leave --blocks out")
    kept = kept_blocks(total, blocks)
    if blocks == total:
        return source
    digest = hashlib.sha256(f"{identity(source)['sha256']} {kept}".encode()).hexdigest()[:16]
    target = cache_dir() / "slices" / digest / f"{source.resolve().name}-{blocks}-blocks"
    return build_once(target, lambda _: _write(source, config, kept, target))


def _write(source: Path, config: dict[str, Any], kept: list[int], target: Path) -> None:
    """Fill ``target``: the weights that are kept, renumbered, and everything else as it is."""
    places = {str(old): str(new) for new, old in enumerate(kept)}
    weights: dict[str, mx.array] = {}
    for file in weight_files(source):
        weights |= _renumbered(mx.load(str(file)), places)  # type: ignore[arg-type]
    found = {match[2] for name in weights if (match := _BLOCK.match(name))}
    if found != set(places.values()):
        raise PersonaError(f"{source} cannot be sliced: its blocks are not named layers.N", "leave --blocks out")
    config = {**config, "num_hidden_layers": len(kept)}
    for name in _PER_BLOCK:
        if isinstance(config.get(name), list):
            config[name] = [config[name][i] for i in kept]
    for name in ("quantization", "quantization_config"):
        if isinstance(config.get(name), dict):
            config[name] = _renumbered(config[name], places)
    skipped = {file.name for file in weight_files(source)} | {"config.json", "model.safetensors.index.json"}
    with new_folder(target) as part:
        for file in source.iterdir():
            if file.is_file() and file.name not in skipped:
                shutil.copyfile(file, part / file.name)
        mx.save_safetensors(str(part / "model.safetensors"), weights, {"format": "mlx"})
        (part / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _renumbered(named: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """The entries of the blocks that are kept under their new numbers, and those of no block as they are."""
    found = {}
    for name, value in named.items():
        match = _BLOCK.match(name)
        if match is None:
            found[name] = value
        elif match[2] in places:
            found[f"{match[1]}{places[match[2]]}{match[3]}"] = value
    return found
