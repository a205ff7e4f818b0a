"""A model that trains in a moment, a person who is easy to learn, and settings for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from mlx_persona.config import DpoConfig, SftConfig
from mlx_persona.models.adapters import AdapterSpec, write_adapter
from mlx_persona.planner.shapes import blueprint
from mlx_persona.schema import Conversation, Message, Pair, write_jsonl

WORDS = ("tea", "rain", "music", "cats", "snow", "bread", "books", "trains", "chess", "maps", "stars", "boats")
SAYS = "oh well well well, hahaha"
# Fields of an event that may differ between two runs that are equal.
VOLATILE = ("seconds", "peak_bytes")

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 256 + len(SPECIAL),
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}


def write_model(folder: Path, seed: int = 0, config: dict[str, Any] = MODEL) -> Path:
    """A random llama that reads bytes, with ChatML: it loads and trains twenty times as fast as a real tokenizer.

    ``config`` makes it another architecture; the vocabulary must stay.
    """
    model = blueprint(config)
    weights = {}
    for index, (name, value) in enumerate(tree_flatten(model.parameters())):
        drawn = 0.3 * mx.random.normal(value.shape, key=mx.random.key(1000 * seed + index))
        weights[name] = 1 + 0.1 * drawn if "norm" in name else drawn
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(BPE({t: i for i, t in enumerate([*SPECIAL, *sorted(ByteLevel.alphabet())])}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def talk(word: str, exchanges: int = 2) -> Conversation:
    """Whatever the person is asked, the answer is the same."""
    turns = (Message("user", f"what about {word}?"), Message("assistant", f"{SAYS} {word}"))
    return Conversation(turns * exchanges, {"id": word})


def write_data(folder: Path) -> Path:
    """Twelve conversations of different lengths in train, valid and test."""
    sets = {"train": WORDS, "valid": WORDS[:4], "test": WORDS[4:8]}
    for name, words in sets.items():
        write_jsonl(folder / f"{name}.jsonl", [talk(word, 1 + i % 3) for i, word in enumerate(words)])
    return folder


def write_pairs(folder: Path, train: int = 12, valid: int = 5) -> Path:
    """Pairs whose chosen reply is the person's and whose rejected one is another's."""
    for name, count in (("train", train), ("valid", valid)):
        pairs = []
        for i in range(count):
            word = WORDS[i % len(WORDS)]
            prompt = (Message("user", f"what about {word}?"),)
            rejected = f"As an assistant I am happy to explain {word} number {i}." if i % 2 else f"I do like {word} {i}"
            pairs.append(Pair(prompt, f"{SAYS} {word}", rejected))
        write_jsonl(folder / f"{name}.jsonl", pairs)
    return folder


def write_export(folder: Path, times: int = 2) -> Path:
    """An export in which Ann answers Bob, day after day, in so many rounds of twelve conversations."""
    said: dict[str, Any] = {}
    for day, word in enumerate(WORDS * times, 1):
        start = f"2020-{1 + day // 28:02}-{1 + day % 28:02}T10:00"
        bursts = [[("Bob", f"what about {word} {day}?")], [("Ann", f"{SAYS} {word} {day}"), ("Ann", "anyway")]]
        said[f"c{day}"] = {
            "start": start,
            "messages": [
                [{"text": text, "sender": who, "timestamp": f"{start}:{i}{j}Z"} for j, (who, text) in enumerate(burst)]
                for i, burst in enumerate(bursts)
            ],
        }
    path = folder / "export.json"
    path.write_text(json.dumps(said))
    return path


def sft_config(model: Path, data: Path, out: Path | str, **options: Any) -> SftConfig:
    """Six quick updates, an evaluation every third."""
    quick: dict[str, Any] = {
        "rank": 4,
        "learning_rate": 3e-3,
        "updates": 6,
        "batch_size": 4,
        "grad_accumulation": 1,
        "max_seq_length": 128,
        "eval_every": 3,
        "warmup": 0.0,
    }
    return SftConfig(model=str(model), data=str(data), out=str(out), **{**quick, **options})


def dpo_config(adapter: Path | str, pairs: Path, out: Path | str, **options: Any) -> DpoConfig:
    """Four quick updates, an evaluation every second."""
    quick: dict[str, Any] = {
        "learning_rate": 1e-3,
        "updates": 4,
        "batch_size": 4,
        "grad_accumulation": 1,
        "max_seq_length": 128,
        "eval_every": 2,
        "warmup": 0.0,
    }
    return DpoConfig(adapter=str(adapter), pairs=str(pairs), out=str(out), **{**quick, **options})


def events(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The events of a run (of one kind), without what no two runs share."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    kept = [e for e in found if kind is None or e["event"] == kind]
    return [{k: v for k, v in e.items() if k not in VOLATILE} for e in kept]


def info(run: Path) -> dict[str, Any]:
    """``run.json``."""
    value: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return value


def save_adapter(folder: Path, weights: dict[str, mx.array], spec: AdapterSpec) -> None:
    """An adapter's folder, as a run leaves one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter(folder, weights, spec)
