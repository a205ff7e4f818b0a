"""A writer of small GGUF files, after the specification and independent of the reader under test."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

TYPE_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_K": 13, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
# (weights, bytes, places of 16-bit scales) of a block.
_LAYOUT = {"Q4_0": (32, 18, (0,)), "Q4_1": (32, 20, (0, 2)), "Q8_0": (32, 34, (0,))}
_LAYOUT |= {"Q4_K": (256, 144, (0, 2)), "Q6_K": (256, 210, (208,)), "Q5_K": (256, 176, (0, 2))}


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """A typed metadata value: bool, int (uint32), float (float32), text, or a list of one of them."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    items = [_value(v) for v in value]
    return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(i[4:] for i in items)


def random_tensor(kind: str, shape: tuple[int, ...], seed: int) -> bytes:
    """The raw bytes of a random tensor: any bits, but for the scales, which are small finite floats."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if kind in ("F32", "F16", "BF16"):
        values = rng.normal(0, 0.1, count).astype(np.float32)
        if kind == "BF16":
            return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        return values.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
    weights, size, scales = _LAYOUT[kind]
    blocks = rng.integers(0, 256, (count // weights, size), dtype=np.uint8)
    spread = 0.01 if weights == 32 else 0.0003
    for place in scales:
        small = rng.uniform(spread / 2, spread, len(blocks)).astype("<f2")
        blocks[:, place : place + 2] = small.view(np.uint8).reshape(-1, 2)
    return blocks.tobytes()


@dataclass
class GGUF:
    """Metadata and tensors (name -> kind, shape, bytes) of a file to write."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """Write the file."""
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.metadata))
        head += b"".join(_text(key) + _value(value) for key, value in self.metadata.items())
        data = b""
        for name, (kind, shape, raw) in self.tensors.items():
            sizes = b"".join(struct.pack("<Q", n) for n in reversed(shape))
            head += _text(name) + struct.pack("<I", len(shape)) + sizes
            head += struct.pack("<IQ", TYPE_NUMBERS[kind], len(data))
            data += raw + b"\0" * (-len(raw) % 32)
        path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
        return path


def tiny_gguf(kind: str = "F32", *, tied: bool = True, **kinds: str) -> GGUF:
    """A random llama of 2 layers with a byte vocabulary; ``kinds`` names tensors (``ffn_down="F16"``) that differ."""
    tokens = ["<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "he", "Ġt", "Ġthe"]
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.context_length": 128,
        "llama.rope.freq_base": 50000.0,
        "llama.rope.dimension_count": 64,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
        "tokenizer.ggml.merges": ["h e", "Ġ t", "Ġt he"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}",
    }
    shapes = {"token_embd": (len(tokens), 256), "output_norm": (256,)}
    if not tied:
        shapes["output"] = (len(tokens), 256)
    for n in range(2):
        shapes |= {f"blk.{n}.{norm}_norm": (256,) for norm in ("attn", "ffn")}
        shapes |= {f"blk.{n}.attn_{part}": (256, 256) for part in ("q", "output")}
        shapes |= {f"blk.{n}.attn_{part}": (128, 256) for part in ("k", "v")}
        shapes |= {f"blk.{n}.ffn_down": (256, 512)}
        shapes |= {f"blk.{n}.ffn_{part}": (512, 256) for part in ("gate", "up")}
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        own = "F32" if len(shape) == 1 else kinds.get(name.split(".")[-1], kind)
        tensors[f"{name}.weight"] = (own, shape, random_tensor(own, shape, seed))
    return GGUF(metadata, tensors)


@pytest.fixture(name="tiny_gguf")
def _tiny_gguf() -> Callable[..., GGUF]:
    """:func:`tiny_gguf`, for tests."""
    return tiny_gguf
