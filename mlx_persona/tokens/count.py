"""How many tokens texts have, by a model's tokenizer alone: neither mlx nor transformers is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from mlx_persona.errors import PersonaError
from mlx_persona.model_names import cached_hub_file, hub_file, local_path

FILE = "tokenizer.json"
# So many texts are encoded at once: ids and offsets of more need not be held.
CHUNK = 256


class TokenCounter:
    """Counts as one model does: ``counter(texts)`` -> the tokens of each text, without those around a message."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()  # a file may ask for either, and neither is how long a text is
        tokenizer.no_padding()

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """One number for each text, in their order."""
        sizes: list[int] = []
        for start in range(0, len(texts), CHUNK):
            found = self._tokenizer.encode_batch_fast(list(texts[start : start + CHUNK]), add_special_tokens=False)
            sizes += [len(encoding) for encoding in found]
        return sizes


def token_counter(name: str, *, fetch: bool = True) -> TokenCounter:
    """A counter with the tokenizer of a model.

    Args:
        name: a model directory, a ``.gguf`` file, or a Hugging Face repo, of which only ``tokenizer.json`` is taken.
        fetch: whether that may be downloaded.

    Raises:
        PersonaError: no such model, none of its tokenizer here, or one that cannot be read.
    """
    path = local_path(name)
    if path is not None and path.is_file():
        return TokenCounter(_of_gguf(path))
    if path is not None:
        file = path / FILE
        if not file.is_file():
            raise PersonaError(f"{name} has no {FILE}", "name another model: --model NAME")
    elif fetch:
        file = hub_file(name, FILE)
    else:
        cached = cached_hub_file(name, FILE)
        if cached is None:
            raise PersonaError(f"the tokenizer of {name} is not on this machine")
        file = cached
    return TokenCounter(_of_file(file))


def _of_file(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        reason = str(error).strip().split("\n")[0]
        raise PersonaError(f"cannot read the tokenizer {file}: {reason}", "name another model: --model NAME") from error


def _of_gguf(path: Path) -> Tokenizer:
    from mlx_persona.models.gguf_file import open_gguf  # here: these need mlx
    from mlx_persona.models.gguf_tokenizer import build_tokenizer

    with open_gguf(path) as file:
        return build_tokenizer(file.metadata)
