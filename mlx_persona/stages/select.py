"""Which checkpoint becomes the adapter: the one with the lowest loss, or the one that sounds most like the person.

mlx-persona sft --select style
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.config import SftConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.asked import Asked, all_asked
from mlx_persona.evals.panel import BASE, Asking, Candidate, Panel
from mlx_persona.evals.parts.style import StylePart
from mlx_persona.evals.wording import Wording
from mlx_persona.generation.engine import Sampling
from mlx_persona.runs import Run, sorted_checkpoints
from mlx_persona.schema import Conversation
from mlx_persona.tokens.batches import evenly
from mlx_persona.tokens.dataset import load_held_out
from mlx_persona.training.loop import LoopResult

# Prompts that each checkpoint answers, and how: enough to tell good from bad, not good from better.
PROMPTS, MAX_TOKENS, BATCH = 48, 48, 64
FOLDER = "selection"


def selection_data(config: SftConfig) -> tuple[Path, list[Conversation], list[Asked]]:
    """The held-out file to choose by, its conversations and its prompts: of ``valid``, so that ``test`` stays unseen.

    Raises:
        PersonaError: fewer than two replies in it.
    """
    path, held_out = load_held_out(Path(config.data), ("valid",))
    every = all_asked(held_out)
    if len(every) < 2:
        raise PersonaError(f"{path} holds {len(every)} replies to choose by", "train with --select loss")
    return path, held_out, every


def select_by_style(run: Run, result: LoopResult, config: SftConfig, system: str) -> LoopResult:
    """Let every checkpoint answer held-out prompts, and take the one whose replies are nearest to the person's.

    ``run.json`` gets ``selection``: the style
    distance of every checkpoint, and its interval. The replies are in ``selection/`` until all are there.

    Raises:
        PersonaError: fewer than two held-out replies.
        Interrupted: after KeyboardInterrupt; resuming the run goes on with the selection.
    """
    path, held_out, every = selection_data(config)
    asked = [every[i] for i in evenly(len(every), PROMPTS)]
    part = StylePart(
        str(path),
        held_out,
        every,
        asked,
        Wording([one.real for one in every], None, config.seed),
        None,
        loss_rows=1,
        max_seq_length=config.max_seq_length,
        seed=config.seed,
    )
    checkpoints = {str(int(folder.name)): folder for folder in sorted_checkpoints(run.path)}
    candidates = [
        Candidate(BASE, config.model, None, system),
        *(Candidate(label, config.model, folder, system) for label, folder in checkpoints.items()),
    ]
    folder = run.path / FOLDER
    ui.info(f"choosing by style among {len(checkpoints)} checkpoints, {len(asked)} prompts each")
    answers = Panel(candidates, [part], Asking(Sampling(MAX_TOKENS, 0.8, 0.95, config.seed), BATCH)).ask(folder)
    figures = part.card(answers[part.name]).figures
    measured = {label: figures[label] for label in (BASE, *checkpoints)}
    best = min(checkpoints, key=lambda label: measured[label].style_distance)
    values = {x: {"style_distance": f.style_distance, "interval": f.style_interval} for x, f in measured.items()}
    run.update_info(selection={"by": "style", "best_update": int(best), "n": len(asked), "checkpoints": values})
    shutil.rmtree(folder, ignore_errors=True)
    ui.info(
        f"update {best} is nearest to the person: style distance {measured[best].style_distance:.3f}, "
        f"base {measured[BASE].style_distance:.3f}; lowest loss: update {result.state.best_update}"
    )
    state = replace(result.state, best_update=int(best), best_loss=_loss_at(run, int(best)))
    return replace(result, state=state, chosen_by="style")


def _loss_at(run: Run, update: int) -> float:
    """The evaluation loss that was logged at an update; the last before it for a checkpoint of a stop."""
    events: list[dict[str, Any]] = [e for e in run.events() if e["event"] == "eval" and e["update"] <= update]
    return float(events[-1]["loss"])
