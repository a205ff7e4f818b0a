"""What a stage will take, before it runs: memory, time, tokens, updates; and what to change where it does not fit.

    mlx-persona plan --rank 64 --memory 16GB

Only the model's ``config.json`` is needed. With a local tokenizer the data is counted exactly, else from its letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlx_persona import backend, ui
from mlx_persona.config import DpoConfig, FuseConfig, PairsConfig, PlanConfig
from mlx_persona.errors import PersonaError
from mlx_persona.model_names import hub_file
from mlx_persona.models.hub import download_bytes
from mlx_persona.models.load import load_tokenizer, resolve_model
from mlx_persona.models.lora_experts import no_dora
from mlx_persona.models.merge import SHARD_BYTES
from mlx_persona.planner.coefficients import coefficients
from mlx_persona.planner.cost import Work, seconds
from mlx_persona.planner.estimate import Advice, Needs, advise, parse_memory, spoken_time, with_checkpoints
from mlx_persona.planner.memory import FULL_ROWS, Load, Setup, dense_row, generation_peak, holding, peak, states_of
from mlx_persona.planner.shapes import FULL, HALF, Shapes, read_config, shapes
from mlx_persona.schema import read_conversations, read_pairs
from mlx_persona.stages.budget import evaluation_rows, padded
from mlx_persona.stages.training import updates_of
from mlx_persona.tokens.batches import Row
from mlx_persona.tokens.dataset import common_system, conversation_rows
from mlx_persona.tokens.pairs import pair_rows
from mlx_persona.tokens.render import Renderer

# Where there is no tokenizer: letters per token of chat, and tokens that the template adds to a turn.
_LETTERS, _PER_TURN = 3.5, 5
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_ASSUMED_ROWS, _ASSUMED_TARGETS = 500, 0.3


@dataclass(frozen=True)
class Data:
    """What a stage would read: rows, their tokens and targets, the longest; ``how`` it was counted."""

    rows: int
    tokens: int
    targets: int
    longest: int
    how: str


@dataclass(frozen=True)
class PlanResult:
    """The plan of a stage; ``to_json`` has the contract's keys."""

    stage: str
    peak_bytes: int
    budget_bytes: int
    fits: bool
    epochs: float
    updates: int
    tokens: int
    effective_scale: float
    seconds_estimate: float
    checkpointed_blocks: int
    measured: str
    counted: str
    parts: dict[str, int]
    phase: str = ""
    advice: list[Advice] = field(default_factory=list)
    download_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return {**self.__dict__, "advice": [one.to_json() for one in self.advice]}

    def rows(self) -> list[list[str]]:
        """``[what, figure]`` for people."""
        shown = [
            ["peak memory", f"{self.peak_bytes / 1e9:.2f} GB of {self.budget_bytes / 1e9:.2f}"],
            *([["peaks in the", self.phase]] if self.phase else []),
            ["fits", "yes" if self.fits else "no"],
            *([f"  step: {name}", f"{size / 1e9:.2f} GB"] for name, size in self.parts.items()),
            ["blocks recomputed", str(self.checkpointed_blocks)],
            ["updates", f"{self.updates} ({self.epochs:.2f} epochs)"],
            ["tokens", f"{self.tokens:,}"],
            ["effective scale", f"{self.effective_scale:g}"],
            ["time", spoken_time(self.seconds_estimate)],
        ]
        if self.download_bytes:
            shown.append(["download", f"{self.download_bytes / 1e9:.2f} GB"])
        return [*shown, ["memory model", self.measured], ["data", self.counted]]


def plan(config: PlanConfig) -> PlanResult:
    """What a stage will take, from the model's config alone.

    Raises:
        PersonaError: no such model, an architecture that cannot be planned, or options that do not fit it (DoRA on a
            mixture of experts).
    """
    folder = _config_folder(config.model)
    shape = shapes(read_config(folder))
    device = backend.device_name() if config.device == "auto" else config.device
    total = parse_memory(config.memory) if config.memory else backend.memory_bytes()
    budget = backend.usable_bytes(total if config.memory else None, device)
    if not shape.expected:
        ui.warn(f"the memory model was not fitted to blocks like those of {shape.kind}: take the peak as a rough guide")
    if config.stage != "pairs" and config.dora and any(layer.experts > 1 for _, layer in shape.adapted(-1)):
        raise no_dora()
    base = Setup(0, False, device=device, held=holding(shape, device, total))
    result = {"sft": _training, "dpo": _training, "pairs": _pairs, "fuse": _fuse}[config.stage](
        config, folder, shape, base, budget
    )
    wanted = None if Path(config.model).expanduser().exists() else download_bytes(config.model)
    return replace(result, download_bytes=wanted)


def _config_folder(name: str) -> Path:
    """The folder with the model's ``config.json``; of a Hub repo nothing else is fetched."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        return resolve_model(name)
    return hub_file(name, "config.json").parent


def _training(config: PlanConfig, folder: Path, shape: Shapes, base: Setup, budget: int) -> PlanResult:
    pairs = config.stage == "dpo"
    data = _data(config, folder, pairs)
    sides = 2 if pairs else 1
    setup = replace(
        base,
        rank=config.rank,
        dora=config.dora,
        num_layers=config.num_layers,
        accumulation=config.grad_accumulation,
        states=states_of(config.optimizer, config.rank),
        pairs=pairs,
        anchored=not pairs and config.kl > 0,
    )
    length = padded(min(config.max_seq_length, data.longest) - 1)
    rows = config.batch_size * sides
    share = data.targets / max(1, data.tokens)
    # A row's targets may be more than its share of them; a reply rarely fills more than half of a long row.
    targets = min(rows * length, round(2 * share * rows * length))
    held_out = (max(config.batch_size, 2) * 2) if pairs else evaluation_rows(config.batch_size, data.longest)
    loads = (Load(rows, length, targets), Load(held_out, length, round(targets * held_out / rows)))
    needs = with_checkpoints(Needs(shape, setup, *loads, budget), config.grad_checkpoint)
    per_epoch = -(-data.rows // config.batch_size)
    training = replace(config, epochs=DpoConfig().epochs) if pairs and config.epochs == PlanConfig().epochs else config
    updates = updates_of(training, per_epoch, data.tokens * sides)
    passes = updates * config.grad_accumulation / per_epoch
    tokens = data.tokens * sides * passes
    evaluated = 0.1 * 3 * tokens  # evaluations may take a tenth of a run, and a forward pass a third of a step
    reference = data.tokens * sides if pairs else 0
    work = Work(tokens, data.targets * sides * passes, evaluated + reference, data.tokens // data.rows)
    work = work.anchored() if setup.anchored else work
    scale = (2.0 * config.rank if config.alpha is None else config.alpha) / config.rank
    return PlanResult(
        stage=config.stage,
        peak_bytes=needs.peak.bytes,
        budget_bytes=budget,
        fits=needs.fits,
        epochs=round(passes, 3),
        updates=updates,
        tokens=round(tokens),
        effective_scale=scale,
        seconds_estimate=round(seconds(shape, needs.setup, work), 1),
        checkpointed_blocks=needs.setup.checkpointed,
        measured=coefficients(setup.device).measured,
        counted=data.how,
        parts=needs.peak.parts,
        phase=needs.peak.phase,
        advice=advise(needs),
    )


def _data(config: PlanConfig, folder: Path, pairs: bool) -> Data:
    """The data that is there, exactly where the tokenizer is, else estimated; or an assumed amount."""
    name = Path("data/pairs" if pairs and config.data == PlanConfig().data else config.data) / "train.jsonl"
    if not name.is_file():
        return _assumed(config, config.rows or _ASSUMED_ROWS)
    if not any((folder / known).is_file() for known in _TOKENIZERS):
        return _assumed(config, len(read_pairs(name))) if pairs else _by_letters(config, name)
    tokenizer = load_tokenizer(folder)
    if pairs:
        found = pair_rows(read_pairs(name), Renderer(tokenizer, system=config.system), config.max_seq_length)
        rows_: Sequence[Row] = (*found.chosen, *found.rejected)
        count = len(found.chosen)
    else:
        conversations = read_conversations(name)
        renderer = Renderer(
            tokenizer, system=config.system or common_system(conversations), mask_prompt=config.mask_prompt
        )
        rows_ = conversation_rows(conversations, renderer, config.max_seq_length).rows
        count = len(rows_)
    if not count:
        raise PersonaError(f"nothing in {name} fits in {config.max_seq_length} tokens", "raise --max-seq-length")
    sides = len(rows_) // count
    tokens, targets = sum(len(r.ids) for r in rows_) // sides, sum(r.targets for r in rows_) // sides
    return Data(count, tokens, targets, max(len(r.ids) for r in rows_), f"counted in {name}")


def _assumed(config: PlanConfig, rows: int) -> Data:
    """So many rows, half as long as they may be."""
    tokens = rows * config.max_seq_length // 2
    how = f"assumed: {rows} rows of {config.max_seq_length // 2} tokens, the longest {config.max_seq_length}"
    return Data(rows, tokens, round(_ASSUMED_TARGETS * tokens), config.max_seq_length, how)


def _by_letters(config: PlanConfig, name: Path) -> Data:
    """An estimate from the letters of a file."""
    conversations = read_conversations(name)
    own = [sum(len(m.content) / _LETTERS + _PER_TURN for m in c.messages) for c in conversations]
    tokens = round(sum(own))
    said = sum(len(m.content) / _LETTERS for c in conversations for m in c.messages if m.role == "assistant")
    rows = sum(max(1, -(-round(one) // config.max_seq_length)) for one in own)
    longest = min(config.max_seq_length, round(max(own)))
    return Data(rows, tokens, round(said), longest, f"estimated from the letters of {name}: no tokenizer here")


def _pairs(config: PlanConfig, folder: Path, shape: Shapes, base: Setup, budget: int) -> PlanResult:
    """Replies of the base model, by the defaults of ``pairs``."""
    settings = PairsConfig()
    count = config.rows or settings.n
    number = HALF if base.device != "cpu" else FULL
    keys = sum(a.outputs for b in shape.blocks for a in b.linears if a.name.endswith(("k_proj", "v_proj"))) * number
    load = Load(settings.batch_size, config.max_seq_length, settings.batch_size)
    top = generation_peak(shape, base, load, keys)
    prompt = config.max_seq_length // 2
    work = Work(0.0, 0.0, float(count * (prompt + settings.max_tokens)), prompt)
    found = [] if top <= budget else _fewer_replies(shape, base, load, keys, budget)
    return _plain(config, shape, base, budget, top, work, found)


def _fewer_replies(shape: Shapes, base: Setup, load: Load, keys: int, budget: int) -> list[Advice]:
    rows = load.rows // 2
    while rows > 1 and generation_peak(shape, base, Load(rows, load.length, rows), keys) > budget:
        rows //= 2
    there = generation_peak(shape, base, Load(rows, load.length, rows), keys)
    return [Advice(f"--batch-size {rows}", there, there <= budget)]


def _fuse(config: PlanConfig, folder: Path, shape: Shapes, base: Setup, budget: int) -> PlanResult:
    """Merging layer by layer, and the gate's scoring of the adapter; the wider of both."""
    settings = FuseConfig()
    setup = replace(base, rank=config.rank, dora=config.dora, num_layers=config.num_layers)
    load = Load(1, padded(settings.max_seq_length - 1), min(settings.gate_tokens, settings.max_seq_length))
    gate = peak(shape, replace(setup, states=0.0), Load(1, 1, 1), load).evaluation
    merge = SHARD_BYTES + FULL_ROWS * dense_row(shape)
    work = Work(0.0, 0.0, float(3 * 2 * settings.gate_tokens), settings.max_seq_length)
    return _plain(config, shape, setup, budget, max(gate, merge), work, [])


def _plain(
    config: PlanConfig, shape: Shapes, setup: Setup, budget: int, top: int, work: Work, advice: list[Advice]
) -> PlanResult:
    """The plan of a stage that trains nothing."""
    scale = (2.0 * config.rank if config.alpha is None else config.alpha) / config.rank
    took = seconds(shape, setup, work)
    return PlanResult(
        stage=config.stage,
        peak_bytes=top,
        budget_bytes=budget,
        fits=top <= budget,
        epochs=0.0,
        updates=0,
        tokens=round(work.evaluated),
        effective_scale=scale,
        seconds_estimate=round(took, 1),
        checkpointed_blocks=0,
        measured=coefficients(setup.device).measured,
        counted="assumed",
        parts={},
        advice=advice,
    )
