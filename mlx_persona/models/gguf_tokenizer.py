"""The tokenizer inside a GGUF file, as the files that transformers and mlx-lm read.

A GGUF file holds the vocabulary, the merges or scores, and a name (``tokenizer.ggml.pre``) for
how text is cut before BPE. Only names whose rule is known for certain are taken: a wrong rule
gives a model that answers, but worse.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from mlx_persona.errors import PersonaError

# Values of tokenizer.ggml.token_type (GGUF specification).
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

# How GPT-4's descendants cut text; Llama 3 takes up to three digits at once, Qwen 2 one.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split_by(pattern: str) -> Any:
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _digits_then_gpt2() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "smollm": _digits_then_gpt2,
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama-bpe": lambda: _split_by(_CUT.format(digits="{1,3}")),
    "qwen2": lambda: _split_by(_CUT.format(digits="")),
}


def build_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The ``tokenizers`` tokenizer that a GGUF file's metadata describes.

    Raises:
        PersonaError: no vocabulary, or a kind of tokenizer that is not known here.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise PersonaError("the GGUF file holds no vocabulary (tokenizer.ggml.tokens)")
    if len(set(tokens)) != len(tokens):
        raise PersonaError("the GGUF file's vocabulary holds a token twice (tokenizer.ggml.tokens)")
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise PersonaError(f"tokenizer.ggml.token_type must have {len(tokens)} entries, got {len(types)}")
    if kind == "gpt2":
        tokenizer = _byte_level_bpe(metadata, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece_bpe(metadata, tokens, types)
    else:
        raise PersonaError(f"tokenizer.ggml.model must be gpt2 or llama, got {kind!r}")
    added = [
        AddedToken(token, special=type_ == CONTROL, normalized=False)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_tokens(added)
    _frame(tokenizer, metadata, tokens)
    return tokenizer


def _byte_level_bpe(metadata: dict[str, Any], tokens: list[str]) -> Tokenizer:
    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        raise PersonaError(f"tokenizer.ggml.pre must be one of {', '.join(sorted(PRE_TOKENIZERS))}, got {pre!r}")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges") or []]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        # Llama 3 takes a word that is a token whole, whether or not merges lead to it.
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe"))
    except Exception as error:  # tokenizers raises bare Exception
        raise PersonaError(f"the GGUF file's merges do not fit its vocabulary: {error}") from error
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece_bpe(metadata: dict[str, Any], tokens: list[str], types: list[int]) -> Tokenizer:
    """SentencePiece BPE (Llama 2, Mistral): the merge that gives the best-scored piece goes first."""
    scores = metadata.get("tokenizer.ggml.scores") or []
    if len(scores) != len(tokens):
        raise PersonaError(f"tokenizer.ggml.scores must have {len(tokens)} entries, got {len(scores)}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pieces = {token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    ranked = []
    for token in pieces:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in pieces and right in pieces:
                rank = (-scores[vocabulary[token]], vocabulary[left], vocabulary[right])
                ranked.append((rank, (left, right)))
    merges = [pair for _, pair in sorted(ranked)]
    unknown = tokens[int(metadata.get("tokenizer.ggml.unknown_token_id", 0))]
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _frame(tokenizer: Tokenizer, metadata: dict[str, Any], tokens: list[str]) -> None:
    """Put the begin and end tokens around encoded text where the model was trained so."""
    with_bos = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") == "llama-bpe"
    template, special = ["$A"], []
    for role, default, place in (("bos", with_bos, 0), ("eos", False, None)):
        index = metadata.get(f"tokenizer.ggml.{role}_token_id")
        if index is None or not metadata.get(f"tokenizer.ggml.add_{role}_token", default):
            continue
        token = tokens[int(index)]
        template.insert(len(template) if place is None else place, token)
        special.append((token, int(index)))
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)


def special_tokens(metadata: dict[str, Any]) -> dict[str, str]:
    """``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token``, those that the file names.

    Raises:
        PersonaError: an id outside the vocabulary.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    out = {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = metadata.get(f"tokenizer.ggml.{theirs}_token_id")
        if index is None:
            continue
        if not 0 <= index < len(tokens):
            raise PersonaError(f"tokenizer.ggml.{theirs}_token_id must be below {len(tokens)}, got {index}")
        out[f"{ours}_token"] = tokens[index]
    return out


def end_token_ids(metadata: dict[str, Any]) -> list[int]:
    """Ids that end a reply: the end of text, and the end of turn where the file has another."""
    ids = [metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")]
    return list(dict.fromkeys(int(i) for i in ids if i is not None))


def write_tokenizer(metadata: dict[str, Any], out: Path, context_length: int) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json`` into ``out``.

    Raises:
        PersonaError: see :func:`build_tokenizer`.
    """
    special = special_tokens(metadata) if metadata.get("tokenizer.ggml.tokens") else {}
    build_tokenizer(metadata).save(str(out / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (out / name).write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
