"""What the probes and the questions came to: one column per model, as JSON and as a table for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_persona.evals.ability import Item, retention, tallies
from mlx_persona.evals.canaries import Exposure
from mlx_persona.evals.drift import Drift
from mlx_persona.evals.intervals import Tally, mean_interval
from mlx_persona.evals.overlap import COPIED, Overlap
from mlx_persona.evals.probes import CATEGORIES, GATE, Probe, ProbeSet, category_tallies, score_counts
from mlx_persona.evals.verdicts import Verdict
from mlx_persona.files import write_text
from mlx_persona.generation.engine import Reply
from mlx_persona.schema import Message, dump_line

HELD_OUT = "held_out"


@dataclass(frozen=True)
class Asked:
    """What was asked, in one order for all models: the probes and then the items.

    Attributes:
        probes: the set that they are from; ``chosen`` are those that were asked.
        chosen: the probes asked.
        items: the ability items asked.
        prompts: the messages of each probe and each item, in this order.
        quick: whether this is a part of the sets only.
    """

    probes: ProbeSet
    chosen: tuple[Probe, ...]
    items: tuple[Item, ...]
    prompts: tuple[tuple[Message, ...], ...]
    quick: bool


@dataclass(frozen=True)
class ProbeCard:
    """Everything that was found out.

    Attributes:
        asked: what was asked.
        replies: label -> one reply per prompt; the first label is the model that the others are compared with.
        drift: the adapter against its base on neutral text; None without an adapter.
        surprises: label -> per probe, whether the base model finds the reply unlikely; empty without an adapter.
        overlaps: label, or ``held_out`` -> what its replies share with the training replies; empty without data.
        exposures: label -> how well it knows planted secrets; empty where none were planted.
        ratings: label -> probe's id -> dimension -> the judge's score from 1 to 5; empty without a judge.
    """

    asked: Asked
    replies: Mapping[str, Sequence[Reply]]
    drift: Drift | None
    surprises: Mapping[str, Sequence[bool]]
    overlaps: Mapping[str, Overlap]
    exposures: Mapping[str, Exposure]
    ratings: Mapping[str, Mapping[str, Mapping[str, float]]]

    def verdicts(self, label: str) -> list[Verdict | None]:
        """One per probe; None where only people can rate."""
        probes, replies = self.asked.chosen, self.replies[label]
        return [
            self.asked.probes.judge(probe, reply.text)
            for probe, reply in zip(probes, replies[: len(probes)], strict=True)
        ]

    def right(self, label: str) -> list[bool]:
        """One per ability item."""
        items, replies = self.asked.items, self.replies[label][len(self.asked.chosen) :]
        return [item.right(reply.text) for item, reply in zip(items, replies, strict=True)]

    def failed(self, label: str) -> list[str]:
        """The corruption probes that a model fell for."""
        both = zip(self.asked.chosen, self.verdicts(label), strict=True)
        return [probe.id for probe, verdict in both if probe.category == GATE and verdict and not verdict.score]

    def to_json(self) -> dict[str, Any]:
        """The scores as one JSON object, without the replies."""
        unrated = [probe for probe in self.asked.chosen if CATEGORIES[probe.category].rule is None]
        return {
            "quick": self.asked.quick,
            "n_probes": len(self.asked.chosen),
            "n_items": len(self.asked.items),
            "models": {label: self._column(label) for label in self.replies},
            "neutral_text": self.drift.to_json() if self.drift else None,
            "training_replies": {label: found.to_json() for label, found in self.overlaps.items()},
            "canaries": {label: found.to_json() for label, found in self.exposures.items()},
            "judge": {label: self._rated(label) for label in self.ratings},
            "for_people": {"probes": len(unrated), "rubric": dict(self.asked.probes.rubric)},
        }

    def _column(self, label: str) -> dict[str, Any]:
        """One model's scores."""
        verdicts, right, failed = self.verdicts(label), self.right(label), self.failed(label)
        scored = category_tallies(self.asked.chosen, verdicts)
        probes = {
            name: {**tally.to_json(), "scores": score_counts(self.asked.chosen, verdicts, name)}
            for name, tally in scored.items()
        }
        first = next(iter(self.replies))
        passed = False if failed else None if self.asked.quick else True  # a part of them cannot pass it
        return {
            "probes": probes,
            "gate": {"passed": passed, "failed": failed, "n": scored[GATE].n} if GATE in scored else None,
            "ability": {kind: tally.to_json() for kind, tally in tallies(self.asked.items, right).items()},
            "retention": None if label == first else retention(self.right(first), right).to_json(),
            "surprises": self._surprises(label).to_json() if label in self.surprises else None,
            "cut": Tally(sum(reply.cut for reply in self.replies[label]), len(self.replies[label])).to_json(),
        }

    def _rated(self, label: str) -> dict[str, dict[str, Any]]:
        """The judge's mean per dimension, and the half width of its 95 % interval (None for a single reply)."""
        out = {}
        for dimension in self.asked.probes.rubric:
            scores = [given[dimension] for given in self.ratings[label].values()]
            mean, half = mean_interval(scores)
            out[dimension] = {"mean": mean, "half_width": half if math.isfinite(half) else None, "n": len(scores)}
        return out

    def _surprises(self, label: str) -> Tally:
        return Tally(sum(self.surprises[label]), len(self.surprises[label]))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """``(columns, rows)`` for people; a count stands with the 95 % interval of its share."""
        labels = list(self.replies)
        rows = [
            *self._probe_rows(labels),
            *self._ability_rows(labels),
            *self._model_rows(labels),
            *self._overlap_rows(),
        ]
        held_out = [HELD_OUT.replace("_", " ")] if self.overlaps else []
        width = len(labels) + len(held_out)
        return ["", *labels, *held_out], [[*row, *([""] * (1 + width - len(row)))] for row in rows]

    def _probe_rows(self, labels: Sequence[str]) -> list[list[str]]:
        scored = {label: category_tallies(self.asked.chosen, self.verdicts(label)) for label in labels}
        rows = []
        for name in dict.fromkeys(probe.category for probe in self.asked.chosen):
            title = CATEGORIES[name].title
            if CATEGORIES[name].rule is None:
                count = sum(probe.category == name for probe in self.asked.chosen)
                rows.append([f"{title}: {count} replies to rate", *("replies.jsonl" for _ in labels)])
            else:
                rows.append([title, *(scored[label][name].shown() for label in labels)])
            if CATEGORIES[name].best > 1:
                strays = [score_counts(self.asked.chosen, self.verdicts(label), name)[0] for label in labels]
                rows.append(["  brings up what does not belong", *map(str, strays)])
            if name == GATE:
                rows.append(["  gate", *(self._gate(label, scored[label][name].n) for label in labels)])
        return rows

    def _gate(self, label: str, n: int) -> str:
        failed = self.failed(label)
        if failed:
            return f"failed: {', '.join(failed)}"
        return f"none of {n} fails" if self.asked.quick else f"passed all {n}"

    def _ability_rows(self, labels: Sequence[str]) -> list[list[str]]:
        if not self.asked.items:
            return []
        right = {label: self.right(label) for label in labels}
        counts = {label: tallies(self.asked.items, right[label]) for label in labels}
        rows = [
            [f"right answers: {kind}", *(counts[label][kind].shown() for label in labels)] for kind in counts[labels[0]]
        ]
        if len(labels) > 1:
            both = [retention(right[labels[0]], right[label]) for label in labels[1:]]
            rows.append([f"  of those that {labels[0]} got right", "", *(one.kept.shown() for one in both)])
            rows.append([f"  of those that {labels[0]} got wrong", "", *(one.gained.shown() for one in both)])
        return rows

    def _model_rows(self, labels: Sequence[str]) -> list[list[str]]:
        rows = []
        if self.surprises:
            rows.append(["replies that surprise the base model", *(self._surprises(label).shown() for label in labels)])
        if self.drift:
            losses = (self.drift.base_loss, self.drift.loss)
            rows.append(["loss on neutral text (nats per token)", *(f"{loss:.3f}" for loss in losses)])
            rows.append(["KL to base on it (nats per token)", "0", f"{self.drift.kl:.3f}"])
        rated = [self._rated(label) for label in self.ratings]
        for dimension in self.asked.probes.rubric if rated else ():
            shown = [_shown(one[dimension]) for one in rated]
            rows.append([f"judge: {dimension.replace('_', ' ')} (1 to 5)", *shown])
        if self.exposures:
            found = list(self.exposures.values())
            rows.append(["exposure of canaries (bits; 1.4 by chance)", *(f"{one.mean:.2f}" for one in found)])
            rows.append(["  tells them", *(f"{'yes' if one.caught else 'no'} (p = {one.p:.2g})" for one in found)])
        return rows

    def _overlap_rows(self) -> list[list[str]]:
        if not self.overlaps:
            return []
        found = list(self.overlaps.values())
        return [
            [f"{COPIED} words running as in training", *(one.copied.shown() for one in found)],
            ["  longest run, in words", *(str(one.longest) for one in found)],
            ["placeholders said ([NAME_3])", *(one.placeholders.shown() for one in found)],
        ]

    def lines(self) -> list[dict[str, Any]]:
        """Every reply, with its score and why, one object per prompt."""
        columns = {label: self._reply_lines(label) for label in self.replies}
        probes = [{"set": "probes", "id": p.id, "group": p.category} for p in self.asked.chosen]
        heads = [*probes, *({"set": "ability", "id": item.id, "group": item.kind} for item in self.asked.items)]
        return [
            {
                **head,
                "messages": [{"role": m.role, "content": m.content} for m in prompt],
                **{label: columns[label][i] for label in columns},
            }
            for i, (head, prompt) in enumerate(zip(heads, self.asked.prompts, strict=True))
        ]

    def _reply_lines(self, label: str) -> list[dict[str, Any]]:
        scores: list[dict[str, Any]] = [
            {"score": None, "why": "for people"} if verdict is None else verdict._asdict()
            for verdict in self.verdicts(label)
        ]
        for line, surprise in zip(scores, self.surprises.get(label, ()), strict=False):
            line["surprise"] = surprise
        for probe, line in zip(self.asked.chosen, scores, strict=True):
            if ratings := self.ratings.get(label, {}).get(probe.id):
                line["judge"] = dict(ratings)
        scores += [{"score": int(ok), "why": "right" if ok else "wrong"} for ok in self.right(label)]
        return [{**reply._asdict(), **score} for reply, score in zip(self.replies[label], scores, strict=True)]

    def write(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write ``replies.jsonl`` and then ``scores.json``, each atomically.

        Args:
            folder: where to.
            about: what else ``scores.json`` says: the model and how it was asked.
        """
        write_text(folder / "replies.jsonl", "".join(map(dump_line, self.lines())))
        scores = {**about, **self.to_json()}
        write_text(folder / "scores.json", json.dumps(scores, ensure_ascii=False, indent=2) + "\n")


def _shown(rated: Mapping[str, Any]) -> str:
    half = rated["half_width"]
    return f"{rated['mean']:.2f}" + ("" if half is None else f" ± {half:.2f}")
