"""What a run will cost before it runs: memory, time, disk; from the model's ``config.json`` alone."""
