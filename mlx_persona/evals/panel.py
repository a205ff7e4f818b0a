"""Who is asked: base and trained models, one after another, with the same questions and the same random keys.

Each model is loaded once. Replies are kept as they are written, so that an evaluation that was stopped goes on. A
question that several parts ask is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx

from mlx_persona import ui
from mlx_persona.errors import PersonaError
from mlx_persona.evals.figures import OTHERS, PERSON
from mlx_persona.evals.scripts import Part, Script
from mlx_persona.generation import engine
from mlx_persona.generation.engine import Reply, Sampling
from mlx_persona.generation.job import Kept, keeping, key_of
from mlx_persona.models.adapters import bypassed, check_base, detach, load_adapter
from mlx_persona.models.load import LoadedModel, identity, load_model, load_tokenizer, resolve_model
from mlx_persona.runs import adapter_hash
from mlx_persona.schema import Message
from mlx_persona.tokens.render import Renderer

BASE = "base"
# A system message of so many characters is worth a call of its own.
_LONG = 400
_ANY = (Message("user", "hello"),)
Replies = tuple[Reply, ...]


@dataclass(frozen=True)
class Candidate:
    """One model to judge.

    Attributes:
        label: its column: ``base``, ``sft``, ``dpo``, ``fused`` or what the user calls it.
        model: as ``--model`` takes it.
        adapter: on the model, or none.
        system: the message under which it is asked, where a script has none of its own.
        whole: asked by every part; else only by those that ask everybody.
        override: its system message stands in for those that conversations bring with them, too.
    """

    label: str
    model: str
    adapter: Path | None = None
    system: str = ""
    whole: bool = True
    override: bool = False

    def said(self, messages: Sequence[Message]) -> Sequence[Message]:
        """A conversation as it is put to this candidate."""
        own = self.override and bool(messages) and messages[0].role == "system"
        return messages[1:] if own else messages


@dataclass(frozen=True)
class Asking:
    """How replies are drawn, and how many are written at once."""

    sampling: Sampling
    batch_size: int


@dataclass(frozen=True)
class Present:
    """A candidate that is loaded now, its adapter on.

    Attributes:
        candidate: which it is.
        loaded: its model.
        renderer: writes conversations under its system message.
        extra: how many tokens that message is longer than the first candidate's; prompts may be so much longer.
        answers: what it replied to the part that measures it, script by script.
        note: shows in a few words what is being done.
    """

    candidate: Candidate
    loaded: LoadedModel
    renderer: Renderer
    extra: int
    answers: Sequence[Replies]
    note: Callable[[str], None]

    def without_adapter(self) -> AbstractContextManager[None]:
        """The base model for a while."""
        return bypassed(self.loaded.model) if self.candidate.adapter is not None else nullcontext()

    def counting(self, what: str, total: int) -> Callable[[int], None]:
        """What shows how far a measurement is: it is told how many more are done, each time."""
        done = 0

        def advance(step: int) -> None:
            nonlocal done
            done += step
            self.note(f"{self.candidate.label}: {what} {done}/{total}")

        return advance


@runtime_checkable
class Measuring(Protocol):
    """A part that also looks at the models themselves: their losses, what they find likely."""

    def measure(self, present: Present) -> None:
        """Measure a candidate, and keep what was found."""
        ...


@dataclass(frozen=True)
class _Job:
    """What one candidate is asked: its parts, their scripts without doubles, and the number of its first reply."""

    candidate: Candidate
    parts: Sequence[Part]
    scripts: Mapping[Script, int]  # -> the number of the script's first reply

    def answers(self, part: Part, kept: Kept) -> list[Replies]:
        """What it answered to a part, script by script."""
        return [
            tuple(kept.written[self.scripts[script] + turn] for turn in range(script.replies))
            for script in part.scripts
        ]


class Panel:
    """The candidates and how they are asked. ``key`` is a hash of everything that the replies depend on."""

    def __init__(self, candidates: Sequence[Candidate], parts: Sequence[Part], asking: Asking) -> None:
        """Choose who is asked what.

        Raises:
            PersonaError: candidates that share a label or have different tokenizers, or a model that is not there.
        """
        labels = [candidate.label for candidate in candidates]
        if len({*labels, PERSON, OTHERS}) != len(labels) + 2:
            raise PersonaError(
                f"models to judge must have names of their own, none of them {PERSON} or {OTHERS}; "
                f"got {', '.join(labels)}"
            )
        self._parts, self._asking = parts, asking
        self._jobs: list[_Job] = []
        self._total = 0
        for candidate in candidates:
            asked = [part for part in parts if candidate.whole or part.everyone]
            numbers: dict[Script, int] = {}
            for script in (script for part in asked for script in part.scripts):
                if script not in numbers:
                    numbers[script] = self._total
                    self._total += script.replies
            self._jobs.append(_Job(candidate, asked, numbers))
        questions = [[[m.to_json() for m in s.before], s.then, s.greedy, s.max_prompt] for s in self._scripts()]
        self.key = key_of([self._facts(candidates), questions, asdict(asking.sampling)])

    def ask(self, folder: Path) -> dict[str, dict[str, list[Replies]]]:
        """Ask everybody everything; the replies so far are kept in ``folder``.

        Returns:
            Part -> label -> its replies, script by script.

        Raises:
            PersonaError: a model or an adapter that does not load, a system message that is too long.
            Interrupted: after KeyboardInterrupt; the replies so far are kept.
        """
        with keeping(folder, self.key, self._total, "evaluation") as kept:
            for name in dict.fromkeys(job.candidate.model for job in self._jobs):
                ui.info(f"loading {name}")
                loaded = load_model(name)
                for job in self._jobs:
                    if job.candidate.model == name:
                        self._ask_one(job, loaded, kept)
                del loaded
                mx.clear_cache()
            return {
                part.name: {job.candidate.label: job.answers(part, kept) for job in self._jobs if part in job.parts}
                for part in self._parts
            }

    def _ask_one(self, job: _Job, loaded: LoadedModel, kept: Kept) -> None:
        """One candidate: its adapter on, its replies, its measurements, its adapter off."""
        candidate = job.candidate
        if candidate.adapter is not None:
            load_adapter(loaded.model, candidate.adapter, loaded.identity)
        renderer = Renderer(loaded.tokenizer, system=candidate.system)
        first = Renderer(loaded.tokenizer, system=self._jobs[0].candidate.system)
        extra = len(renderer.prompt(_ANY)) - len(first.prompt(_ANY))
        ui.info(f"asking {candidate.label}")
        self._write(job, loaded, renderer, extra, kept)
        for part in job.parts:
            if isinstance(part, Measuring):
                part.measure(Present(candidate, loaded, renderer, extra, job.answers(part, kept), kept.note))
        if candidate.adapter is not None:
            detach(loaded.model)

    def _write(self, job: _Job, loaded: LoadedModel, renderer: Renderer, extra: int, kept: Kept) -> None:
        """Write what is missing, first turns first: a later one has the replies before it in its prompt."""
        first = next(iter(job.scripts.values()), 0)
        for turn in range(max((script.replies for script in job.scripts), default=0)):
            due = {n + turn: script for script, n in job.scripts.items() if script.replies > turn}
            for numbers in _alike({n: due[n] for n in kept.missing(due)}):
                prompts = []
                for n in numbers:
                    said = _said(due[n], [kept.written[n - turn + t] for t in range(turn)])
                    own = not job.candidate.override and said[0].role == "system"
                    room = due[n].max_prompt
                    if room is not None and not own:
                        room += extra
                    prompts.append(renderer.prompt(job.candidate.said(said), room))
                sampling = self._asking.sampling
                engine.replies(
                    loaded,
                    prompts,
                    replace(sampling, temperature=0.0) if due[numbers[0]].greedy else sampling,
                    batch_size=self._asking.batch_size,
                    rows=[n - first for n in numbers],
                    on_reply=kept.keeper(numbers),
                )

    def _scripts(self) -> list[Script]:
        return [script for part in self._parts for script in part.scripts]

    def _facts(self, candidates: Sequence[Candidate]) -> list[Any]:
        """Which models these are, by their hashes.

        Raises:
            PersonaError: their tokenizers differ, or an adapter is not for the model that it would be put on.
        """
        facts: list[Any] = []
        known: dict[str, dict[str, str]] = {}
        rendered: list[list[list[int]]] = []
        for candidate in candidates:
            if candidate.model not in known:
                path = resolve_model(candidate.model)
                renderer = Renderer(load_tokenizer(path))
                known[candidate.model] = {**identity(path), "rendering": renderer.fingerprint()}
                rendered.append([renderer.prompt(script.before) for script in self._scripts()])
                if rendered[-1] != rendered[0]:
                    raise PersonaError(f"models to judge must share a tokenizer and a chat template; {path} differs")
            own, first = known[candidate.model], known[candidates[0].model]
            if candidate.adapter is not None:
                check_base(candidate.adapter, own)
                if own["sha256"] != first["sha256"]:
                    raise PersonaError(
                        f"{candidate.label} was trained on {own['name']}, and base is {first['name']}",
                        "judge runs of different models one by one",
                    )
            adapter = adapter_hash(candidate.adapter) if candidate.adapter else ""
            facts.append([candidate.label, own, adapter, candidate.system, candidate.whole, candidate.override])
        return facts


def _alike(due: Mapping[int, Script]) -> list[list[int]]:
    """The numbers of scripts that are best written together: drawn in one way, and under one long system message.

    What all prompts of a call begin with is read once, so a message of a thousand tokens is.
    """
    groups: dict[tuple[bool, str], list[int]] = {}
    for number, script in due.items():
        head = script.before[0]
        system = head.content if head.role == "system" and len(head.content) >= _LONG else ""
        groups.setdefault((script.greedy, system), []).append(number)
    return list(groups.values())


def _said(script: Script, replies: Sequence[Reply]) -> list[Message]:
    """The conversation up to where the model speaks next."""
    messages = list(script.before)
    for reply, turn in zip(replies, script.then, strict=False):
        messages += [Message("assistant", reply.text, train=False), Message("user", turn)]
    return messages
