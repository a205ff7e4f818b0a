"""Many runs that differ in one thing each, with the same seeds: what the difference makes, and how sure that is.

    mlx-persona sweep --preset ranks --updates 200

Every run is an ordinary ``sft`` or ``dpo`` run in ``runs/sweep-<n>/cells/``. A sweep that was stopped, or killed, goes
on with ``--resume``: what is finished stays, a run that was cut off goes on from its checkpoint, bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_persona import backend, ui
from mlx_persona.awake import awake
from mlx_persona.config import PlanConfig, SweepConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.experiments import table as tables
from mlx_persona.experiments.arms import STAGES, Design, design
from mlx_persona.experiments.cells import Cell
from mlx_persona.experiments.claims import Verdict
from mlx_persona.experiments.measure import Measures
from mlx_persona.experiments.slice import slice_model
from mlx_persona.experiments.verdicts import judge, markdown
from mlx_persona.files import write_text
from mlx_persona.models.load import identity, resolve_model
from mlx_persona.planner.estimate import spoken_time
from mlx_persona.runs import RUNS, Run, claim, closing, file_hash, git_revision, newest, recorded_config
from mlx_persona.settings import plain
from mlx_persona.stages.plan import plan
from mlx_persona.tokens.dataset import common_system, load_split

STAGE = "sweep"
DEFAULT_UPDATES = 200
_PRESETS = (
    "ranks: 8, 16, 32, 64; failed-vs-recommended: the two configurations of source 001; beta: DPO; dora-vs-lora; kl; "
    "tpt-ablation: the phase controller, its pulses one by one, and honest arms beside it"
)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would do: its runs, how long each is, and how long all of them take.

    Attributes:
        design: the arms.
        cells: the runs, in order.
        model: the folder of the model, or of its slice.
        blocks: how many blocks that has.
        length: ``{"tokens": N}`` or ``{"updates": N}``: what all arms have the same of.
        seconds: what the training is thought to take, if every run takes as long as the reference's; None: unknown.
    """

    design: Design
    cells: tuple[Cell, ...]
    model: Path
    blocks: int
    length: dict[str, int]
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return {
            "stage": self.design.stage,
            "reference": self.design.reference,
            "each": self.length,
            "blocks": self.blocks,
            "seconds_estimate": self.seconds,
            "runs": [{"arm": c.arm.name, "seed": c.seed, "name": c.name, "options": c.arm.options} for c in self.cells],
            "notes": list(self.design.notes),
        }

    @property
    def shared(self) -> dict[str, Any]:
        """The options of the stage that all arms have alike, apart from its defaults."""
        first, *others = (arm.options for arm in self.design.arms)
        return {k: v for k, v in first.items() if all(k in one and one[k] == v for one in others)}

    def rows(self) -> list[list[str]]:
        """``[arm, options of its own, why]`` for people."""
        alike = self.shared
        own = [{k: v for k, v in arm.options.items() if k not in alike} for arm in self.design.arms]
        return [[arm.name, spoken(one), arm.why] for arm, one in zip(self.design.arms, own, strict=True)]


def spoken(options: Mapping[str, Any]) -> str:
    """Options as one would write them: ``rank=8 dora=on``."""
    return " ".join(f"{name}={_value(value)}" for name, value in options.items()) or "-"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to: its folder, its table (as in ``table.json``), and what it says about the claims."""

    path: Path
    table: dict[str, Any]
    verdicts: list[Verdict]

    def to_json(self) -> dict[str, Any]:
        """The table and the verdicts as one JSON object."""
        return {"path": str(self.path), **self.table, "verdicts": [one.to_json() for one in self.verdicts]}


def plan_sweep(config: SweepConfig, root: Path) -> SweepPlan:
    """The runs of a sweep in the folder ``root``; nothing is written.

    Raises:
        PersonaError: no arms, an option that the stage does not have, no such model or data.
    """
    if not (config.preset or config.grid or config.settings):
        raise PersonaError("a sweep needs --preset, --grid NAME=V1,V2 or --set NAME=VALUE", f"presets: {_PRESETS}")
    source = slice_model(config.model, config.blocks) if config.blocks else resolve_model(config.model)
    blocks = int(json.loads((source / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers") or 1)
    found = design(config, blocks)
    shared: dict[str, Any] = {"model": str(source), "data": config.data}
    if found.stage == "dpo" and not found.arms[0].options.get("adapter"):
        start = newest(("sft",))
        if start is None:
            raise PersonaError("dpo needs a run of sft to start from", "name one: --set adapter=RUN")
        shared["adapter"] = str(start)
    length, seconds = _length(config, found, shared)
    seeds = config.seed_list
    # Seed by seed: a sweep that is stopped early has every arm with fewer seeds.
    cells = tuple(Cell(arm, seed, found.stage, {**shared, **length}, root) for seed in seeds for arm in found.arms)
    return SweepPlan(found, cells, source, blocks, length, seconds * len(cells) if seconds is not None else None)


def _length(config: SweepConfig, found: Design, shared: Mapping[str, Any]) -> tuple[dict[str, int], float | None]:
    """How long every run is, and the seconds of one."""
    updates = config.updates or DEFAULT_UPDATES
    match = config.match or ("updates" if found.stage == "dpo" else "tokens")
    if found.stage == "dpo":
        return ({"tokens": config.tokens} if config.tokens else {"updates": updates}), None
    arm = next(one for one in found.arms if one.name == found.reference)
    planned = plan(PlanConfig(**{**shared, **arm.options}, updates=updates, stage="sft"))
    if match == "updates":
        return {"updates": updates}, planned.seconds_estimate
    tokens = config.tokens or planned.tokens
    return {"tokens": tokens}, planned.seconds_estimate * tokens / max(1, planned.tokens)


def sweep(config: SweepConfig, root: Path = RUNS) -> SweepResult:
    """Make every run that is not finished, and the table of all of them.

    Raises:
        PersonaError: no arms, no such model or data, a sweep to resume whose model or data changed.
        Interrupted: after SIGINT or SIGTERM; every run so far is kept, the one at hand with a checkpoint.
    """
    if config.resume:
        config = recorded_config(config, STAGE)
    planned = plan_sweep(config, Path(config.out or "."))
    run = _open(config, planned, root)
    cells = [replace(cell, root=run.path) for cell in planned.cells]
    try:
        with closing(run), awake():
            table = _all(config, planned, cells, run)
            found = judge([table])
            write_text(run.path / "table.md", tables.markdown(table) + "\n" + markdown(found))
            run.update_info(status="done", finished=time.time(), failed=_failed(table))
            return SweepResult(run.path, table, found)
    except (Interrupted, KeyboardInterrupt):
        hint = f"continue with: mlx-persona sweep --resume {run.path}"
        raise Interrupted("the sweep was stopped; every run so far is kept", hint) from None


def _open(config: SweepConfig, planned: SweepPlan, root: Path) -> Run:
    """The sweep's folder: a new one, or the one to resume."""
    names = [f"{name}.jsonl" for name in ("train", "valid", "test")]
    facts = {
        "model_identity": identity(planned.model),
        "data_hashes": {n: file_hash(Path(config.data) / n) for n in names if (Path(config.data) / n).is_file()},
        "each": planned.length,
    }
    if not config.resume:
        out = Path(config.out) if config.out else claim(STAGE, root)
        versions = {"versions": backend.versions(), "git": git_revision(), "device": backend.device_name()}
        known = {
            "stage": STAGE,
            "preset": config.preset,
            "model": config.model,
            "blocks": planned.blocks,
            **facts,
            **versions,
        }
        return Run.create(out, plain(replace(config, out=str(out))), {**known, "started": time.time()})
    run = Run.reopen(Path(config.resume))
    for name, value in facts.items():
        if run.info.get(name) != value:
            run.close()
            what = {"model_identity": "model", "data_hashes": "data", "each": "length of its runs"}[name]
            raise PersonaError(f"the {what} changed since {config.resume} began", "start a new sweep")
    run.update_info(status="running")
    return run


def _all(config: SweepConfig, planned: SweepPlan, cells: Sequence[Cell], run: Run) -> dict[str, Any]:
    """Make what is not finished, with the table written anew after every run."""
    records = {cell.name: record for cell in cells if (record := cell.recorded()) is not None}
    todo = [cell for cell in cells if records.get(cell.name, {"status": "failed"})["status"] == "failed"]
    again = sum(cell.name in records for cell in todo)
    ui.info(
        f"{len(cells)} runs: {len(planned.design.arms)} arms, {len(config.seed_list)} seeds; "
        f"{len(cells) - len(todo)} are finished" + (f", {again} failed and are tried again" if again else "")
    )
    base: dict[str, Any] = run.info.get("base") or {}
    if todo:
        measures = _measures(config, planned, run.path)
        base = measures.base
        run.update_info(base=base, measure_notes=measures.notes)
    for number, cell in enumerate(todo, len(cells) - len(todo) + 1):
        ui.info(f"run {number} of {len(cells)}: {cell.arm.name}, seed {cell.seed}")
        with ui.brief():
            records[cell.name] = cell.make(measures.of, config.keep_checkpoints)
        _write(run, planned, [records[c.name] for c in cells if c.name in records], base)
        _report(records[cell.name], [r["wall_seconds"] for r in records.values()], len(cells) - number)
    return _write(run, planned, [records[c.name] for c in cells], base)


def _measures(config: SweepConfig, planned: SweepPlan, folder: Path) -> Measures:
    options = planned.design.arms[0].options
    system = options.get("system") or common_system(load_split(Path(config.data), "train"))
    length = options.get("max_seq_length", STAGES[planned.design.stage]().max_seq_length)
    with ui.brief():
        return Measures.make(config, str(planned.model), folder / "measured", system, length)


def _report(record: Mapping[str, Any], took: Sequence[float], remaining: int) -> None:
    """One line on a run that ended, with the time that is left."""
    rest = f"; {remaining} left, {spoken_time(tables.left(took, remaining))}" if remaining else ""
    if record["status"] == "failed":
        hint = f" ({record['hint']})" if record["hint"] else ""
        ui.warn(f"it failed: {record['error']}{hint}{rest}")
        return
    held_out = record.get("held_out_loss")
    shown = f", held-out loss {held_out:.4f}" if held_out is not None else ""
    loss = f"evaluation loss {record['base_eval_loss']:.4f} -> {record['eval_loss']:.4f}{shown}"
    ui.info(f"{loss}, {record['wall_seconds']:.0f} s{rest}")


def _write(run: Run, planned: SweepPlan, records: Sequence[Mapping[str, Any]], base: dict[str, Any]) -> dict[str, Any]:
    """``table.json`` and ``table.md``, atomically."""
    found, info = planned.design, run.info
    lines = tables.summary([arm.name for arm in found.arms], records, found.reference)
    each = ", ".join(f"{count:,} {what}" for what, count in planned.length.items())
    model = f"{info['model_identity']['name']} ({planned.blocks} blocks)"
    table = {
        "title": f"Sweep: {info.get('preset') or run.path.name}",
        "about": f"{found.stage} of {model}; {each} each; {len(records)} of {len(planned.cells)} runs ended.",
        "stage": found.stage,
        "preset": info.get("preset"),
        "each": planned.length,
        "blocks": planned.blocks,
        "model_identity": info["model_identity"],
        "data_hashes": info["data_hashes"],
        "reference": found.reference,
        "base": base,
        "arms": lines,
        "options": {arm.name: plain_options(arm.options) for arm in found.arms},
        "equal": [[a, b, same] for a, b in found.equal if (same := tables.same_figures(records, a, b)) is not None],
        "notes": [
            *found.notes,
            *tables.notes(lines, len({cell.seed for cell in planned.cells})),
            *info.get("measure_notes", []),
        ],
        "runs": list(records),
    }
    write_text(run.path / "table.json", json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    write_text(run.path / "table.md", tables.markdown(table))
    return table


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _failed(table: Mapping[str, Any]) -> int:
    return sum(record["status"] == "failed" for record in table["runs"])
