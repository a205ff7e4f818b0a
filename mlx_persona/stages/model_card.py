"""The README of a fused model: what it is, how to use it, what it keeps, where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mlx_persona.models.adapters import AdapterSpec, describe

_CARD = """---
{front}---

# {name}

`{base}` with a persona adapter merged in, made with mlx-persona. It imitates one person's way of
writing: show it, and pass it on, only as that person agrees.

## Use

```python
from mlx_lm import generate, load

model, tokenizer = load("path/to/{name}")
messages = [{{"role": "user", "content": "how was your day?"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
print(generate(model, tokenizer, prompt=prompt))
```

It was trained {system}.

## What was kept

KL(adapter \\|\\| base) is {kl_base:.4f} nats per token on {tokens} held-out reply tokens.
Retention is 1 - KL(adapter \\|\\| fused) / KL(adapter \\|\\| base). This model has {bits} bits.

| bits | retention | KL(adapter \\|\\| fused) | size |
|---|---|---|---|
{rows}

## Where it comes from

{facts}
"""


def model_card(info: dict[str, Any], spec: AdapterSpec, trained: dict[str, Any], base: Path) -> str:
    """The model card. It holds nothing of the conversations, and not the system message, which may be private.

    Args:
        info: ``run.json`` of the fused model.
        spec: the adapter's.
        trained: ``run.json`` of the run that made the adapter; empty where it is not known.
        base: folder of the base model.
    """
    name, sha256 = info["model_identity"]["name"], info["model_identity"]["sha256"]
    front: dict[str, Any] = {"library_name": "mlx", "pipeline_tag": "text-generation", "tags": ["mlx", "mlx-persona"]}
    front |= _license(base)
    if name.count("/") == 1:
        front["base_model"] = name
    rows = [
        f"| {bits} | {figures['retention']:.3f} | {figures['kl']:.4f} | {figures['bytes'] / 1e9:.2f} GB |"
        for bits, figures in info["widths"].items()
    ]
    facts = [f"- base model: `{name}` (identity `{sha256[:16]}`)"]
    facts.append(f"- adapter: {describe(spec)} (sha256 `{info['adapter_sha256'][:16]}`)")
    if trained:
        facts.append(f"- training: {trained.get('stage')}, {trained.get('updates')} updates")
    facts += [f"- data: {split}, sha256 `{digest[:16]}`" for split, digest in trained.get("data_hashes", {}).items()]
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=info["identity"]["name"],
        base=name,
        system="with a system message (`system` in `run.json`)" if spec.system else "without a system message",
        kl_base=info["kl_base"],
        tokens=info["held_out"]["tokens"],
        bits=info["bits"],
        rows="\n".join(rows),
        facts="\n".join(facts),
    )


def _license(base: Path) -> dict[str, Any]:
    """The licence fields in the front matter of the base's README, if it has any."""
    readme = base / "README.md"
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---\n") if readme.is_file() else []
    try:
        front = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError:
        front = None
    return {k: v for k, v in front.items() if k.startswith("license")} if isinstance(front, dict) else {}
