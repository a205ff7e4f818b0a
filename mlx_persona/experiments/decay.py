"""Would the observer see the same in a loss that only decays? The control without which its phases mean nothing.

Any smooth decay passes S0 -> S1 -> S2 under fixed thresholds. So the observer is also shown an exponential fitted to
the run, and three regimes are asked to predict held-back evaluations better than decays do (:mod:`.curves`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_persona.config.phases import Profile
from mlx_persona.experiments.curves import EXPONENTIAL, MIN_EVALS, RIVALS, advantage, fit, held_back, series
from mlx_persona.experiments.observe import observe
from mlx_persona.experiments.trial import Plan, rate

# The phase model is fitted by trying all pairs of corners: more evaluations than this take minutes.
_MOST = 40


def decay(events: Sequence[Mapping[str, Any]], plan: Plan, profile: Profile) -> dict[str, Any] | None:
    """A run's loss against decays, from its highest evaluation on (a loss that rises first is none until then).

    Args:
        events: of its ``metrics.jsonl``.
        plan: how it was trained.
        profile: the observer's.

    Returns:
        ``onset`` and ``commitment`` (updates) that the observer sees in the fitted exponential; ``error``: root mean
        square of its fit, in nats; ``ratios``: decay -> error of the phase model on held-back evaluations over that
        of the decay (above 1: the decay predicts better); ``evals`` used. None of fewer than 15 evaluations.
    """
    evals = [event for event in events if event["event"] == "eval"]
    highest = max(range(len(evals)), key=lambda place: float(evals[place]["loss"]))
    used = evals[highest:]
    if len(used) < MIN_EVALS:
        return None
    rates = [rate(plan, update) for update in range(1, plan.updates + 1)]
    whole = series({"evals": [[e["update"], e["update"], e["loss"]] for e in used], "rates": rates})
    fitted = fit(EXPONENTIAL, whole.tokens, whole.loss, whole.tokens)
    smooth = {event["update"]: float(loss) for event, loss in zip(used, fitted, strict=True)}
    shown = [
        {**event, "loss": smooth[event["update"]]} if event["event"] == "eval" else event
        for event in events
        if event["event"] != "eval" or event["update"] in smooth
    ]
    seen = observe(shown, profile)
    thin = used[:: math.ceil(len(used) / _MOST)]
    errors = held_back(series({"evals": [[e["update"], e["update"], e["loss"]] for e in thin], "rates": rates}))
    return {
        "onset": seen.onset,
        "commitment": seen.commitment,
        "error": float(np.sqrt(np.mean((fitted - whole.loss) ** 2))),
        "ratios": {name: math.exp(advantage(errors, name)) for name in RIVALS},
        "evals": len(thin),
    }
