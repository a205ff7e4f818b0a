"""GGUF files -> MLX model directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
import regex
import sentencepiece
from mlx_lm.models import llama
from tokenizers import Tokenizer

from mlx_persona.errors import PersonaError
from mlx_persona.models.gguf import convert_gguf
from mlx_persona.models.gguf_file import open_gguf
from mlx_persona.models.gguf_tokenizer import PRE_TOKENIZERS, build_tokenizer
from mlx_persona.models.load import LoadedModel
from mlx_persona.models.quantized import dense_weight

Make = Callable[..., Any]


def halves(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, "<f2").astype(np.float32)


def reference(kind: str, raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of a tensor in float32, written weight by weight from the format's description."""
    out: list[float] = []
    f = np.float32
    if kind == "F32":
        return np.frombuffer(raw, "<f4").reshape(shape)
    if kind == "F16":
        return halves(raw).reshape(shape)
    if kind == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    size = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34, "Q4_K": 144, "Q6_K": 210}[kind]
    for at in range(0, len(raw), size):
        block = raw[at : at + size]
        if kind == "Q8_0":
            (d,) = halves(block[:2])
            out += [d * f(q) for q in np.frombuffer(block[2:], np.int8)]
        elif kind in ("Q4_0", "Q4_1"):
            d, m = (halves(block[:2])[0], None) if kind == "Q4_0" else halves(block[:4])
            quants = block[2:] if kind == "Q4_0" else block[4:]
            values = [b & 15 for b in quants] + [b >> 4 for b in quants]
            out += [d * f(v - 8) if m is None else d * f(v) + m for v in values]
        elif kind == "Q4_K":
            out += q4_k_block(block)
        else:
            out += q6_k_block(block)
    return np.array(out, np.float32).reshape(shape)


def q4_k_block(block: bytes) -> list[float]:
    d, m = halves(block[:4])
    packed, quants, out = block[4:16], block[16:], []
    for group in range(8):
        if group < 4:
            scale, minimum = packed[group] & 63, packed[group + 4] & 63
        else:
            scale = packed[group + 4] & 15 | (packed[group - 4] >> 6) << 4
            minimum = packed[group + 4] >> 4 | (packed[group] >> 6) << 4
        for i in range(32):
            byte = quants[32 * (group // 2) + i]
            q = byte >> 4 if group % 2 else byte & 15
            out.append(float(d * np.float32(scale) * q - m * np.float32(minimum)))
    return out


def q6_k_block(block: bytes) -> list[float]:
    (d,) = halves(block[208:])
    scales = np.frombuffer(block[192:208], np.int8)
    out = [0.0] * 256
    for half in range(2):
        low, high = block[64 * half : 64 * half + 64], block[128 + 32 * half : 160 + 32 * half]
        for i in range(32):
            quants = (
                low[i] & 15 | (high[i] & 3) << 4,
                low[i + 32] & 15 | (high[i] >> 2 & 3) << 4,
                low[i] >> 4 | (high[i] >> 4 & 3) << 4,
                low[i + 32] >> 4 | (high[i] >> 6 & 3) << 4,
            )
            for part, q in enumerate(quants):
                place = 128 * half + 32 * part + i
                out[place] = float(d * np.float32(scales[place // 16]) * (q - 32))
    return out


def convert(gguf: Any, folder: Path) -> Path:
    return convert_gguf(gguf.write(folder / "tiny.gguf"), folder / "out")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"])
def test_stock_mlx_lm_loads_the_weights_that_the_file_holds(kind: str, tiny_gguf: Make, tmp_path: Path) -> None:
    gguf = tiny_gguf(kind)
    model, _, config = mlx_lm.load(str(convert(gguf, tmp_path)), return_config=True)
    quantized = kind in ("Q4_0", "Q4_1", "Q8_0", "Q4_K")
    assert ("quantization" in config) == quantized
    exact = kind in ("F32", "F16", "Q4_0", "Q4_1", "Q8_0")
    modules = {
        "token_embd.weight": model.model.embed_tokens,
        "blk.0.attn_v.weight": model.model.layers[0].self_attn.v_proj,
        "blk.1.attn_output.weight": model.model.layers[1].self_attn.o_proj,
        "blk.1.ffn_down.weight": model.model.layers[1].mlp.down_proj,
    }
    for name, module in modules.items():
        expected = reference(kind, *reversed(gguf.tensors[name][1:]))
        got = np.array(dense_weight(module))
        # Otherwise one rounding to 16 bits, of the weight or of its group's scale and offset.
        bound = 0.0 if exact else 2**-10 * np.abs(expected).max()
        assert np.abs(got - expected).max() <= bound, name


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_packed_arrays_are_those_of_mlx(kind: str, tiny_gguf: Make, tmp_path: Path) -> None:
    path = tiny_gguf(kind).write(tmp_path / "tiny.gguf")
    stock = mx.load(str(path))
    with open_gguf(path) as file:
        ours = file.load("blk.0.ffn_up.weight")
    for key, array in ours.items():
        other = stock[f"blk.0.ffn_up.{key}"]
        assert array.dtype == other.dtype
        assert mx.array_equal(array, other), key


def test_rows_of_q_and_k_are_put_into_the_order_of_ordinary_rope(tiny_gguf: Make, tmp_path: Path) -> None:
    """GGUF's own rows under GGUF's own (traditional) rotary embedding must give the same logits."""
    path = convert(tiny_gguf("F32", tied=False), tmp_path)
    ours, tokenizer = mlx_lm.load(str(path))
    config = json.loads((path / "config.json").read_text())
    assert config["rope_traditional"] is False
    raw = mx.load(str(tmp_path / "tiny.gguf"))
    key = "model.layers.1.self_attn.k_proj.weight"
    weights = mx.load(str(path / "model.safetensors"))
    for n in range(2):
        for part in "qk":
            weights[f"model.layers.{n}.self_attn.{part}_proj.weight"] = raw[f"blk.{n}.attn_{part}.weight"]
    theirs = llama.Model(llama.ModelArgs.from_dict({**config, "rope_traditional": True}))
    theirs.load_weights(list(weights.items()))
    ids = mx.array([tokenizer.encode("the same words, twice the same")])
    assert mx.allclose(ours(ids), theirs(ids), rtol=0, atol=1e-5)
    theirs.load_weights([(key, mx.load(str(path / "model.safetensors"))[key])], strict=False)
    assert not mx.allclose(ours(ids), theirs(ids), rtol=0, atol=1e-4)


def test_config_carries_every_hyper_parameter(tiny_gguf: Make, tmp_path: Path) -> None:
    config = json.loads((convert(tiny_gguf("F32"), tmp_path) / "config.json").read_text())
    expected = {
        "model_type": "llama",
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "vocab_size": 261,
        "max_position_embeddings": 128,
        "rope_theta": 50000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    assert {key: config[key] for key in expected} == expected


def test_mixed_types_are_named_layer_by_layer(tiny_gguf: Make, tmp_path: Path) -> None:
    path = convert(tiny_gguf("Q4_0", tied=False, token_embd="Q8_0", output="Q6_K", ffn_down="F16"), tmp_path)
    quantization = json.loads((path / "config.json").read_text())["quantization"]
    assert quantization == {
        "group_size": 32,
        "bits": 4,
        "mode": "affine",
        "model.embed_tokens": {"group_size": 32, "bits": 8, "mode": "affine"},
        "lm_head": False,
        "model.layers.0.mlp.down_proj": False,
        "model.layers.1.mlp.down_proj": False,
    }
    model, _ = mlx_lm.load(str(path))
    assert model.model.embed_tokens.bits == 8
    assert model.model.layers[0].mlp.up_proj.bits == 4
    assert not hasattr(model.lm_head, "bits")
    floats = {v.dtype for v in mx.load(str(path / "model.safetensors")).values()} - {mx.uint32}
    assert floats == {mx.float16}


def rope_factors(factor: float) -> np.ndarray:
    """Llama 3.1's frequency divisors for theta 500000 and heads of 64, frequency by frequency."""
    out = []
    for i in range(0, 64, 2):
        wavelength = 2 * np.pi * 500000 ** (i / 64)
        if wavelength < 8192 / 4:
            out.append(1.0)
        elif wavelength > 8192:
            out.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / 3
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, "<f4")


def test_llama_3_rotary_scaling_is_recovered_and_used(tiny_gguf: Make, tmp_path: Path) -> None:
    gguf = tiny_gguf("F32")
    gguf.metadata["llama.rope.freq_base"] = 500000.0
    factors = rope_factors(32.0)
    gguf.tensors["rope_freqs.weight"] = ("F32", (32,), factors.tobytes())
    path = convert(gguf, tmp_path)
    model, _ = mlx_lm.load(str(path))
    frequencies = np.array(model.model.layers[0].self_attn.rope._freqs)
    assert np.allclose(frequencies, 500000 ** (np.arange(0, 64, 2) / 64) * factors, rtol=1e-4)
    gguf.tensors["rope_freqs.weight"] = ("F32", (32,), np.linspace(1, 32, 32, dtype="<f4").tobytes())
    with pytest.raises(PersonaError, match=r"rope_freqs\.weight must be Llama 3's"):
        convert_gguf(gguf.write(tmp_path / "b.gguf"), tmp_path / "other")


def test_linear_rotary_scaling_is_kept(tiny_gguf: Make, tmp_path: Path) -> None:
    gguf = tiny_gguf("F32")
    gguf.metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    model, _ = mlx_lm.load(str(convert(gguf, tmp_path)))
    assert model.model.layers[0].self_attn.rope.scale == 0.25


def _set(key: str, value: Any) -> Callable[[Any], None]:
    def change(gguf: Any) -> None:
        gguf.metadata[key] = value

    return change


def _without(name: str) -> Callable[[Any], None]:
    def change(gguf: Any) -> None:
        gguf.tensors.pop(name, None)
        gguf.metadata.pop(name, None)

    return change


def _extra(gguf: Any) -> None:
    gguf.tensors["blk.0.attn_q.bias"] = ("F32", (32,), bytes(128))


def _q5_k(gguf: Any) -> None:
    gguf.tensors["blk.1.ffn_up.weight"] = ("Q5_K", (1, 256), bytes(176))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("general.architecture", "gemma"), "general.architecture must be llama, got 'gemma'"),
        (_q5_k, r"tensor blk\.1\.ffn_up\.weight is of type Q5_K, which cannot be read"),
        (_extra, r"holds the tensor blk\.0\.attn_q\.bias"),
        (_without("blk.1.ffn_gate.weight"), r"lacks the tensor blk\.1\.ffn_gate\.weight"),
        (_without("llama.context_length"), "llama.context_length must be a positive number, got None"),
        (_set("llama.attention.head_count", 0), "llama.attention.head_count must be a positive number, got 0"),
        (_set("llama.rope.dimension_count", 32), "must be the head size 64, got 32"),
        (_set("llama.rope.scaling.type", "yarn"), "must be none or linear, got 'yarn'"),
        (_set("tokenizer.ggml.pre", "tekken"), "tokenizer.ggml.pre must be one of .*, got 'tekken'"),
        (_set("tokenizer.ggml.model", "bert"), "tokenizer.ggml.model must be gpt2 or llama, got 'bert'"),
        (_set("tokenizer.ggml.merges", ["q zzz"]), "merges do not fit its vocabulary"),
        (_set("tokenizer.ggml.eos_token_id", 999), "eos_token_id must be below 261, got 999"),
        (_without("tokenizer.ggml.tokens"), "holds no vocabulary"),
    ],
)
def test_what_cannot_be_converted_is_named(
    change: Callable[[Any], None], message: str, tiny_gguf: Make, tmp_path: Path
) -> None:
    gguf = tiny_gguf("F16")
    change(gguf)
    with pytest.raises(PersonaError, match=message):
        convert(gguf, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.gguf"]


def test_a_file_cut_anywhere_is_an_error_and_leaves_nothing(tiny_gguf: Make, tmp_path: Path) -> None:
    whole = tiny_gguf("Q8_0").write(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 4, 9, 30, 200, 1000, 5000, 9000, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(PersonaError, match=r"truncated or corrupt|not a GGUF file"):
            convert_gguf(cut, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.gguf", "whole.gguf"]


def test_an_existing_folder_is_never_overwritten(tiny_gguf: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(PersonaError, match="exists already"):
        convert(tiny_gguf(), tmp_path)


# Tokenizers

TEXTS = [
    "Hello world, it's 2024!",
    "  two  spaces\n\n\tand a tab ",
    "naïve café — 你好 🙂 don't WE'LL 12345",
    "x=1;\r\n",
]


def plain_bpe(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Textbook BPE: merge the best-ranked neighbours until there is nothing to merge."""
    parts = list(word)
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get((parts[i], parts[i + 1]), 10**9))
        if (parts[best], parts[best + 1]) not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


@pytest.mark.parametrize("text", TEXTS)
def test_smollm_tokens_are_those_of_textbook_bpe(text: str, smollm2_path: Path) -> None:
    """Single digits are cut off, the rest is cut as GPT-2 does, then BPE on the bytes."""
    content = json.loads((smollm2_path / "tokenizer.json").read_text(encoding="utf-8"))
    ranks = {tuple(pair): rank for rank, pair in enumerate(content["model"]["merges"])}
    vocabulary = content["model"]["vocab"]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    letter = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    gpt2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    expected = []
    for piece in regex.findall(r"\p{N}|[^\p{N}]+", text):
        for word in regex.findall(gpt2, piece):
            expected += [vocabulary[p] for p in plain_bpe("".join(letter[b] for b in word.encode()), ranks)]
    tokenizer = Tokenizer.from_file(str(smollm2_path / "tokenizer.json"))
    assert tokenizer.encode(text).ids == expected
    assert tokenizer.decode(expected) == text


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("smollm", "it's 123 yes", ["it", "'s", "Ġ", "1", "2", "3", "Ġyes"]),
        ("gpt-2", "it's 123 YES'LL", ["it", "'s", "Ġ123", "ĠYES", "'", "LL"]),
        ("llama-bpe", "it's 12345 YES'LL\n\n(a)", ["it", "'s", "Ġ", "123", "45", "ĠYES", "'LL", "ĊĊ", "(a", ")"]),
        ("qwen2", "it's 123\n\n(a)", ["it", "'s", "Ġ", "1", "2", "3", "ĊĊ", "(a", ")"]),
    ],
)
def test_text_is_cut_as_the_pre_tokenizer_s_name_says(pre: str, text: str, expected: list[str]) -> None:
    assert [piece for piece, _ in PRE_TOKENIZERS[pre]().pre_tokenize_str(text)] == expected


def test_llama_3_puts_its_begin_token_first_and_chat_turns_end_generation(tiny_gguf: Make, tmp_path: Path) -> None:
    gguf = tiny_gguf("F16")
    gguf.metadata |= {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.eot_token_id": 2}
    _, tokenizer = mlx_lm.load(str(convert(gguf, tmp_path)))
    the = tokenizer.convert_tokens_to_ids("Ġthe")
    assert tokenizer.encode(" the") == [0, the]
    assert tokenizer.eos_token_ids == {1, 2}
    assert tokenizer.apply_chat_template([{"role": "user", "content": " the"}]) == [0, the, 1]


def test_smollm_adds_no_token_and_skips_special_ones(tiny_gguf: Make, tmp_path: Path) -> None:
    _, tokenizer = mlx_lm.load(str(convert(tiny_gguf("F16"), tmp_path)))
    ids = tokenizer.encode("<|im_start|> the<|im_end|>")
    assert ids == [0, tokenizer.convert_tokens_to_ids("Ġthe"), 1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == " the"


CORPUS = ["the cat sat on the mat", "a man a plan a canal", "she sells sea shells", "hello there, hello again"] * 20


def test_sentencepiece_vocabularies_encode_as_sentencepiece_does(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    size = theirs.get_piece_size()
    tests = ((3, theirs.is_control), (2, theirs.is_unknown), (6, theirs.is_byte))
    kinds = [next((kind for kind, holds in tests if holds(i)), 1) for i in range(size)]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in range(size)],
        "tokenizer.ggml.scores": [theirs.get_score(i) for i in range(size)],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": theirs.bos_id(),
        "tokenizer.ggml.eos_token_id": theirs.eos_id(),
        "tokenizer.ggml.unknown_token_id": theirs.unk_id(),
    }
    ours = build_tokenizer(metadata)
    for text in [*CORPUS[:4], "the  catamaran\nsells 你好 🙂", "aaaa aaaaa", "x"]:
        ids = ours.encode(text).ids
        assert ids == [theirs.bos_id(), *theirs.encode(text)], text
        assert ours.decode(ids) == theirs.decode(ids[1:]) == text


# The real model


def test_the_real_model_still_knows_the_capital_of_france(smollm2: LoadedModel) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = smollm2.tokenizer.apply_chat_template(question, add_generation_prompt=True)
    reply = mlx_lm.generate(smollm2.model, smollm2.tokenizer, prompt, max_tokens=8)
    assert "Paris" in reply
