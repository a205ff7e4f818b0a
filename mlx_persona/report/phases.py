"""The phases that a run says it went through, as its report shows them: nothing is judged anew here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mlx_persona.config.phases import Profile
from mlx_persona.report.drawing import Band, Level
from mlx_persona.report.figures import Document, Figure, is_number, product
from mlx_persona.report.reading import Record

NAMES = {
    "S0": "pre-susceptibility",
    "S1": "susceptibility",
    "S2": "commitment",
    "S3": "post-commitment",
}
MEANINGS = {
    "S0": "nothing has taken hold yet",
    "S1": "the model reorganises itself, its loss falls fast",
    "S2": "it has settled, its loss hardly moves any more",
    "S3": "the held-out loss rises while the training loss falls, or nothing gets better any more",
}
_COLOURS = {"S0": "", "S1": "d0", "S2": "kept", "S3": "bad"}
CALMING = (
    ("variance", "variance of the gradient norms once it had settled, divided by that while it was susceptible"),
    ("mean_to_peak", "their mean once it had settled, divided by their peak while it was susceptible"),
    ("median_to_p95", "their median once it had settled, divided by what one in twenty exceeded while susceptible"),
)
# Numbers of a profile that are held against δL or its spread: in nats, or in units of the noise.
_THRESHOLDS = ("onset", "commit", "spread")
_COLUMNS = (
    ("from", "count", ("from",)),
    ("to", "count", ("to",)),
    ("updates", "count", ("updates",)),
    ("tokens", "count", ("tokens",)),
    ("mean norm", "plain", ("grad_norm", "mean")),
    ("peak norm", "plain", ("grad_norm", "peak")),
)


@dataclass(frozen=True)
class Stretch:
    """One phase of a run.

    Attributes:
        phase: ``S0`` to ``S3``.
        cells: ``(column, form, figure)``; a figure is None where nothing tells.
        decided_by: ``signal``, ``guard`` or ``""``.
        reason: why it began, in words; ``""`` of the first.
    """

    phase: str
    cells: Sequence[tuple[str, str, Figure | None]]
    decided_by: str
    reason: str


@dataclass(frozen=True)
class Setting:
    """A number of the controller: its name, its meaning, its value, and that in nats where it is counted in noise."""

    name: str
    help: str
    value: str | Figure
    nats: Figure | None


class Phases:
    """What a run tells of its phases; empty where it tells nothing."""

    def __init__(self, run: Record) -> None:
        self._run = run
        self._told: Document = run.info

    @cached_property
    def observed(self) -> Sequence[tuple[int, float, str]]:
        """``(index, update, phase)`` of every phase event that can be read; an update never lies before the last."""
        out: list[tuple[int, float, str]] = []
        for i, event in enumerate(self._run.events.of("phase")):
            update, phase = event.get("update"), event.get("phase")
            known = isinstance(phase, str) and phase in NAMES
            if known and is_number(update) and (not out or update >= out[-1][1]):
                out.append((i, update, str(phase)))
        return out

    def __bool__(self) -> bool:
        return bool(self.observed or self._told.items("phase", "phases"))

    @cached_property
    def changes(self) -> Sequence[tuple[int, float, str]]:
        """The events at which a phase began, the first one among them."""
        seen = self.observed
        return [one for i, one in enumerate(seen) if i == 0 or one[2] != seen[i - 1][2]]

    @cached_property
    def bands(self) -> Sequence[Band]:
        """The phases as they lie beneath a chart: each from the evaluation that saw it to the next one's."""
        if not self.changes:
            return []
        trained = [update for update, _ in self._run.events.series("train", "loss")]
        end = max([self.observed[-1][1], *trained[-1:]])
        ends = [update for _, update, _ in self.changes[1:]] + [end]
        return [
            Band(phase, f"{phase} {NAMES[phase]}", _COLOURS[phase], start, until)
            for (_, start, phase), until in zip(self.changes, ends, strict=True)
        ]

    @property
    def said(self) -> str:
        """The phases in words, for those who do not see the bands; ``""`` where there are none."""
        named = ", ".join(f"{band.name} from update {band.start:,}" for band in self.bands)
        return f" Phases: {named}." if named else ""

    @cached_property
    def stretches(self) -> Sequence[Stretch]:
        """One for each phase, from ``run.json``, or from the log while that does not tell yet."""
        listed = [self._listed(i) for i in range(len(self._told.items("phase", "phases")))]
        return [one for one in listed if one.phase in NAMES] or [self._logged(i) for i in range(len(self.changes))]

    def _listed(self, i: int) -> Stretch:
        place = ("phase", "phases", i)
        cells = [(name, form, self._told.number(*place, *keys)) for name, form, keys in _COLUMNS]
        words = [self._told.text(*place, key) for key in ("phase", "decided_by", "reason")]
        return Stretch(words[0], cells, *words[1:])

    def _logged(self, i: int) -> Stretch:
        """What the log tells of a phase that has begun: when, and when the next one did."""
        events, (index, _, phase) = self._run.events, self.changes[i]
        following = self.changes[i + 1][0] if i + 1 < len(self.changes) else self.observed[-1][0]
        ends = (("from", index), ("to", following))
        decided_by, reason = (events.of("phase")[index].get(key) for key in ("decided_by", "reason"))
        cells = [(name, "count", events.figure("phase", at, "update")) for name, at in ends]
        return Stretch(phase, cells, *(word if isinstance(word, str) else "" for word in (decided_by, reason)))

    def began(self, phase: str) -> Figure | None:
        """The update at which a phase began; None where it never did."""
        for i, one in enumerate(self._told.items("phase", "phases")):
            if isinstance(one, dict) and one.get("phase") == phase:
                return self._told.number("phase", "phases", i, "from")
        index = next((index for index, _, name in self.changes if name == phase), None)
        return None if index is None else self._run.events.figure("phase", index, "update")

    @property
    def mode(self) -> str:
        """``observe`` or ``control``."""
        return self._told.text("phase", "mode") or self._run.config.text("phase")

    @property
    def profile(self) -> str:
        """The profile's name."""
        return self._run.config.text("phase_profile")

    @property
    def noise(self) -> Figure | None:
        """The evaluation's noise, in nats."""
        return self._told.number("phase", "noise")

    @property
    def story(self) -> str:
        """The paragraph in plain words."""
        return self._told.text("phase", "story")

    @property
    def chosen(self) -> Figure | None:
        """The update whose checkpoint was chosen."""
        return self._told.number("phase", "chosen", "update")

    @property
    def chosen_phase(self) -> str:
        """In which phase that was."""
        return self._told.text("phase", "chosen", "phase")

    @property
    def eligible(self) -> bool | None:
        """Whether it was eligible; None where nothing tells."""
        found = self._told.get("phase", "chosen", "eligible")
        return found if isinstance(found, bool) else None

    @property
    def calming(self) -> Sequence[tuple[str, Figure]]:
        """``(meaning, ratio)`` of those that there are."""
        found = [(meaning, self._told.number("phase", "calming", key)) for key, meaning in CALMING]
        return [(meaning, figure) for meaning, figure in found if figure is not None]

    @cached_property
    def settings(self) -> Sequence[Setting]:
        """Every number of the controller; thresholds that are counted in noise stand there in nats too."""
        known = {item.name: item.metadata["help"] for item in dataclasses.fields(Profile)}
        out = []
        for name, value in self._told.mapping("phase", "profile").items():
            figure = self._told.number("phase", "profile", name)
            word = ("yes" if value else "no") if isinstance(value, bool) else str(value)
            nats = self.threshold(name) if self._counted_in_noise and name in _THRESHOLDS else None
            out.append(Setting(name, known.get(name, ""), figure or word, nats))
        return out

    @property
    def _counted_in_noise(self) -> bool:
        return self._told.text("phase", "profile", "units") == "noise"

    def threshold(self, name: str) -> Figure | None:
        """``onset``, ``commit`` or ``spread`` in nats; None where nothing tells."""
        value = self._told.number("phase", "profile", name)
        if value is None or not self._counted_in_noise:
            return value
        squared = name == "spread" and self._told.text("phase", "profile", "spread_as") == "variance"
        return product([value, *[self.noise] * (2 if squared else 1)])

    @cached_property
    def levels(self) -> Sequence[Level]:
        """The thresholds of δL, in nats."""
        onset, commit = self.threshold("onset"), self.threshold("commit")
        below = [Level("susceptible below this", "d0", -onset.value)] if onset else []
        return [*below, Level("settled within this", "kept", -commit.value, commit.value)] if commit else below
