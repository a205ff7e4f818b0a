"""Every number of the phase controller, and the named sets of them.

``paper`` follows "Phase-Aware Persona Fine-Tuning" (Dixon, 2026), section 2.1 and 4.4; ``commit-regimes`` the same
author's public demonstration on CIFAR-10, which differs from it; ``noise`` is the paper's with thresholds in units of
the evaluation's own noise, so that they mean the same for every model and data set.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mlx_persona.errors import PersonaError
from mlx_persona.settings import check, option


@dataclass(frozen=True)
class Profile:
    """What counts as a phase, and what is done in it."""

    signal: str = option("eval", "whose loss: of the evaluation, or of training", choices=("eval", "train"))
    smoothing: str = option("ema", "of its changes: EMA, or mean of the newest", choices=("ema", "mean"))
    alpha: float = option(0.3, "weight of the newest change in the EMA", above=0.0, maximum=1.0)
    window: int = option(3, "changes in the moving average", minimum=1)
    variance_window: int = option(5, "values of δL in its variance", minimum=2)
    units: str = option("loss", "of the thresholds: nats, or the evaluation's noise", choices=("loss", "noise"))
    onset: float = option(0.05, "τ1: S1 is δL below minus this", above=0.0)
    commit: float = option(0.02, "τ2: S2 is |δL| below this", above=0.0)
    spread: float = option(0.01, "τ3: S2 is δL as steady as this (0: not asked)", minimum=0.0)
    spread_as: str = option("deviation", "τ3 is a standard deviation, or a variance", choices=("deviation", "variance"))
    consecutive: int = option(2, "evaluations that must agree before the phase changes", minimum=1)
    guard: int = option(0, "evaluations before the phase may change at all", minimum=0)
    s1_lr: float = option(1.1, "learning rate in S1, times", above=0.0)
    s1_batch: int = option(4, "micro-batches per update from the onset of S1, times", minimum=1)
    s1_batch_share: float = option(0.1, "share of the updates for which S1 has these", above=0.0, maximum=1.0)
    s2_lr: float = option(1.0, "learning rate in S2, times", above=0.0)
    s2_batch: int = option(1, "micro-batches per update in S2, times", minimum=1)
    s3_rule: str = option(
        "rise", "S3: evaluation rises while training falls, or no progress any more", choices=("rise", "plateau")
    )
    s3_evals: int = option(3, "evaluations for which that must hold", minimum=1)
    s3_stop: bool = option(True, "end the run in S3")
    s3_lr: float = option(1.0, "learning rate in S3, times", above=0.0)
    margin_errors: float = option(2.0, "a loss is worse than the best by so many of its standard errors", minimum=0.0)
    margin_floor: float = option(0.005, "and by at least this, in nats", minimum=0.0)

    def __post_init__(self) -> None:
        check(self)
        if self.commit > self.onset:
            raise PersonaError(f"commit must be <= onset ({self.onset:g}), got {self.commit:g}")

    def margin(self, noise: float) -> float:
        """ε: what a loss must exceed the best by to be worse, in nats."""
        return max(self.margin_floor, self.margin_errors * noise)

    def scaled(self, noise: float) -> Profile:
        """The same with all thresholds in nats.

        Args:
            noise: standard error of the evaluation loss, in nats.

        Raises:
            PersonaError: thresholds are in units of a noise that is zero.
        """
        if self.units == "loss":
            return self
        if noise <= 0:
            raise PersonaError(
                "every example has the same loss at update 0, so there is no noise to measure phases by",
                "use --phase-profile paper",
            )
        power = 2 if self.spread_as == "variance" else 1
        return replace(
            self,
            units="loss",
            onset=self.onset * noise,
            commit=self.commit * noise,
            spread=self.spread * noise**power,
        )

    def to_json(self) -> dict[str, Any]:
        """Every number by its name."""
        return asdict(self)


PROFILES = {
    "paper": Profile(),
    "commit-regimes": Profile(
        signal="train",
        smoothing="mean",
        guard=3,
        onset=0.02,
        commit=0.005,
        spread=0.0,
        s1_batch=1,
        s2_lr=0.5,
        s2_batch=2,
        s3_rule="plateau",
        s3_evals=5,
        s3_stop=False,
        s3_lr=0.1,
    ),
    "noise": Profile(units="noise", guard=3, onset=1.0, commit=0.4, spread=0.2),
}
NAMES = tuple(PROFILES)


def make_profile(name: str, changes: tuple[str, ...] = ()) -> Profile:
    """A named profile with some numbers changed.

    Args:
        name: of :data:`PROFILES`.
        changes: ``NAME=VALUE`` each.

    Raises:
        PersonaError: an unknown name, or a value out of bounds.
    """
    profile, kinds = PROFILES[name], {item.name: type(getattr(PROFILES[name], item.name)) for item in fields(Profile)}
    values: dict[str, Any] = {}
    for change in changes:
        key, sign, text = (part.strip() for part in change.partition("="))
        if not sign or key not in kinds:
            raise PersonaError(f"phase_set must be NAME=VALUE, got {change!r}", f"names: {', '.join(kinds)}")
        values[key] = _value(key, text, kinds[key])
    return replace(profile, **values)


def _value(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise PersonaError(f"phase_set {name} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise PersonaError(f"phase_set {name} must be {wanted}, got {text!r}") from None
