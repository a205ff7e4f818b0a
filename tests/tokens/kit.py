"""Small tokenizers of five families, with their chat templates, and what a rendering trains on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mlx_persona.schema import Message
from mlx_persona.tokens.render import Rendered, Renderer

TEMPLATES = Path(__file__).parent / "templates"
FIVE = ("smollm2", "qwen2.5", "llama3", "mistral", "gemma")
TRIMS = ("llama3", "mistral", "gemma")
WORDS = ["Fine", "thanks", "so", "you", "user", "model", "hello", "there", "again"]
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
BOS_EOS = {
    "smollm2": ("<|im_start|>", "<|im_end|>"),
    "qwen2.5": (None, "<|im_end|>"),
    "qwen3": (None, "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "llama3.1": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>"),
    "gemma": ("<bos>", "<eos>"),
}
END = {name: "<end_of_turn>" if name == "gemma" else eos for name, (_, eos) in BOS_EOS.items()}


def words_model(alphabet: list[str], blank: str, line: str) -> models.BPE:
    """A BPE in which each of WORDS (with and without a blank before it) and two line ends are one token."""
    vocab = {token: i for i, token in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in [blank + w for w in WORDS] + WORDS + [line * 2]:
        for n in range(1, len(word)):
            vocab.setdefault(word[: n + 1], len(vocab))
            if (word[:n], word[n]) not in merges:
                merges.append((word[:n], word[n]))
    fallback = "<0x00>" in vocab
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=fallback, unk_token="<unk>" if fallback else None)


def byte_level(special: tuple[str, ...], trim_offsets: bool = False) -> Tokenizer:
    """The kind of Qwen, Llama 3 and SmolLM2: blanks go with the word after them, line ends stay together."""
    out = Tokenizer(words_model(sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġ", "Ċ"))
    pieces = pre_tokenizers.Split(Regex(r"\s*[\r\n]+| ?[^\s]+|\s+"), "isolated")
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    out.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens([AddedToken(text, special=True) for text in special])
    return out


def sentencepiece_like(special: tuple[str, ...], metaspace: bool) -> Tokenizer:
    """The kind of Mistral (a blank before the text, if it starts with none) and of Gemma (no such blank)."""
    letters = [chr(c) for c in range(33, 127)] + ["▁"]
    out = Tokenizer(words_model(["<unk>", *[f"<0x{b:02X}>" for b in range(256)], *letters, "\n"], "▁", "\n"))
    if metaspace:
        out.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        out.normalizer = normalizers.Replace(" ", "▁")
    out.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    out.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    return out


def wrap(backend: Tokenizer, template: str | None, name: str, **tokens: Any) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template,
        name_or_path=f"someone/{name}",
        clean_up_tokenization_spaces=False,
        **tokens,
    )


@cache
def tokenizer_of(name: str) -> Any:
    if name == "mistral":
        backend = sentencepiece_like(("<s>", "</s>", "[INST]", "[/INST]"), metaspace=True)
    elif name == "gemma":
        backend = sentencepiece_like(("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), metaspace=False)
    else:
        backend = byte_level(LLAMA if name.startswith("llama") else CHATML, trim_offsets=name == "smollm2")
    if name == "qwen3":
        backend.add_tokens(["<think>", "</think>", "<aside>"])
    bos, eos = BOS_EOS[name]
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return wrap(backend, template, name, **({"bos_token": bos} if bos else {}), eos_token=eos)


def chatml_with(template: str) -> Any:
    return wrap(byte_level(CHATML), template, "odd", eos_token="<|im_end|>")


def talk(*texts: str, system: str | None = None, untrained: tuple[int, ...] = ()) -> list[Message]:
    """User and assistant in turn; ``untrained`` counts all turns from 0."""
    turns = [Message("assistant" if i % 2 else "user", t, i not in untrained) for i, t in enumerate(texts)]
    return turns if system is None else [Message("system", system), *turns]


def render(renderer: Renderer, messages: list[Message], max_tokens: int | None = None) -> Rendered:
    rendered = renderer.render(messages, max_tokens)
    assert rendered is not None
    assert len(rendered.ids) == len(rendered.mask)
    return rendered


def supervised(name: str, rendered: Rendered) -> str:
    """The supervised tokens as the vocabulary spells them, parted by blanks."""
    ids = [i for i, trained in zip(rendered.ids, rendered.mask, strict=True) if trained]
    return " ".join(tokenizer_of(name).convert_ids_to_tokens(ids))


def trained_texts(renderer: Renderer, rendered: Rendered) -> list[str]:
    """The text of each run of supervised tokens."""
    runs, before = [], False
    for text, trained in renderer.show(rendered):
        if trained:
            runs.append(runs.pop() + text if before else text)
        before = trained
    return runs


@cache
def renderer_of(name: str) -> Renderer:
    return Renderer(tokenizer_of(name))
