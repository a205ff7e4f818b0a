"""The same observer in other domains (source 000, section 5.6): image classification, and modular addition that groks.

    python -m mlx_persona.experiments.domains images [--data CIFAR10] [--seeds 42 137 256]
    python -m mlx_persona.experiments.domains grokking
    python -m mlx_persona.experiments.domains tables

``make experiments`` runs all three. Runs lie under ``runs/experiments/<name>/``; what was cut off goes on where it was,
what is finished is not made again. ``tables`` reads every finished run and writes its ``result.json``, and
``runs/experiments/tables.md``, which has them beside the paper's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_persona import ui
from mlx_persona.config.phases import PROFILES
from mlx_persona.errors import PersonaError
from mlx_persona.experiments.decay import decay
from mlx_persona.experiments.domain_tables import markdown
from mlx_persona.experiments.grokking import grokking, milestones
from mlx_persona.experiments.images import images
from mlx_persona.experiments.observe import cadences, curvature_links, observe, onsets
from mlx_persona.experiments.pictures import SETS, best_set, load_pictures
from mlx_persona.experiments.trial import Plan, run_trial
from mlx_persona.files import write_text
from mlx_persona.runs import read_info

SEEDS = (42, 137, 256)  # the paper's
# S3 asks what noise was before training, when an untrained network's losses are all alike: it comes too soon here.
_JUDGES = {**PROFILES, "paper, no S3": replace(PROFILES["paper"], s3_evals=10**9)}
GUARDS = (0, 2, 3, 5, 8)
STRIDES = (1, 2, 5, 10)
_LARGEST_SEED = 2**32 - 1


def result(folder: Path) -> dict[str, Any]:
    """What a finished run shows, by every profile of the observer.

    Args:
        folder: the run.

    Returns:
        ``plan``; ``final`` (its last evaluation); ``profiles``: name -> phases, onset, commitment, calming ratios;
        ``decay``: what it sees in an exponential; ``links``: δL of the paper's profile beside the Hessian; of images
        ``onsets`` (by guard), of grokking ``milestones`` and ``cadences``; ``evals`` and ``curvature`` with δL, for
        charts.

    Raises:
        PersonaError: its log is damaged.
    """
    path = folder / "metrics.jsonl"
    try:
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        plan = (read_info(folder) or {})["plan"]
        seen = {name: observe(events, profile) for name, profile in _JUDGES.items()}
        evals = [event for event in events if event["event"] == "eval"]
        found: dict[str, Any] = {
            "plan": plan,
            "final": evals[-1],
            "profiles": {name: one.to_json() for name, one in seen.items()},
            "decay": decay(events, Plan(**plan), PROFILES["paper"]),
            "links": curvature_links(events, seen["paper"]),
            "evals": [{**event, "delta": _number(seen["paper"].deltas[event["update"]])} for event in evals],
            "curvature": [event for event in events if event["event"] == "curvature"],
        }
        if "images" in plan["settings"]:
            found["onsets"] = onsets(events, PROFILES["paper"], GUARDS)
        else:
            found["milestones"] = milestones(events)
            found["cadences"] = cadences(events, PROFILES["paper"], STRIDES)
    except (OSError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise PersonaError(f"{path} is damaged: {error!r}", f"make the run again: delete {folder}") from error
    return found


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None


def write_tables(out: Path) -> Path:
    """Judge all finished runs of a folder; write their ``result.json`` and ``tables.md``.

    Raises:
        PersonaError: there is none, or a log is damaged.
    """
    folders = sorted(path.parent for path in out.glob("*/run.json"))
    done = [folder for folder in folders if (read_info(folder) or {}).get("status") == "done"]
    results = []
    for folder in done:
        found = result(folder)
        write_text(folder / "result.json", json.dumps(found, indent=1) + "\n")
        results.append(found)
    if not results:
        raise PersonaError(f"no finished experiment in {out}", "make experiments")
    write_text(out / "tables.md", markdown(results))
    return out / "tables.md"


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) > _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 to {_LARGEST_SEED}, got {text}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlx_persona.experiments.domains", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pictures = commands.add_parser("images", help="a small CNN, Adam 0.01 (mnist: 8 minutes a seed)")
    pictures.add_argument("--images", choices=SETS, help="the set (default: cifar10 with --data, else mnist, digits)")
    pictures.add_argument("--data", type=Path, help="folder of CIFAR-10's python or binary version, unpacked")
    pictures.add_argument("--epochs", type=int, default=30, help="epochs (default: %(default)s)")
    schedules = ("constant", "cosine")
    pictures.add_argument("--schedule", choices=schedules, default=schedules[0], help="default: %(default)s")
    sums = commands.add_parser("grokking", help="addition modulo 97 (3 minutes a seed)")
    sums.add_argument("--updates", type=int, default=2500, help="updates (default: %(default)s)")
    tables = commands.add_parser("tables", help="judge what has been run")
    for command in (pictures, sums):
        command.add_argument("--seeds", type=_seed, nargs="+", default=SEEDS, help="default: 42 137 256")
    for command in (pictures, sums, tables):
        command.add_argument("--out", type=Path, default=Path("runs/experiments"), help="default: %(default)s")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.command == "images":
        if options.epochs < 1:
            raise PersonaError(f"epochs must be >= 1, got {options.epochs}")
        name = options.images or best_set(options.data)
        pictures = load_pictures(name, options.data)
        for seed in options.seeds:
            run_trial(*images(name, pictures, seed, options.epochs, options.schedule), options.out)
    elif options.command == "grokking":
        if options.updates < 1:
            raise PersonaError(f"updates must be >= 1, got {options.updates}")
        for seed in options.seeds:
            run_trial(*grokking(seed, options.updates), options.out)
    else:
        ui.text_out(write_tables(options.out).read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 an error to mend, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except PersonaError as error:
        ui.error(error.message, error.hint)
        return 1
    except KeyboardInterrupt:
        ui.notice("interrupted", "the same command goes on from the last evaluation")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
