"""Is it them? Models of a workspace beside the real person: style, probes, ability, leaks, prompts, consistency.

mlx-persona eval

Replies are kept as they are written, in ``partial.jsonl``; the same command continues after a stop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import yaml

from mlx_persona import backend
from mlx_persona.awake import awake
from mlx_persona.config import EvalConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.card import Card
from mlx_persona.evals.choice import choose
from mlx_persona.evals.judge import Judge
from mlx_persona.evals.panel import BASE, Asking, Candidate, Panel
from mlx_persona.evals.parts.probes import ProbePart
from mlx_persona.evals.parts.prompts import FULL
from mlx_persona.evals.parts.style import StylePart
from mlx_persona.evals.scripts import Answers, Part
from mlx_persona.files import write_text
from mlx_persona.generation.engine import Sampling
from mlx_persona.generation.job import PARTIAL, waiting
from mlx_persona.runs import RUNS, claim, git_revision, holding
from mlx_persona.schema import dump_line
from mlx_persona.settings import plain
from mlx_persona.stages.candidates import find_candidates, judged
from mlx_persona.stages.parts import Material, counter, make_parts, persona_prompts

Table = tuple[list[str], list[list[str]]]
PROMPTED = "prompted"


@runtime_checkable
class Explaining(Protocol):
    """A part that says of every single answer what it is worth."""

    def explain(self, answers: Answers) -> dict[str, list[dict[str, Any]]]:
        """Per model and script: what it scored, and why."""
        ...


@dataclass
class Evaluation:
    """What an evaluation came to.

    Attributes:
        folder: where it was written.
        quick: whether it was the quick one.
        card: the report card; None where style was not looked at.
        parts: part -> its scores, ``rows`` for people among them.
        choice: of checkpoints, the best by each measure; None otherwise.
        notes: what could not be measured, and why.
    """

    folder: Path
    quick: bool
    card: Card | None
    parts: dict[str, dict[str, Any]]
    choice: dict[str, dict[str, Any]] | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it but the replies as one JSON object."""
        return {
            "quick": self.quick,
            **(self.card.to_json() if self.card else {}),
            "parts": self.parts,
            "choice": self.choice,
            "notes": self.notes,
        }

    def tables(self) -> dict[str, Table]:
        """Title -> ``(columns, rows)`` for people."""
        found = {"report card": self.card.table()} if self.card else {}
        for name, scores in self.parts.items():
            labels = list(dict.fromkeys(label for _, cells in scores["rows"] for label in cells))
            rows = [[what, *(cells.get(label, "-") for label in labels)] for what, cells in scores["rows"]]
            if rows:
                found[name] = (["", *labels], rows)
        return found


def evaluate(config: EvalConfig, root: Path = RUNS) -> Evaluation:
    """Ask, score, and write ``scores.json``, every reply, and which runs were judged.

    Raises:
        PersonaError: nothing to judge, no held-out data, a file of probes or questions with a mistake, a model or an
            adapter that does not load, or a judge that does not answer (the replies are kept).
        Interrupted: after KeyboardInterrupt; the replies so far are kept.
    """
    started = time.time()
    mx.reset_peak_memory()
    judge = Judge(config.judge, config.judge_model) if config.judge else None  # before anything is written
    who = find_candidates(config, root)
    material = Material.read(config)
    if len({one.system for one in who}) > 1 and {"probes", "prompts", "bystander"}.intersection(config.chosen):
        material.note(
            "the runs have different system messages: probes of memory, prompts and bystander use the first's"
        )
    parts = make_parts(config, material, who[0])
    who[1:1] = _prompted(config, material, who[0])
    sampling = Sampling(config.max_tokens, config.temperature, config.top_p, config.seed)
    panel = Panel(who, parts, Asking(sampling, config.batch_size))
    folder = _folder(config, root, panel.key)
    with holding(folder), awake():
        answers = panel.ask(folder)
        _judge(judge, parts, answers, folder)
        found = _score(config, folder, parts, answers, material)
        _write(found, parts, answers)
        # What checkpoints were judged is no verdict on the run that they are of.
        whose = {} if config.checkpoints else judged(who)
        _describe(config, folder, {"model": who[0].model, "judged": whose, "started": started})
        (folder / PARTIAL).unlink(missing_ok=True)
    return found


def _folder(config: EvalConfig, root: Path, key: str) -> Path:
    """Where to write: a folder of its own, or the one in which the same evaluation was stopped.

    Raises:
        PersonaError: the folder that the user names holds something else.
    """
    if not config.out:
        return waiting(root.glob("eval-*"), key) or claim("eval", root)
    folder = Path(config.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and waiting([folder], key) is None:
        raise PersonaError(f"{folder} is in use already", "give another --out")
    return folder


def _prompted(config: EvalConfig, material: Material, base: Candidate) -> list[Candidate]:
    """A control: the base model that is told who to be, with real examples, and not trained."""
    if config.quick or config.checkpoints or "style" not in config.chosen or not (material.training or config.prompt):
        return []
    prompt = persona_prompts(config, material, base, counter(base.model))[FULL]
    return [Candidate(PROMPTED, base.model, None, prompt, whole=False, override=True)]


def _judge(judge: Judge | None, parts: Sequence[Part], answers: Mapping[str, Answers], folder: Path) -> None:
    """Have the judge, if the user named one, rate what no rule can."""
    if judge is None:
        return
    judge.keep_in(folder)
    for part in parts:
        if isinstance(part, ProbePart):
            try:
                part.rate(judge, answers[part.name])
            except KeyboardInterrupt:
                kept = "stopped: all replies and the judge's answers so far are kept"
                raise Interrupted(kept, "the same command continues from there") from None


def _score(
    config: EvalConfig, folder: Path, parts: Sequence[Part], answers: Mapping[str, Answers], material: Material
) -> Evaluation:
    card, scores = None, {}
    for part in parts:
        if isinstance(part, StylePart):
            card = part.card(answers[part.name])
        else:
            found = part.score(answers[part.name])
            for note in found.get("notes", ()):
                material.note(f"{part.name}: {note}")
            scores[part.name] = {**found, "rows": [[what, dict(cells)] for what, cells in part.rows(found)]}
    choice = None
    if config.checkpoints and card is not None:
        ability = scores.get("ability")
        choice = choose(card.figures, ability["models"] if ability else None, BASE)
    return Evaluation(folder, config.quick, card, scores, choice, material.notes)


def _write(found: Evaluation, parts: Sequence[Part], answers: Mapping[str, Answers]) -> None:
    """Every reply, and the scores last, each file atomically."""
    if found.card is not None:
        found.card.write(found.folder)
    for part in parts:
        if not isinstance(part, StylePart) and part.scripts:
            lines = _lines(part, answers[part.name])
            write_text(found.folder / f"{part.name}.jsonl", "".join(map(dump_line, lines)))
    scores = json.dumps(found.to_json(), ensure_ascii=False, indent=2)
    write_text(found.folder / "scores.json", scores + "\n")


def _lines(part: Part, answers: Answers) -> list[dict[str, Any]]:
    """One object per script: what was asked, and what every model said, with its score where there is one."""
    why = part.explain(answers) if isinstance(part, Explaining) else {}
    lines = []
    for i, script in enumerate(part.scripts):
        line: dict[str, Any] = {"asked": [message.to_json() for message in script.before]}
        line |= {"then": list(script.then)} if script.then else {}
        for label, replies in answers.items():
            said = {"replies": [reply.text for reply in replies[i]], "cut": [reply.cut for reply in replies[i]]}
            line[label] = {**said, **(why[label][i] if label in why else {})}
        lines.append(line)
    return lines


def _describe(config: EvalConfig, folder: Path, facts: dict[str, Any]) -> None:
    """``config.yaml`` and ``run.json``: which adapters and models these scores are of, known by their hashes."""
    resolved = plain(replace(config, out=str(folder)))
    write_text(folder / "config.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))
    finished = time.time()
    info = {
        "stage": "eval",
        **facts,
        "versions": backend.versions(),
        "git": git_revision(),
        "device": backend.device_name(),
        "finished": finished,
        "seconds": round(finished - facts["started"], 1),
        "peak_bytes": mx.get_peak_memory(),
        "status": "done",
    }
    write_text(folder / "run.json", json.dumps(info, indent=2, ensure_ascii=False) + "\n")
