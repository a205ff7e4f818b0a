"""A blind comparison on disk: made once, answered in as many sittings as it takes. No web, and no model to go on.

``runs/compare-<n>/`` holds ``items.jsonl`` (prompts and replies), ``answers.json`` (written anew at each answer)
and, once all is answered, ``result.json``. Where the user named a judge, ``judged.json`` holds what it said
(``stages/judging.py``); its figures stand in the result.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_persona.config import CompareConfig
from mlx_persona.errors import Interrupted, PersonaError
from mlx_persona.evals.blind.judged import Ratings
from mlx_persona.evals.blind.score import Result, score
from mlx_persona.evals.blind.session import SIDES, Item, Session
from mlx_persona.evals.judge import CACHE
from mlx_persona.files import write_text
from mlx_persona.runs import Run, claim, closing, recorded_config
from mlx_persona.schema import dump_line, read_jsonl
from mlx_persona.settings import plain

if TYPE_CHECKING:
    from mlx_persona.stages.sides import Plan

STAGE = "compare"
ITEMS, ANSWERS, RESULT, JUDGED = "items.jsonl", "answers.json", "result.json", "judged.json"
# What each sitting may choose anew. The judge too: one that is not named again is not asked.
_FREE = ("port", "open", "judge", "judge_model")


class Comparison:
    """A comparison's folder and how far it has come: every change is on disk before it counts.

    ``again`` is the command that goes on with it.
    """

    def __init__(self, run: Run, session: Session, ratings: Ratings | None, again: str) -> None:
        self._run, self.session, self._ratings, self.again = run, session, ratings, again

    @property
    def path(self) -> Path:
        """The folder."""
        return self._run.path

    @property
    def labels(self) -> dict[str, str]:
        """Side -> what it is called."""
        return {side: str(self._run.info["labels"][side]) for side in SIDES}

    @property
    def result(self) -> Result:
        """What the answers so far say, and a judge, if one was asked."""
        return score(self.session, self.labels, self._ratings)

    def press(self, key: str) -> None:
        """Answer the current question.

        Raises:
            PersonaError: as :meth:`Session.pressed`.
            OSError: it cannot be saved, and so it does not count.
        """
        self._keep(self.session.pressed(key))

    def undo(self) -> None:
        """Take the last answer back; raises OSError if that cannot be saved."""
        self._keep(self.session.undone())

    def take_ratings(self, ratings: Ratings) -> None:
        """Keep what a judge said of all replies, in place of what another one said."""
        write_text(self.path / JUDGED, json.dumps(ratings.to_json(), ensure_ascii=False, indent=1) + "\n")
        self._ratings = ratings
        self.settle()

    def _keep(self, session: Session) -> None:
        answers = [answer.to_json() for answer in session.answers]
        write_text(self.path / ANSWERS, json.dumps({"answers": answers}, ensure_ascii=False, indent=1) + "\n")
        was_done, self.session = self.session.done, session
        if session.done or was_done:
            self.settle()

    def settle(self) -> None:
        """Let ``result.json`` and the status say what the answers say: there is a result only of a whole comparison."""
        if self.session.done:
            shown = json.dumps(self.result.to_json(), ensure_ascii=False, indent=2)
            write_text(self.path / RESULT, shown + "\n")
            self._run.update_info(status="done", finished=time.time())
        else:
            (self.path / RESULT).unlink(missing_ok=True)
            self._run.update_info(status="running")

    def stopped(self) -> Interrupted:
        """What to tell a user who stops before the end."""
        done, total = self.session.items_done, len(self.session.items)
        return Interrupted(f"stopped: {done} of {total} items are answered and kept", f"go on with: {self.again}")


@contextmanager
def opened(config: CompareConfig) -> Iterator[Comparison]:
    """The comparison that the options mean, its replies written if they were not yet; held by one process at a time.

    Raises:
        PersonaError: sides that cannot be found or do not load, no held-out data, nothing to resume, a folder in
            use, or files in it that were damaged.
        Interrupted: stopped while the replies were being written; those so far are kept.
    """
    if config.resume:
        config = recorded_config(config, STAGE, _FREE)
        run, made = Run.reopen(Path(config.resume)), None
    else:
        run, made = _create(config)
    with closing(run):
        if not (run.path / ITEMS).is_file():
            _make_items(config, run, made)
        session = Session(_read_items(run.path / ITEMS), config.rubric)
        session = _with_answers(session, run.path / ANSWERS)
        ratings = _read_ratings(run.path / JUDGED, len(session.items))
        comparison = Comparison(run, session, ratings, resume_command(run.path, config))
        if not comparison.session.done or not (run.path / RESULT).is_file():
            comparison.settle()
        yield comparison


def _create(config: CompareConfig) -> tuple[Run, Plan]:
    """A new folder, once it is known what to ask whom."""
    from mlx_persona.stages.sides import plan

    made = plan(config)
    out = Path(config.out) if config.out else claim(STAGE)
    recorded = plain(replace(config, out=str(out), resume=""))
    run = Run.create(out, recorded, {"stage": STAGE, "labels": made.labels, "started": time.time()})
    return run, made


def _make_items(config: CompareConfig, run: Run, made: Plan | None) -> None:
    """Let both sides reply; ``items.jsonl`` appears once all replies are there."""
    from mlx_persona.stages.sides import forget_partial, plan, write_items

    try:
        items = write_items(config, made or plan(config), run.path)
    except Interrupted as stop:
        raise Interrupted(stop.message, f"go on with: {resume_command(run.path, config)}") from None
    write_text(run.path / ITEMS, "".join(dump_line(item.to_json()) for item in items))
    forget_partial(run.path)


def _read_items(path: Path) -> tuple[Item, ...]:
    items = []
    for number, value in read_jsonl(path):
        try:
            items.append(Item.from_json(value))
        except PersonaError as error:
            raise PersonaError(f"{path}:{number}: {error.message}", error.hint) from error
    return tuple(items)


def _with_answers(session: Session, path: Path) -> Session:
    """The session with what was answered in earlier sittings."""
    if not path.is_file():
        return session
    hint = f"remove {path}, and all is asked again"
    try:
        return session.resumed(json.loads(path.read_text(encoding="utf-8"))["answers"])
    except (ValueError, KeyError, TypeError) as error:
        raise PersonaError(f"{path} is damaged: {error!r}", hint) from error
    except PersonaError as error:
        raise PersonaError(f"{path}: {error.message}", hint) from error


def _read_ratings(path: Path, items: int) -> Ratings | None:
    """What a judge said of the replies, if one was asked."""
    if not path.is_file():
        return None
    hint = f"remove {path}, and go on with --judge: what it rated is kept in {CACHE}"
    try:
        return Ratings.from_json(json.loads(path.read_text(encoding="utf-8")), items)
    except ValueError as error:
        raise PersonaError(f"{path} is damaged: {error!r}", hint) from error
    except PersonaError as error:
        raise PersonaError(f"{path}: {error.message}", hint) from error


def resume_command(folder: Path, config: CompareConfig) -> str:
    """What to type to go on with the comparison in a folder, with the judge that was named."""
    words = ["mlx-persona", "compare", "--resume", str(folder)]
    words += ["--judge", config.judge] if config.judge else []
    words += ["--judge-model", config.judge_model] if config.judge_model else []
    return shlex.join(words)
