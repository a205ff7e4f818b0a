"""Turn your chats into a model that talks like you, on your own laptop, with MLX.

Every command is one function with a dataclass config::

    import mlx_persona as mp

    mp.clean(mp.CleanConfig(raw=("export/",), me=("Ana",)))
    run = mp.sft(mp.SftConfig(rank=64))

Nothing heavy is imported until it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "clean": "mlx_persona.cleaning",
    "augment": "mlx_persona.stages.augment",
    "plan": "mlx_persona.stages.plan",
    "sft": "mlx_persona.stages.sft",
    "make_pairs": "mlx_persona.stages.pairs",
    "dpo": "mlx_persona.stages.dpo",
    "fuse": "mlx_persona.stages.fuse",
    "evaluate": "mlx_persona.stages.evaluate",
    "compare": "mlx_persona.web.compare",
    "make_report": "mlx_persona.report.make",
    "make_charts": "mlx_persona.report.files",
    "watch": "mlx_persona.web.watch",
    "plant_canaries": "mlx_persona.stages.canaries",
    "sweep": "mlx_persona.experiments.sweep",
    "verdicts": "mlx_persona.experiments.verdicts",
    "bench": "mlx_persona.benchmarks.step",
    "doctor": "mlx_persona.backend",
    "selftest": "mlx_persona.selftest.run",
    "demo": "mlx_persona.demo",
    "ChatSession": "mlx_persona.generation.chat",
    "PersonaError": "mlx_persona.errors",
    "Interrupted": "mlx_persona.errors",
    **{
        f"{name}Config": "mlx_persona.config"
        for name in (
            *("Clean", "Augment", "Plan", "Sft", "Pairs", "Dpo", "Fuse"),
            *("Generate", "Eval", "Canaries", "Compare", "Report", "Charts", "Watch", "Sweep", "Verdicts"),
            *("Bench", "Show", "Demo", "Doctor"),
        )
    },
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
