"""Talking to a model: finding it, a conversation with commands, and single replies.

mlx-persona chat
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from mlx_persona.config import GenerateConfig
from mlx_persona.errors import PersonaError
from mlx_persona.generation.engine import PromptCache, Sampling, stream
from mlx_persona.models import adapters
from mlx_persona.models.load import LoadedModel, load_model
from mlx_persona.models.trained import find_trained
from mlx_persona.schema import Message
from mlx_persona.tokens.render import Renderer

# A longer history costs more than it helps in a chat, whatever the model could read.
MAX_CONTEXT = 4096
NO_ADAPTER = "none"


def find_model(model: str, adapter: str, stages: tuple[str, ...]) -> tuple[str, Path | None]:
    """The base model and the adapter that the user means.

    Args:
        model: as given; empty: the one that the adapter was made for.
        adapter: as given; empty: the newest run's, unless a model is given; ``none``: no adapter.
        stages: the runs to look among.

    Returns:
        The model's name for ``load_model``, and the adapter's folder.

    Raises:
        PersonaError: nothing is given and there is no run, or an adapter that does not say its model.
    """
    if adapter == NO_ADAPTER or (model and not adapter):
        return model or find_trained("", "", stages).model, None
    found = find_trained(adapter, model, stages)
    return found.model, found.adapter


def open_model(config: GenerateConfig) -> tuple[LoadedModel, Renderer]:
    """Load what the configuration names, at its strength, with the system message it was trained with.

    Raises:
        PersonaError: as :func:`find_model`; a model or adapter that cannot be loaded; or a strength
            without an adapter.
    """
    name, folder = find_model(config.model, config.adapter, ("dpo", "sft"))
    if folder is None and config.strength != 1.0:
        raise PersonaError(f"strength must be 1 without an adapter, got {config.strength:g}", "name one with --adapter")
    loaded = load_model(name)
    system = ""
    if folder is not None:
        system = adapters.load_adapter(loaded.model, folder, loaded.identity).system
        adapters.set_strength(loaded.model, config.strength)
    return loaded, Renderer(loaded.tokenizer, system=system if config.system is None else config.system)


def sampling_of(config: GenerateConfig) -> Sampling:
    """The configuration's way of drawing."""
    return Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)


class ChatSession:
    """A conversation with a model, and the commands that change it."""

    def __init__(self, loaded: LoadedModel, renderer: Renderer, config: GenerateConfig) -> None:
        self.messages: list[Message] = []
        self._loaded, self._renderer, self._sampling = loaded, renderer, sampling_of(config)
        context = min(MAX_CONTEXT, int(loaded.config.get("max_position_embeddings") or MAX_CONTEXT))
        self._room = max(context - config.max_tokens, context // 2)
        self._cache = PromptCache()
        self._asked = 0
        self._commands: dict[str, tuple[Callable[[str], str], str]] = {
            "/reset": (self._reset, "start a new conversation"),
            "/system": (self._system, "TEXT: another system message; without TEXT, none"),
            "/strength": (self._strength, "T: how much of the adapter; 0 is the base model, 1 the person"),
            "/undo": (self._undo, "take the last exchange back"),
            "/help": (self._help, "show this"),
        }

    def say(self, text: str) -> Iterator[str]:
        """Yield the reply piece by piece, and remember both turns.

        A reply that is cut off (KeyboardInterrupt, or a consumer that stops) is remembered as far as it
        went. Of a history that is too long, the oldest turns are not shown to the model.

        Raises:
            PersonaError: the system message or the text alone is too long.
        """
        turn = Message("user", text)
        prompt = self._renderer.prompt([*self.messages, turn], self._room)
        said: list[str] = []
        # A number of its own for every reply: the same words said again get another answer.
        row, self._asked = self._asked, self._asked + 1
        try:
            for piece in stream(self._loaded, prompt, self._sampling, row, self._cache):
                said.append(piece)
                yield piece
        finally:
            if reply := "".join(said).strip():
                self.messages += [turn, Message("assistant", reply)]

    def command(self, line: str) -> str:
        """Carry out a line that begins with a slash; returns what to tell the user."""
        name, _, rest = line.strip().partition(" ")
        if name not in self._commands:
            return f"unknown command {name}; /help shows the commands"
        return self._commands[name][0](rest.strip())

    def _reset(self, rest: str) -> str:
        self.messages.clear()
        return "a new conversation"

    def _system(self, rest: str) -> str:
        self._renderer = Renderer(self._loaded.tokenizer, system=rest)
        return f"system message: {rest}" if rest else "no system message"

    def _strength(self, rest: str) -> str:
        if next(adapters.adapter_layers(self._loaded.model), None) is None:
            return "there is no adapter to set the strength of; start with --adapter"
        try:
            strength = float(rest)
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength):
            return f"/strength needs a number, got {rest!r}"
        adapters.set_strength(self._loaded.model, strength)
        self._cache.clear()
        return f"strength {strength:g}"

    def _undo(self, rest: str) -> str:
        if not self.messages:
            return "nothing to undo"
        del self.messages[-2:]
        return "the last exchange is forgotten"

    def _help(self, rest: str) -> str:
        return "\n".join([*(f"{name:<10} {text}" for name, (_, text) in self._commands.items()), "/quit      leave"])


def generate_once(config: GenerateConfig, prompt: str) -> Iterator[str]:
    """One reply to one prompt, piece by piece; raises PersonaError as :func:`open_model`."""
    yield from ChatSession(*open_model(config), config).say(prompt)
