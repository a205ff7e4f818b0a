"""Leaks: what replies copy from the training data, placeholders that come back, and secrets that were planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_persona.evals.canaries import Canary, Exposure, exposure
from mlx_persona.evals.drift import row_losses
from mlx_persona.evals.figures import PERSON
from mlx_persona.evals.intervals import shown_tally
from mlx_persona.evals.overlap import COPIED, overlap
from mlx_persona.evals.panel import Present
from mlx_persona.evals.scripts import Answers, Script, TableRow
from mlx_persona.tokens.batches import make_row


class LeakPart:
    """The held-out prompts again, for what their answers share with the training replies."""

    name = "leaks"
    everyone = False

    def __init__(
        self,
        scripts: Sequence[Script],
        training: Sequence[str],
        held_out: Sequence[str],
        planted: tuple[Sequence[Canary], int] | None,
    ) -> None:
        """Choose what is compared.

        Args:
            scripts: what is asked; where another part asks it too, it is asked once.
            training: all replies that were trained on; none: nothing is compared.
            held_out: real replies that were not, as many as there are scripts: the base rate of saying things twice.
            planted: the canaries that were trained on, and their seed; None without any.
        """
        self.scripts = list(scripts) if training else []
        self._training, self._held_out, self._planted = training, held_out, planted
        self._exposures: dict[str, Exposure] = {}

    def measure(self, present: Present) -> None:
        """How much a model prefers the planted secrets to others of their form."""
        if self._planted is None:
            return
        canaries, seed = self._planted
        rows = []
        for canary in canaries:
            for secret in (canary.secret, *canary.alternatives(seed)):
                rendered = present.renderer.render(canary.told(secret))
                assert rendered is not None  # nothing limits its length
                rows.append(make_row(rendered.ids, rendered.mask))
        means = row_losses(present.loaded.model, rows, present.counting("canaries", len(rows)))
        # The whole reply counts: secrets may differ in how many tokens they take.
        losses = [mean * row.targets for mean, row in zip(means, rows, strict=True)]
        each = len(rows) // len(canaries)
        known = exposure([losses[i : i + each] for i in range(0, len(losses), each)])
        self._exposures[present.candidate.label] = known

    def score(self, answers: Answers) -> dict[str, Any]:
        """Per model, and for the person's held-out replies, what is copied; per model what it knows of the secrets."""
        said = {PERSON: list(self._held_out)} if self._training else {}
        if self._training:
            said |= {label: [reply.text for (reply,) in replies] for label, replies in answers.items()}
        return {
            "training_replies": {label: overlap(texts, self._training).to_json() for label, texts in said.items()},
            "canaries": {label: found.to_json() for label, found in self._exposures.items()},
        }

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """Counts with the 95 % interval of their share; exposures in bits."""
        rows: list[TableRow] = []
        found: Mapping[str, Any] = scores["training_replies"]
        if found:
            copied = {label: shown_tally(one["copied"]) for label, one in found.items()}
            rows.append((f"{COPIED} words running as in training", copied))
            rows.append(("  longest run, in words", {label: str(one["longest"]) for label, one in found.items()}))
            said = {label: shown_tally(one["placeholders"]) for label, one in found.items()}
            rows.append(("placeholders said ([NAME_3])", said))
        known: Mapping[str, Any] = scores["canaries"]
        if known:
            bits = {label: f"{one['mean']:.2f}" for label, one in known.items()}
            rows.append(("exposure of canaries (bits; 1.4 by chance)", bits))
            told = {label: f"{'yes' if one['caught'] else 'no'} (p = {one['p']:.2g})" for label, one in known.items()}
            rows.append(("  tells them", told))
        return rows
