"""The two sides of a blind comparison: what their names mean, and what they reply to held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from mlx_persona import ui
from mlx_persona.config import CompareConfig
from mlx_persona.errors import PersonaError
from mlx_persona.evals.asked import Asked, all_asked
from mlx_persona.evals.blind.score import REAL
from mlx_persona.evals.blind.session import SIDES, A, B, Item, first_sides
from mlx_persona.generation import engine
from mlx_persona.generation.engine import Reply
from mlx_persona.generation.job import PARTIAL, Kept, keeping, key_of
from mlx_persona.model_names import local_path
from mlx_persona.models.adapters import detach, load_adapter
from mlx_persona.models.load import identity, load_model, resolve_model
from mlx_persona.models.trained import find_trained
from mlx_persona.runs import adapter_hash, find_adapter, read_info, resolve_adapter
from mlx_persona.tokens.batches import evenly
from mlx_persona.tokens.dataset import load_held_out
from mlx_persona.tokens.render import Renderer

BASE = "base"
_SIDES_HINT = "a side is a run, an adapter, a model, base or real; for example: mlx-persona compare base runs/sft-1"


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: what it is called; ``real`` is the person.
        model: as ``--model`` takes it; empty for the person.
        adapter: on the model, or none.
        system: the message that it was trained with, None where that is not known.
        base: the model that it was made from; empty where it was not made here.
    """

    label: str
    model: str = ""
    adapter: Path | None = None
    system: str | None = None
    base: str = ""


@dataclass(frozen=True)
class Plan:
    """What to ask whom; ``key`` is a hash of everything that the replies depend on."""

    sides: dict[str, Side]
    asked: tuple[Asked, ...]
    key: str

    @property
    def labels(self) -> dict[str, str]:
        """Side -> what it is called."""
        return {side: self.sides[side].label for side in SIDES}

    @property
    def writing(self) -> list[str]:
        """The sides whose replies are to be written: all but the person."""
        return [side for side in SIDES if self.sides[side].model]


def plan(config: CompareConfig) -> Plan:
    """Find the sides and choose the prompts; nothing is loaded or written yet.

    Raises:
        PersonaError: sides that cannot be found, or no held-out replies.
    """
    sides = find_sides(config)
    path, conversations = load_held_out(Path(config.data), ("test", "valid"))
    every = all_asked(conversations)
    if not every:
        raise PersonaError(f"no reply in {path} answers anybody", "a comparison needs real exchanges")
    if len(every) < config.n:
        ui.info(f"{path} holds only {len(every)} replies that answer something: {len(every)} items")
    asked = [every[i] for i in evenly(len(every), config.n)]
    return Plan(sides, tuple(asked), _key(config, [side for side in sides.values() if side.model], asked))


def find_sides(config: CompareConfig) -> dict[str, Side]:
    """What the names ``config.a`` and ``config.b`` mean.

    Raises:
        PersonaError: a name is missing or means nothing, both mean the same, or nothing says which model is base.
    """
    names = {A: config.a, B: config.b}
    if not all(names.values()):
        raise PersonaError(f"a comparison needs two sides, got {sum(map(bool, names.values()))}", _SIDES_HINT)
    if config.a != config.b:
        found = {side: named_side(name, config.model) for side, name in names.items() if name != BASE}
        sides = {side: found.get(side) or base_side(config.model, list(found.values())) for side in SIDES}
        first, second = sides.values()
        if (first.model, first.adapter) != (second.model, second.adapter):
            if first.label == second.label:  # runs of one name in two folders
                return {side: replace(it, label=names[side]) for side, it in sides.items()}
            return sides
    raise PersonaError(f"the two sides must differ, but {config.a} and {config.b} are the same", _SIDES_HINT)


def named_side(name: str, model: str = "") -> Side:
    """A side by its name: ``real``, a folder with an adapter (on ``model``, if that is named), or a model."""
    if name == REAL:
        return Side(REAL)
    path = Path(name)
    if path.is_dir() and (find_adapter(path) or not (path / "config.json").is_file()):
        trained = find_trained(str(resolve_adapter(name)), model, ())
        chosen = trained.run is not None and find_adapter(trained.run) == trained.adapter
        label = trained.run.resolve().name if trained.run and chosen else name
        return Side(_label(label), trained.model, trained.adapter, trained.spec.system, trained.model)
    where = local_path(name)
    info = (read_info(path) if where else None) or {}
    system, base = info.get("system"), info.get("model")  # of a fused model
    return Side(
        _label(where.resolve().name if where else name),
        name,
        None,
        system if isinstance(system, str) else None,
        base if isinstance(base, str) else "",
    )


def _label(name: str) -> str:
    """A folder that happens to be called ``real`` or ``base`` is neither."""
    return f"./{name}" if name in (REAL, BASE) else name


def base_side(model: str, others: Sequence[Side]) -> Side:
    """The base model: the one named, else what the other side was made from, else what the newest run was."""
    other = next((side for side in others if side.base), None)
    if other is not None:
        return Side(BASE, model or other.base, None, other.system)
    if model:
        return Side(BASE, model)
    trained = find_trained("", "", ("dpo", "sft"))
    return Side(BASE, trained.model, None, trained.spec.system)


def write_items(config: CompareConfig, plan: Plan, folder: Path) -> list[Item]:
    """The prompts with both sides' replies; each reply is kept in ``folder`` as it comes, until all are there.

    Raises:
        PersonaError: a model or an adapter that does not load, or a system message that is too long.
        Interrupted: after KeyboardInterrupt; the replies so far are kept.
    """
    n, start = len(plan.asked), {side: place * len(plan.asked) for place, side in enumerate(plan.writing)}
    with keeping(folder, plan.key, n * len(start), "writing replies") as kept:
        for name in dict.fromkeys(plan.sides[side].model for side in start):
            mine = {plan.sides[side]: at for side, at in start.items() if plan.sides[side].model == name}
            _write(config, name, mine, plan.asked, kept)

    def reply(side: str, row: int) -> Reply:
        return kept.written[start[side] + row] if side in start else Reply(plan.asked[row].real, cut=False)

    return [
        Item(
            plan.asked[row].before,
            {side: reply(side, row).text.strip() for side in SIDES},
            {side: reply(side, row).cut for side in SIDES},
            first,
        )
        for row, first in enumerate(first_sides(n, config.seed))
    ]


def forget_partial(folder: Path) -> None:
    """Remove what :func:`write_items` kept, once its items are written elsewhere."""
    (folder / PARTIAL).unlink(missing_ok=True)


def _key(config: CompareConfig, sides: Sequence[Side], asked: Sequence[Asked]) -> str:
    """Everything that the replies depend on, in one hash."""
    prompts = [[message.to_json() for message in one.before] for one in asked]
    models = [
        (identity(resolve_model(side.model))["sha256"], adapter_hash(side.adapter) if side.adapter else "", side.system)
        for side in sides
    ]
    sampling = (config.max_tokens, config.temperature, config.top_p, config.seed, config.max_seq_length)
    return key_of([prompts, models, sampling, config.system])


def _write(config: CompareConfig, name: str, sides: dict[Side, int], asked: Sequence[Asked], kept: Kept) -> None:
    """Load a model and let it reply with each adapter in turn; a side's replies are numbered from its start."""
    missing = {side: kept.missing(range(start, start + len(asked))) for side, start in sides.items()}
    if not any(missing.values()):
        return
    ui.info(f"loading {name}")
    loaded = load_model(name)
    sampling = engine.Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
    for side, numbers in missing.items():
        if not numbers:
            continue
        if side.adapter is not None:
            load_adapter(loaded.model, side.adapter, loaded.identity)
        renderer = Renderer(loaded.tokenizer, system=side.system or "" if config.system is None else config.system)
        rows = [number - sides[side] for number in numbers]
        prompts = [renderer.prompt(asked[row].before, config.max_seq_length) for row in rows]
        engine.replies(
            loaded, prompts, sampling, batch_size=config.batch_size, rows=rows, on_reply=kept.keeper(numbers)
        )
        if side.adapter is not None:
            detach(loaded.model)
    del loaded
    mx.clear_cache()
