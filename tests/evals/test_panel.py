"""Who is asked what, in which calls of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_persona.backend  # noqa: F401  (a fast BLAS comes before mlx)

# isort: split

from mlx_persona.evals.panel import Asking, Candidate, Panel
from mlx_persona.evals.scripts import Script
from mlx_persona.generation import engine
from mlx_persona.schema import Message


def test_prompts_under_one_long_system_message_are_read_together(
    tiny_model_dir: Path, tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    """What they begin with is read once; short messages and none go together, greedy ones apart."""

    class Mixed:
        name, everyone = "mixed", True
        scripts = tuple(
            Script((Message("system", system), Message("user", f"{i}?")), greedy=greedy)
            for i in range(2)
            for system, greedy in (("", False), ("x " * 300, False), ("y " * 300, False), ("short", False), ("", True))
        )

        def score(self, answers: Any) -> dict[str, Any]:
            return {}

        def rows(self, scores: Any) -> list[Any]:
            return []

    who = [Candidate("base", str(tiny_model_dir))]
    found = Panel(who, [Mixed()], Asking(engine.Sampling(8, 0.8, 0.95, 0), 4)).ask(tmp_path / "out")
    assert [call["rows"] for call in asked] == [[0, 3, 5, 8], [1, 6], [2, 7], [4, 9]]
    assert [call["sampling"].temperature for call in asked] == [0.8, 0.8, 0.8, 0.0]
    assert len(found["mixed"]["base"]) == 10
