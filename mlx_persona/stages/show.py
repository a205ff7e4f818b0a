"""Look at what training sees: a conversation through the model's template, trained tokens marked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.config import DEFAULT_MODEL, ShowConfig
from mlx_persona.errors import PersonaError
from mlx_persona.models.load import load_tokenizer, resolve_model
from mlx_persona.runs import newest_model
from mlx_persona.schema import read_conversations
from mlx_persona.tokens.dataset import CLEAN_HINT, windows
from mlx_persona.tokens.render import Renderer


@dataclass(frozen=True)
class Shown:
    """Rows of one conversation as ``(text, trained on)`` pieces, and a line about them."""

    rows: list[list[tuple[str, bool]]]
    summary: str

    def to_json(self) -> dict[str, Any]:
        """The pieces as a JSON object."""
        rows = [[{"text": text, "trained": trained} for text, trained in row] for row in self.rows]
        return {"rows": rows, "summary": self.summary}


def show_conversation(config: ShowConfig) -> Shown:
    """Render one conversation of a file as training would.

    Raises:
        PersonaError: no such file or conversation, or a template whose mask cannot be derived.
    """
    path = Path(config.data)
    if not path.is_file():
        raise PersonaError(f"no data: {path} is missing", CLEAN_HINT)
    conversations = read_conversations(path)
    if config.number > len(conversations):
        raise PersonaError(f"number must be <= {len(conversations)}, the conversations in {path}, got {config.number}")
    model = config.model or newest_model() or DEFAULT_MODEL
    renderer = Renderer(load_tokenizer(resolve_model(model)), system=config.system, mask_prompt=config.mask_prompt)
    for note in renderer.notes:
        ui.info(note)
    parts, lost = windows(conversations[config.number - 1].messages, renderer, config.max_seq_length)
    tokens, trained = sum(len(p.ids) for p in parts), sum(sum(p.mask) for p in parts)
    summary = f"{tokens} tokens in {len(parts)} rows, {trained} trained on, {lost} replies too long"
    return Shown([renderer.show(part) for part in reversed(parts)], summary)
