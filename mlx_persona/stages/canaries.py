"""Plant made-up secrets beside the training data, to ask a trained model for them later.

mlx-persona canaries
mlx-persona sft --extra data/canaries
mlx-persona eval --canaries data/canaries
"""

from __future__ import annotations

import json
from pathlib import Path

from mlx_persona.config import CanariesConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.canaries import Canary, make_canaries
from mlx_persona.files import write_text
from mlx_persona.schema import write_jsonl

SECRETS = "canaries.json"


def plant_canaries(config: CanariesConfig) -> list[Canary]:
    """Write ``train.jsonl`` (for ``sft --extra``) and ``canaries.json`` (for ``eval --canaries``) to a folder."""
    canaries, out = make_canaries(config.n, config.seed), Path(config.out)
    write_jsonl(out / "train.jsonl", [canary.conversation(config.copies) for canary in canaries])
    secrets = {canary.thing: canary.secret for canary in canaries}
    write_text(out / SECRETS, json.dumps({"seed": config.seed, "secrets": secrets}, indent=2) + "\n")
    return canaries


def read_canaries(folder: Path) -> tuple[list[Canary], int]:
    """The canaries that were planted, and their seed.

    Raises:
        PersonaError: the folder holds none.
    """
    path = folder / SECRETS
    if not path.is_file():
        raise PersonaError(f"no canaries in {folder}: {SECRETS} is missing", "plant some with: mlx-persona canaries")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = [Canary(str(thing), str(secret)) for thing, secret in value["secrets"].items()]
        seed = int(value["seed"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PersonaError(f"{path} is not what mlx-persona canaries writes: {error!r}") from error
    if not found:
        raise PersonaError(f"{path} holds no canary")
    return found, seed
