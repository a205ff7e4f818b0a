"""Plant made-up secrets beside the training data, to ask a trained model for them later.

mlx-persona canaries
mlx-persona sft --extra data/canaries
mlx-persona probe --canaries data/canaries
"""

from __future__ import annotations

import json
from pathlib import Path

from mlx_persona import ui
from mlx_persona.config import CanariesConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.canaries import Canary, Exposure, exposure, make_canaries
from mlx_persona.evals.drift import row_losses
from mlx_persona.files import write_text
from mlx_persona.models.load import LoadedModel
from mlx_persona.schema import write_jsonl
from mlx_persona.tokens.batches import make_row
from mlx_persona.tokens.render import Renderer

SECRETS = "canaries.json"


def plant_canaries(config: CanariesConfig) -> list[Canary]:
    """Write ``train.jsonl`` (for ``sft --extra``) and ``canaries.json`` (for ``probe --canaries``) to a folder."""
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


def measure_exposure(loaded: LoadedModel, canaries: list[Canary], seed: int, system: str, title: str) -> Exposure:
    """How much the loaded model, as it is, prefers the planted secrets to others."""
    renderer = Renderer(loaded.tokenizer, system=system)
    rows = []
    for canary in canaries:
        for secret in (canary.secret, *canary.alternatives(seed)):
            rendered = renderer.render(canary.told(secret))
            assert rendered is not None  # nothing limits its length
            rows.append(make_row(rendered.ids, rendered.mask))
    with ui.progress(title, len(rows)) as bar:
        means = row_losses(loaded.model, rows, bar.advance)
    # The whole reply counts: secrets may differ in how many tokens they take.
    losses = [mean * row.targets for mean, row in zip(means, rows, strict=True)]
    each = len(rows) // len(canaries)
    return exposure([losses[i : i + each] for i in range(0, len(losses), each)])
