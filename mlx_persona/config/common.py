"""What the options of several stages share."""

from __future__ import annotations

DEFAULT_MODEL = "mlx-community/Qwen2.5-7B-Instruct-4bit"
MODEL_HELP = "base model: a local MLX directory, a Hugging Face repo, or a llama-family .gguf file"
