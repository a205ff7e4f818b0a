"""``clean``: data_prep's pipeline, with a model's tokenizer to tell lengths in tokens.

data_prep knows no tokenizer; this is where the two meet. No model is loaded for it.
"""

from __future__ import annotations

from data_prep import pipeline
from data_prep.report import CleanReport
from mlx_persona.config import DEFAULT_MODEL, CleanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.runs import newest_model
from mlx_persona.tokens.count import TokenCounter, token_counter


def clean(config: CleanConfig) -> CleanReport:
    """Clean ``config.raw`` into ``config.out``; the report counts tokens as ``config.model`` does.

    Without a model named, that is the newest run's or else sft's own, where its tokenizer is on this machine:
    nothing is downloaded that nobody asked for, and the report says why it has no lengths in tokens.

    Raises:
        PersonaError: a model that was named and cannot be had, before anything is read; else as
            :func:`data_prep.pipeline.clean`.
    """
    if config.model:
        return pipeline.clean(config, token_counter(config.model), [_counted_by(config.model)])
    counter, note = _default_counter()
    return pipeline.clean(config, counter, [note])


def _default_counter() -> tuple[TokenCounter | None, str]:
    """A counter if there is one at hand, and the line about it."""
    name = newest_model() or DEFAULT_MODEL
    try:
        return token_counter(name, fetch=False), _counted_by(name)
    except PersonaError as error:
        return None, f"lengths in tokens were not counted: {error.message}; --model NAME"


def _counted_by(name: str) -> str:
    return f"lengths in tokens are those of {name}"
