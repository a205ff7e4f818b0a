"""Probes of character: what a model gives in to, admits, avoids and remembers, and the gate that none may fail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_persona import ui
from mlx_persona.evals.drift import row_losses, surprising
from mlx_persona.evals.intervals import Tally, mean_interval, shown_tally
from mlx_persona.evals.judge import Judge
from mlx_persona.evals.panel import Present
from mlx_persona.evals.probes import CATEGORIES, GATE, ProbeSet, category_tallies, quick_part, score_counts
from mlx_persona.evals.scripts import Answers, Script, TableRow
from mlx_persona.evals.verdicts import Verdict
from mlx_persona.schema import Message
from mlx_persona.tokens.batches import make_row

Verdicts = list[Verdict | None]


class ProbePart:
    """The probes of a set, or a fifth of each category."""

    name = "probes"
    everyone = False

    def __init__(self, probes: ProbeSet, name: str, topic: str, system: str, quick: bool) -> None:
        """Choose what is asked; the texts are those of :meth:`Probe.messages`."""
        self._set, self._quick = probes, quick
        self.chosen = quick_part(probes.probes, lambda one: one.category) if quick else list(probes.probes)
        self.scripts = [Script(one.messages(name, topic, system)) for one in self.chosen]
        self._losses: dict[str, list[float]] = {}
        self._ratings: dict[str, dict[str, dict[str, float]]] = {}

    def measure(self, present: Present) -> None:
        """How unlikely the base model finds the replies of a model with an adapter, and its own."""
        if present.candidate.adapter is None and self._losses:
            return  # a fused model: its base is another one
        rows = []
        for script, (reply,) in zip(self.scripts, present.answers, strict=True):
            rendered = present.renderer.render((*script.before, Message("assistant", reply.text)))
            assert rendered is not None  # nothing limits its length
            rows.append(make_row(rendered.ids, rendered.mask))
        with present.without_adapter():
            self._losses[present.candidate.label] = row_losses(
                present.loaded.model, rows, present.counting("surprise", len(rows))
            )

    def rate(self, judge: Judge, answers: Answers) -> None:
        """Have a judge rate the replies that no rule can score.

        Raises:
            PersonaError: it does not answer, or answers nonsense; what was rated is kept.
        """
        places = [i for i, one in enumerate(self.chosen) if CATEGORIES[one.category].rule is None]
        total = len(answers) * len(places) * len(self._set.rubric)
        if not total:
            return
        sent = f"sending {len(answers) * len(places)} replies to the judge at {judge.url}, {total} questions"
        if judge.here:
            ui.info(sent)
        else:
            ui.warn(f"{sent}; this is another machine")
        with ui.progress("judge", total) as bar:
            for label, replies in answers.items():
                given = self._ratings.setdefault(label, {})
                for i in places:
                    scores = given[self.chosen[i].id] = {}
                    for dimension, meaning in self._set.rubric.items():
                        asked, reply = self.scripts[i].before, replies[i][0].text
                        scores[dimension] = judge.rate(dimension, meaning, asked, reply).score
                        bar.advance()

    def score(self, answers: Answers) -> dict[str, Any]:
        """Per model the probes by category, the gate and the surprises; what people may rate."""
        unrated = sum(CATEGORIES[probe.category].rule is None for probe in self.chosen)
        first = next(iter(answers), "")
        return {
            "quick": self._quick,
            "n": len(self.chosen),
            "models": {label: self._column(label, first, answers) for label in answers},
            "judge": {label: self._rated(label) for label in self._ratings},
            "for_people": {"probes": unrated, "rubric": dict(self._set.rubric)},
        }

    def explain(self, answers: Answers) -> dict[str, list[dict[str, Any]]]:
        """Per model and script: the score and why, whether it surprises, and what the judge says."""
        first = next(iter(answers), "")
        return {label: self._lines(label, first, answers) for label in answers}

    def _lines(self, label: str, first: str, answers: Answers) -> list[dict[str, Any]]:
        surprises = self._surprises(label, first)
        lines = []
        for i, (probe, verdict) in enumerate(zip(self.chosen, self._verdicts(answers[label]), strict=True)):
            line: dict[str, Any] = {"id": probe.id, "group": probe.category}
            line |= {"score": None, "why": "for people"} if verdict is None else verdict._asdict()
            if surprises is not None:
                line["surprise"] = surprises[i]
            if ratings := self._ratings.get(label, {}).get(probe.id):
                line["judge"] = ratings
            lines.append(line)
        return lines

    def _verdicts(self, replies: Sequence[Sequence[Any]]) -> Verdicts:
        """One per probe; None where only people can rate."""
        return [self._set.judge(probe, reply.text) for probe, (reply,) in zip(self.chosen, replies, strict=True)]

    def _surprises(self, label: str, first: str) -> list[bool] | None:
        """Which replies the base model, the first one, finds less likely than nearly all of its own."""
        if label not in self._losses or first not in self._losses or not self.chosen:
            return None
        return surprising(self._losses[label], self._losses[first])

    def _column(self, label: str, first: str, answers: Answers) -> dict[str, Any]:
        verdicts = self._verdicts(answers[label])
        tallies = category_tallies(self.chosen, verdicts)
        scored = {
            name: {**tally.to_json(), "scores": score_counts(self.chosen, verdicts, name)}
            for name, tally in tallies.items()
        }
        surprises = self._surprises(label, first)
        return {
            "probes": scored,
            "gate": self._gate(verdicts, tallies[GATE].n) if GATE in tallies else None,
            "surprises": None if surprises is None else Tally(sum(surprises), len(surprises)).to_json(),
        }

    def _gate(self, verdicts: Verdicts, n: int) -> dict[str, Any]:
        """Passed only if no corruption probe fails and all were asked: a part of them cannot pass it."""
        both = zip(self.chosen, verdicts, strict=True)
        failed = [p.id for p, verdict in both if p.category == GATE and verdict and not verdict.score]
        return {"passed": False if failed else None if self._quick else True, "failed": failed, "n": n}

    def _rated(self, label: str) -> dict[str, dict[str, Any]]:
        """The judge's mean per dimension, and the half width of its 95 % interval (None for a single reply)."""
        out = {}
        for dimension in self._set.rubric:
            scores = [given[dimension] for given in self._ratings[label].values()]
            mean, half = mean_interval(scores)
            out[dimension] = {"mean": mean, "half_width": half if math.isfinite(half) else None, "n": len(scores)}
        return out

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """Counts with the 95 % interval of their share."""
        models: Mapping[str, Any] = scores["models"]
        rows: list[TableRow] = []
        for name in dict.fromkeys(probe.category for probe in self.chosen):
            category = CATEGORIES[name]
            if category.rule is None:
                count = sum(probe.category == name for probe in self.chosen)
                rows.append((f"{category.title}: replies to rate", dict.fromkeys(models, str(count))))
                continue
            found = {label: column["probes"][name] for label, column in models.items()}
            rows.append((category.title, {label: shown_tally(f) for label, f in found.items()}))
            if category.best > 1:
                strays = {label: str(f["scores"][0]) for label, f in found.items()}
                rows.append(("  brings up what does not belong", strays))
            if name == GATE:
                rows.append(("  gate", {label: _gate_shown(column["gate"]) for label, column in models.items()}))
        surprises = {label: column["surprises"] for label, column in models.items() if column["surprises"]}
        if surprises:
            shown = {label: shown_tally(found) for label, found in surprises.items()}
            rows.append(("replies that surprise the base model", shown))
        for dimension in self._set.rubric if scores["judge"] else ():
            rated = {label: _rating_shown(found[dimension]) for label, found in scores["judge"].items()}
            rows.append((f"judge: {dimension.replace('_', ' ')} (1 to 5)", rated))
        return rows


def _gate_shown(gate: Mapping[str, Any]) -> str:
    if gate["failed"]:
        return f"failed: {', '.join(gate['failed'])}"
    return f"passed all {gate['n']}" if gate["passed"] else f"none of {gate['n']} fails"


def _rating_shown(rated: Mapping[str, Any]) -> str:
    half = rated["half_width"]
    return f"{rated['mean']:.2f}" + ("" if half is None else f" ± {half:.2f}")
