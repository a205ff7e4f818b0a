"""Still able: questions that are right or wrong, and how far an adapter moves the model on text about nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_persona.evals.ability import Item, retention, tallies
from mlx_persona.evals.drift import Drift, mean_kl, text_rows
from mlx_persona.evals.intervals import shown_tally
from mlx_persona.evals.panel import Present
from mlx_persona.evals.probes import quick_part, shipped
from mlx_persona.evals.scripts import Answers, Script, TableRow
from mlx_persona.schema import Message


class AbilityPart:
    """Ability items, or a fifth of each kind; asked greedily."""

    name = "ability"
    everyone = False

    def __init__(self, items: Sequence[Item], quick: bool) -> None:
        """Choose what is asked."""
        self.items = quick_part(items, lambda item: item.kind) if quick else list(items)
        self.scripts = [Script((Message("user", item.ask),), greedy=True) for item in self.items]
        self._quick = quick
        self._drifts: dict[str, Drift] = {}

    def measure(self, present: Present) -> None:
        """An adapter against its base on the shipped neutral text."""
        if present.candidate.adapter is None:
            return
        rows = text_rows(present.loaded.tokenizer, shipped("neutral.txt").read_text(encoding="utf-8"))
        rows = quick_part(rows, lambda _: "") if self._quick else rows
        self._drifts[present.candidate.label] = mean_kl(
            present.loaded.model, rows, present.counting("neutral text", len(rows))
        )

    def score(self, answers: Answers) -> dict[str, Any]:
        """Per model the right answers by kind, and what is left of those that the first model got right."""
        right = self._right(answers)
        first = next(iter(right.values()), [])
        models = {}
        for place, (label, each) in enumerate(right.items()):
            drift = self._drifts.get(label)
            models[label] = {
                "right": {kind: tally.to_json() for kind, tally in tallies(self.items, each).items()},
                "retention": retention(first, each).to_json() if place else None,
                "neutral_text": drift.to_json() if drift else None,
            }
        return {"quick": self._quick, "n": len(self.items), "models": models}

    def explain(self, answers: Answers) -> dict[str, list[dict[str, Any]]]:
        """Per model and script: whether the answer is right."""
        return {
            label: [
                {"id": item.id, "group": item.kind, "score": int(ok), "why": "right" if ok else "wrong"}
                for item, ok in zip(self.items, each, strict=True)
            ]
            for label, each in self._right(answers).items()
        }

    def _right(self, answers: Answers) -> dict[str, list[bool]]:
        return {
            label: [item.right(reply.text) for item, (reply,) in zip(self.items, replies, strict=True)]
            for label, replies in answers.items()
        }

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """Counts with the 95 % interval of their share."""
        models: Mapping[str, Any] = scores["models"]
        if not models:
            return []
        first, *others = models
        rows: list[TableRow] = [
            (f"right answers: {kind}", {label: shown_tally(found["right"][kind]) for label, found in models.items()})
            for kind in models[first]["right"]
        ]
        for title, key in (("right", "kept"), ("wrong", "gained")):
            cells = {label: shown_tally(models[label]["retention"][key]) for label in others}
            rows += [(f"  of those that {first} got {title}", cells)] if others else []
        drifts = {label: found["neutral_text"] for label, found in models.items() if found["neutral_text"]}
        if drifts:
            losses = {label: f"{found['loss']:.3f}" for label, found in drifts.items()}
            base = next(iter(drifts.values()))["base_loss"]
            rows.append(("loss on neutral text (nats per token)", {first: f"{base:.3f}", **losses}))
            kls = {label: f"{found['kl']:.3f}" for label, found in drifts.items()}
            rows.append(("KL to base on it (nats per token)", {first: "0", **kls}))
        return rows
