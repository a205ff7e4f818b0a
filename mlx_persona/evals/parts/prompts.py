"""Is the persona in the weights or in the prompt? The same held-out prompts under long, short and no system messages.

The document "phase-aware persona fine-tuning" (prediction P3) cuts the prompt from about 900 to about 120 tokens and
finds the persona kept; "LoRA persona override" trains without the prompt full of tools that the model works under.
Pure: what to ask, and what the replies come to. docs/evaluation.md says what each figure can and cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_persona.evals.asked import Asked, all_asked
from mlx_persona.evals.attribution import LEANING, Attribution
from mlx_persona.evals.closeness import Closeness, Resampled, attributed, redraws, shown, shown_share
from mlx_persona.evals.scripts import Answers, Script, TableRow
from mlx_persona.schema import PLACEHOLDER, Conversation, Message
from mlx_persona.tokens.batches import evenly

Count = Callable[[Sequence[str]], Sequence[int]]

TRAINED, FULL, SLIM, WORK, NO_PROMPT = "trained", "full", "slim", "work", "none"
VARIANTS = (TRAINED, FULL, SLIM, WORK, NO_PROMPT)
FULL_TOKENS, SLIM_TOKENS = 900, 120
N, QUICK_N = 40, 10
# From which prompt to which shorter one.
STEPS = ((FULL, SLIM), (SLIM, NO_PROMPT))
DESCRIPTION = "You are a real person who chats with people."
HEADING = "\n\nYou write exactly like this:"
# An example takes at most this share of the room, so that even a short prompt holds several.
_LARGEST = 0.4
# So many examples in a row that do not fit end the search.
_MISSES = 50


def persona_prompt(description: str, exchanges: Sequence[Asked], count: Count, limit: int) -> str:
    """A description and as many real exchanges as fit under it.

    Args:
        description: who is meant, in a line.
        exchanges: real ones, the first preferred. Those with placeholders of personal data or nothing said are
            passed over, and so are those that are longer than two fifths of the room.
        count: tokens of each of some texts.
        limit: tokens that the prompt may have.

    Returns:
        The prompt; where no example fits, the description alone, even if that is longer than the limit.
    """
    prompt = description.strip() + HEADING
    examples, misses = 0, 0
    space = _LARGEST * (limit - count([prompt])[0])
    for one in exchanges:
        example = f"\n\nThey: {one.before[-1].content.strip()}\nYou: {one.real.strip()}"
        if misses == _MISSES:
            break
        if PLACEHOLDER.search(example) or not one.before[-1].content.strip() or not one.real.strip():
            continue
        own, whole = count([example, prompt + example])
        if own > space or whole > limit:
            misses += 1
            continue
        prompt, examples, misses = prompt + example, examples + 1, 0
    return prompt if examples else description.strip()


def system_prompts(
    conversations: Sequence[Conversation],
    count: Count,
    *,
    system: str,
    work: str,
    full: str = "",
    slim: str = "",
    full_tokens: int = FULL_TOKENS,
    slim_tokens: int = SLIM_TOKENS,
    seed: int = 0,
) -> dict[str, str]:
    """The system message of every variant.

    Args:
        conversations: of training, never held out: full and slim are made of them unless they are given.
        count: tokens of each of some texts.
        system: what the model was trained with; it also describes the person in what is made, where it says anything.
        work: a prompt full of tools, as of :func:`mlx_persona.evals.own_sets.read_prompt`.
        full, slim: the user's own.
        full_tokens, slim_tokens: how long what is made may be.
        seed: fixes which exchanges are taken; slim takes the first of those that full takes which fit.
    """
    found = all_asked(conversations)
    exchanges = [found[i] for i in np.random.default_rng(seed).permutation(len(found))]
    description = system.strip() or DESCRIPTION
    return {
        TRAINED: system,
        FULL: full or persona_prompt(description, exchanges, count, full_tokens),
        SLIM: slim or persona_prompt(description, exchanges, count, slim_tokens),
        WORK: work,
        NO_PROMPT: "",
    }


class PromptPart:
    """The same held-out prompts under every variant of the system message.

    Args:
        asked: held-out prompts; at most ``N`` are asked, evenly spread, or ``QUICK_N`` when quick.
        person: the person's held-out replies, as many as there are.
        prompts: variant -> system message, as of :func:`system_prompts`. Under ``trained`` a conversation keeps a
            system message of its own; the others replace it. Where nothing was trained with, trained is none, and left
            out.
        count: tokens of each of some texts.
        attribution: the classifier, or None where there is none.
        quick: ask about a quarter, the same every time.
        max_prompt: longest prompt under ``trained``, in tokens; under the others the difference of the system messages
            is added, so that all have the same turns.
        seed: fixes the resampling.
    """

    name = "prompts"
    everyone = False

    def __init__(
        self,
        asked: Sequence[Asked],
        person: Sequence[str],
        prompts: Mapping[str, str],
        count: Count,
        attribution: Attribution | None = None,
        *,
        quick: bool = False,
        max_prompt: int | None = None,
        seed: int = 0,
    ) -> None:
        self._asked = [asked[i] for i in evenly(len(asked), QUICK_N if quick else N)]
        self._person, self._attribution, self._seed = person, attribution, seed
        owns = any(message.role == "system" for one in self._asked for message in one.before)
        same = not prompts[TRAINED].strip() and not owns  # trained is none, and need not be asked twice
        self._variants = [variant for variant in VARIANTS if not (same and variant == TRAINED)]
        self._tokens = dict(zip(VARIANTS, count([prompts[variant] for variant in VARIANTS]), strict=True))
        self.scripts: Sequence[Script] = [
            self._script(one, variant, prompts[variant], max_prompt)
            for variant in self._variants
            for one in self._asked
        ]

    def _script(self, one: Asked, variant: str, system: str, max_prompt: int | None) -> Script:
        if variant == TRAINED:
            return Script(one.before, max_prompt=max_prompt)
        longer = self._tokens[variant] - self._tokens[TRAINED]
        return Script(under(system, one.before), max_prompt=room(max_prompt, longer))

    def score(self, answers: Answers) -> dict[str, Any]:
        """``n``, the ``tokens`` of each variant, per label its ``models``, and ``notes``."""
        n = len(self._asked)
        near = Closeness(self._person, n, self._seed)
        counts = redraws(n, self._seed) if not near.why_not else None
        notes = [near.why_not] if near.why_not else []
        if self._attribution is None:
            notes.append("without a classifier nobody says whose the replies are taken for")
        notes += [why for start, end in STEPS if (why := self._no_step(start, end))]
        models: dict[str, Any] = {}
        base: dict[str, Resampled] = {}
        for label, replies in answers.items():
            texts = {v: [one[0].text for one in replies[i * n : (i + 1) * n]] for i, v in enumerate(self._variants)}
            far = {v: near.resampled(said, counts) for v, said in texts.items()} if counts is not None else {}
            models[label] = {
                "variants": {
                    variant: {
                        "tokens": self._tokens[variant],
                        "distance": near.above(far[variant]) if far else None,
                        "attributed": attributed(self._attribution, said),
                    }
                    for variant, said in texts.items()
                },
                "lost_per_100_tokens": {f"{start}_to_{end}": self._step(far, start, end) for start, end in STEPS},
                "lost_without_prompt": _difference(far[NO_PROMPT].minus(far[FULL]), n) if far else None,
                "kept_without_prompt": _kept(base, far, n, label, notes) if base else None,
            }
            base = base or far
        tokens = {variant: self._tokens[variant] for variant in self._variants}
        return {"n": n, "person": len(self._person), "tokens": tokens, "models": models, "notes": notes}

    def _no_step(self, start: str, end: str) -> str:
        """Why nothing can be said per token saved between two variants, or nothing."""
        if self._tokens[start] > self._tokens[end]:
            return ""
        return f"the {end} prompt ({self._tokens[end]} tokens) saves nothing against {start} ({self._tokens[start]})"

    def _step(self, far: Mapping[str, Resampled], start: str, end: str) -> dict[str, Any] | None:
        """How much farther from the person per 100 tokens saved; resampled over the prompts."""
        if not far or self._no_step(start, end):
            return None
        saved = self._tokens[start] - self._tokens[end]
        return _difference(far[end].minus(far[start]).times(100 / saved), len(self._asked))

    def rows(self, scores: Mapping[str, Any]) -> list[TableRow]:
        """Figures with their intervals."""
        models: Mapping[str, Any] = scores["models"]
        rows: list[TableRow] = []
        for variant, tokens in scores["tokens"].items():
            found = {label: model["variants"][variant] for label, model in models.items()}
            rows.append(
                (
                    f"style distance above the floor, {_TITLES[variant]} ({tokens} tokens)",
                    {label: shown(one["distance"]) for label, one in found.items()},
                )
            )
            if any(one["attributed"] for one in found.values()):
                shares = {label: shown_share(one["attributed"]) for label, one in found.items()}
                rows.append((f"  {LEANING}", shares))
        for start, end in STEPS:
            lost = {label: model["lost_per_100_tokens"][f"{start}_to_{end}"] for label, model in models.items()}
            title = f"lost per 100 tokens saved, {_TITLES[start]} to {_TITLES[end]}"
            rows.append((title, {label: shown(one, "+.3f") for label, one in lost.items()}))
        whole = {label: shown(model["lost_without_prompt"], "+.3f") for label, model in models.items()}
        rows.append((f"lost in all, {_TITLES[FULL]} to {_TITLES[NO_PROMPT]}", whole))
        kept = {label: model["kept_without_prompt"] for label, model in models.items()}
        if any(kept.values()):
            rows.append(
                ("  kept without the prompt (bare base = 0)", {label: shown(one, ".2f") for label, one in kept.items()})
            )
        return rows


_TITLES = {
    TRAINED: "prompt of training",
    FULL: "full prompt",
    SLIM: "slim prompt",
    WORK: "working prompt with tools",
    NO_PROMPT: "no prompt",
}


def under(system: str, before: Sequence[Message]) -> tuple[Message, ...]:
    """What was said before, under another system message; an empty one means none."""
    return (Message("system", system), *(message for message in before if message.role != "system"))


def room(max_prompt: int | None, longer: int) -> int | None:
    """The longest prompt under a system message that is so many tokens longer, so that the same turns fit."""
    return None if max_prompt is None else max_prompt + longer


def _difference(found: Resampled, n: int) -> dict[str, Any]:
    """A difference, and whether it may be none at all."""
    low, high = found.interval
    return {**found.to_json(n), "includes_zero": low <= 0 <= high}


def _kept(
    base: Mapping[str, Resampled], far: Mapping[str, Resampled], n: int, label: str, notes: list[str]
) -> dict[str, Any] | None:
    """Of the way from the bare base model to the trained one under the full prompt: how much is left without a prompt.

    The base model itself keeps 0. None where that way is not clearly there.
    """
    way = base[NO_PROMPT].minus(far[FULL])
    if way.interval[0] <= 0:
        notes.append(
            f"{label} under the full prompt is not clearly nearer to the person than the base model without one"
        )
        return None
    left = base[NO_PROMPT].minus(far[NO_PROMPT])
    real = way.draws > 0  # all but a fortieth at most
    return Resampled(left.value / way.value, left.draws[real] / way.draws[real]).to_json(n)
