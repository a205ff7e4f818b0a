"""The parts of an evaluation: what each asks, and what the answers come to (:class:`..scripts.Part`)."""
