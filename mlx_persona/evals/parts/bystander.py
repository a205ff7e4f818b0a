"""Does the person come through where somebody else was asked for? Held-out prompts under other characters' messages.

A persona trained without contrast may leak into every prompt: the bystander rate (docs/evaluation.md). Pure: what to
ask, and what the replies come to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_persona.evals.asked import Asked
from mlx_persona.evals.attribution import Attribution
from mlx_persona.evals.closeness import Closeness, attributed, redraws, shown, shown_share
from mlx_persona.evals.parts.prompts import Count, room, under
from mlx_persona.evals.scripts import Answers, Script, TableRow
from mlx_persona.tokens.batches import evenly

N, QUICK_N = 30, 10


class BystanderPart:
    """Held-out prompts, each under the message of another character and under the one trained with.

    Args:
        asked: held-out prompts; at most ``N`` are asked, evenly spread, or ``QUICK_N`` when quick.
        person: the person's held-out replies, as many as there are.
        characters: name -> system message, at least one; the prompts go round among them.
        system: the message trained with, which they replace.
        count: tokens of each of some texts.
        attribution: the classifier; without it there is the style distance alone.
        quick: ask about a third, the same every time.
        max_prompt: longest prompt under the message of training, in tokens; under the others the difference of the
            messages is added, so that both have the same turns.
        seed: fixes the resampling.

    Raises:
        ValueError: no character.
    """

    name = "bystander"
    everyone = False

    def __init__(
        self,
        asked: Sequence[Asked],
        person: Sequence[str],
        characters: Mapping[str, str],
        system: str,
        count: Count,
        attribution: Attribution | None = None,
        *,
        quick: bool = False,
        max_prompt: int | None = None,
        seed: int = 0,
    ) -> None:
        if not characters:
            raise ValueError("there must be at least one other character, got none")
        self._asked = [asked[i] for i in evenly(len(asked), QUICK_N if quick else N)]
        self._person, self._attribution, self._seed = person, attribution, seed
        self._names = [list(characters)[i % len(characters)] for i in range(len(self._asked))]
        trained, *others = count([system, *characters.values()])
        longer = {name: tokens - trained for name, tokens in zip(characters, others, strict=True)}
        self.scripts: Sequence[Script] = [
            *(
                Script(under(characters[name], one.before), max_prompt=room(max_prompt, longer[name]))
                for name, one in zip(self._names, self._asked, strict=True)
            ),
            *(Script(one.before, max_prompt=max_prompt) for one in self._asked),
        ]

    def score(self, answers: Answers) -> dict[str, Any]:
        """``n``, per label its ``models``, and ``notes``."""
        n = len(self._asked)
        near = Closeness(self._person, n, self._seed)
        notes = [near.why_not] if near.why_not else []
        if self._attribution is None:
            notes.append("without a classifier there is no bystander rate, only style distances")
        models: dict[str, Any] = {}
        for label, replies in answers.items():
            other, own = ([one[0].text for one in part] for part in (replies[:n], replies[n:]))
            by_name = {
                name: [text for text, its in zip(other, self._names, strict=True) if its == name]
                for name in dict.fromkeys(self._names)
            }
            models[label] = {
                "rate": attributed(self._attribution, other),
                "own_rate": attributed(self._attribution, own),
                "by_character": {name: attributed(self._attribution, texts) for name, texts in by_name.items()},
                **self._distances(near, other, own),
            }
        return {"n": n, "person": len(self._person), "models": models, "notes": notes}

    def _distances(self, near: Closeness, other: Sequence[str], own: Sequence[str]) -> dict[str, Any]:
        """Style distances to the person, and how far away the other characters lead; resampled over the prompts."""
        if near.why_not:
            return {"distance": None, "own_distance": None, "led_away": None}
        counts = redraws(near.n, self._seed)
        there, here = near.resampled(other, counts), near.resampled(own, counts)
        away = there.minus(here)
        return {
            "distance": near.above(there),
            "own_distance": near.above(here),
            "led_away": away.to_json(near.n),
        }

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """Figures with their intervals; the base model's rate is the classifier's false alarms."""
        models: Mapping[str, Any] = scores["models"]
        rows: list[TableRow] = []
        for title, key in (
            ("taken for the person though another character was asked for", "rate"),
            ("  under the message of training", "own_rate"),
        ):
            if any(model[key] for model in models.values()):
                rows.append((title, {label: shown_share(model[key]) for label, model in models.items()}))
        for title, key, form in (
            ("style distance above the floor, as another character", "distance", ".3f"),
            ("  under the message of training", "own_distance", ".3f"),
            ("  difference", "led_away", "+.3f"),
        ):
            rows.append((title, {label: shown(model[key], form) for label, model in models.items()}))
        return rows
