"""What a sweep compares: arms, each a set of options, from a grid or a preset.

An arm differs from the others in what it is named after, and in nothing else; every arm is run with the same seeds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mlx_persona.config import DpoConfig, SftConfig, SweepConfig
from mlx_persona.errors import PersonaError
from mlx_persona.settings import field_type, nearest

Stage = type[SftConfig] | type[DpoConfig]
STAGES: dict[str, Stage] = {"sft": SftConfig, "dpo": DpoConfig}
# What the sweep itself decides for every run.
_OWN = {
    "model": "--model of sweep",
    "data": "--data of sweep",
    "out": "--out of sweep",
    "resume": "--resume of sweep",
    "seed": "--seeds",
    "updates": "--updates of sweep",
    "tokens": "--tokens of sweep",
    "epochs": "--updates of sweep",
    "iters": "--updates of sweep",
}
_RULES = {"rank": 1.0, "2rank": 2.0}
_SWITCH = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
# Blocks that the failed configuration of source 001 adapts, of those of its model.
_FAILED_BLOCKS = 8 / 28


@dataclass(frozen=True)
class Arm:
    """One thing that is tried.

    Attributes:
        name: its row in the table, and the beginning of its runs' names.
        options: options of the stage, resolved, without the seed.
        why: what it is there for, in a few words.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def intervenes(self) -> bool:
        """Whether a controller may change learning rate or batch while it trains."""
        return self.options.get("phase") == "control"


@dataclass(frozen=True)
class Design:
    """All arms of a sweep.

    Attributes:
        stage: ``sft`` or ``dpo``.
        arms: in the order of the table; their names differ.
        reference: the name of the arm that the others are compared with.
        equal: pairs of arms that must come to the same figures, to the last bit.
        notes: what a reader of the table must know.
    """

    stage: str
    arms: tuple[Arm, ...]
    reference: str
    equal: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def design(config: SweepConfig, blocks: int) -> Design:
    """The arms that a sweep's options ask for.

    Args:
        config: the options.
        blocks: how many blocks the model has.

    Raises:
        PersonaError: an option that the stage does not have, a value that it cannot take, or two arms that are one.
    """
    stage = config.stage or ("dpo" if config.preset == "beta" else "sft")
    if (stage == "dpo") != (config.preset == "beta") and config.preset:
        raise PersonaError(f"preset {config.preset} is of {'dpo' if config.preset == 'beta' else 'sft'}, got {stage}")
    common = {"patience": 0, **_assignments(STAGES[stage], config.settings)}
    found = _preset(config.preset, stage, common, blocks)
    arms = []
    for arm in found.arms:
        for label, options in _grid(STAGES[stage], config.grid, {**common, **arm.options}):
            name = ", ".join(part for part in (arm.name, label) if part) or "all alike"
            arms.append(Arm(name, _joined(common, arm.options, options), arm.why))
    for arm in arms:
        STAGES[stage](**arm.options)  # every value is one that the stage takes
    names = [arm.name for arm in arms]
    reference, equal = (found.reference or names[0], found.equal) if not config.grid else (names[0], ())
    if len(set(names)) < len(names):
        raise PersonaError("two arms are the same", "give every value of a grid once")
    return Design(stage, tuple(arms), reference, equal, found.notes)


def _joined(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Options over one another; those of which there may be several are added up."""
    found: dict[str, Any] = {}
    for name, value in (item for part in parts for item in part.items()):
        found[name] = (*found.get(name, ()), *value) if isinstance(value, tuple) else value
    return found


def folder_name(arm: str, seed: int) -> str:
    """The folder of an arm's run with a seed."""
    return re.sub(r"[^A-Za-z0-9.=+-]+", "_", arm) + f"-seed{seed}"


def _assignments(stage: Stage, texts: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as options."""
    found: dict[str, Any] = {}
    for text in texts:
        name, value = _split(stage, text, "--set")
        found = _joined(found, {name: _value(stage, name, value, found)})
    return found


def _grid(stage: Stage, texts: Sequence[str], common: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All combinations of ``NAME=V1,V2``: label and options. None give one nameless arm."""
    axes = []
    for text in texts:
        name, values = _split(stage, text, "--grid")
        axes.append([(name, value.strip()) for value in values.split(",")])
    if len({axis[0][0] for axis in axes}) < len(axes):
        raise PersonaError("a grid has an option twice", "put all its values behind one --grid NAME=")
    found = []
    for chosen in itertools.product(*axes):
        options: dict[str, Any] = {}
        for name, value in sorted(chosen, key=lambda one: one[0] == "alpha"):  # alpha may follow from the rank
            options[name] = _value(stage, name, value, {**common, **options})
        found.append((", ".join(f"{name}={value}" for name, value in chosen), options))
    return found


def _split(stage: Stage, text: str, flag: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not sign or not value.strip():
        raise PersonaError(f"{flag} must be NAME=VALUE, got {text!r}")
    known = [item.name for item in fields(stage)]
    if name in _OWN:
        raise PersonaError(f"{name} is not for {flag}", f"use {_OWN[name]}")
    if name not in known:
        raise PersonaError(f"{flag} {text}: there is no option {name}", nearest(name, known))
    return name, value.strip()


def _value(stage: Stage, name: str, text: str, common: Mapping[str, Any]) -> Any:
    """A value as the option's type; ``x2`` and ``2rank`` are worked out from ``common``."""
    kind, many, optional = field_type(stage, name)
    if optional and text == "none":
        return None
    if name == "alpha" and text in _RULES:
        rank = common.get("rank", _default(stage, "rank"))
        if rank is None:
            raise PersonaError("alpha follows from a rank that is not set", "add --set rank=N")
        return _RULES[text] * rank
    try:
        if kind is bool:
            return _SWITCH[text.lower()]
        if kind in (int, float) and text.startswith("x"):
            base = common.get(name, _default(stage, name))
            return kind(float(text[1:]) * base)
        return (text,) if many else kind(text)
    except (ValueError, KeyError, TypeError) as error:
        spoken = {int: "a whole number", float: "a number", bool: "on or off"}.get(kind, "text")
        raise PersonaError(f"{name} must be {spoken}, got {text!r}") from error


def _default(stage: Stage, name: str) -> Any:
    return next(item.default for item in fields(stage) if item.name == name)


def _preset(name: str, stage: str, common: Mapping[str, Any], blocks: int) -> Design:
    """The arms of a preset, with only the options in which they differ."""
    rate = float(common.get("learning_rate", _default(STAGES[stage], "learning_rate")))
    if name == "ranks":
        # alpha = 2 x rank keeps the effective scale, so that the rank alone differs
        arms = tuple(Arm(f"rank {r}", {"rank": r, "alpha": 2.0 * r}) for r in (8, 16, 32, 64))
        return Design(stage, arms, "rank 8", notes=("alpha is twice the rank everywhere: the same effective scale",))
    if name == "failed-vs-recommended":
        return _failed(stage, blocks)
    if name == "beta":
        arms = tuple(Arm(f"beta {b:g}", {"beta": b}) for b in (0.05, 0.1, 0.2, 0.5))
        return Design(stage, arms, "beta 0.1")
    if name == "dora-vs-lora":
        return Design(stage, (Arm("lora", {"dora": False}), Arm("dora", {"dora": True})), "lora")
    if name == "kl":
        arms = tuple(Arm(f"kl {weight:g}", {"kl": weight}) for weight in (0.0, 0.01, 0.05, 0.2))
        return Design(stage, arms, "kl 0")
    if name == "tpt-ablation":
        return _ablation(stage, rate)
    return Design(stage, (Arm(""),), "")


def _failed(stage: str, blocks: int) -> Design:
    """The two configurations of source 001, "Summary: Changes from Failed Config", and its learning rate alone."""
    failed = {
        "dora": False,
        "rank": 16,
        "alpha": 32.0,
        "num_layers": max(1, round(_FAILED_BLOCKS * blocks)),
        "learning_rate": 1e-5,
        "batch_size": 2,
        "grad_accumulation": 1,
        "mask_prompt": False,
    }
    recommended = {
        "dora": True,
        "rank": 64,
        "alpha": 128.0,
        "num_layers": -1,
        "learning_rate": 2e-4,
        "batch_size": 1,
        "grad_accumulation": 4,
        "mask_prompt": True,
    }
    return Design(
        stage,
        (
            Arm("failed", failed, "as source 001 found it"),
            Arm("recommended", recommended, "as source 001 wants it"),
            Arm("failed at 2e-4", {**failed, "learning_rate": 2e-4}, "only the learning rate changed"),
        ),
        "failed",
        notes=(
            "8 of 28 blocks are the same share of this model's; both have alpha = 2 x rank (source 001 says it of one)",
            "the evaluation losses of the failed arms are of prompts too (no mask): compare the held-out losses",
            "the long system prompts of the failed configuration are in no data here and are left out",
        ),
    )


def _ablation(stage: str, rate: float) -> Design:
    """The controller of source 000, its pulses one by one, and honest arms beside it (decisions.md, Phases, 13)."""
    control, watch = {"phase": "control"}, {"phase": "observe"}
    arms = [
        Arm("no controller", {"phase": "off"}, "the same total tokens as every arm here"),
        Arm("observe only", dict(watch), "must equal no controller, to the last bit"),
        Arm("controller", dict(control), "batch and LR pulse"),
        Arm("batch pulse", {**control, "phase_set": ("s1_lr=1",)}, "without the LR pulse"),
        Arm("LR pulse x1.10", {**control, "phase_set": ("s1_batch=1",)}, "without the batch pulse"),
    ]
    for factor in (1.05, 1.25, 1.5):
        pulse = ("s1_batch=1", f"s1_lr={factor:g}")
        arms.append(Arm(f"LR pulse x{factor:.2f}", {**control, "phase_set": pulse}, "is the response monotonic?"))
    arms += [
        Arm("constant LR x1.10", {**watch, "learning_rate": 1.1 * rate}, "the LR pulse all the time"),
        Arm("constant schedule", {**watch, "final_lr": 1.0}, "no cosine that ends the learning by itself"),
        Arm("base LR halved", {**watch, "learning_rate": rate / 2}, "does the onset follow the LR?"),
        Arm("base LR doubled", {**watch, "learning_rate": 2 * rate}, "does the onset follow the LR?"),
    ]
    return Design(
        stage,
        tuple(arms),
        "observe only",
        (("no controller", "observe only"),),
        ("with --match tokens the arm without a controller is the arm of the same total tokens",),
    )
