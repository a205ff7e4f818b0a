"""Raw chat exports -> clean conversations. No MLX, no tokenizer."""
