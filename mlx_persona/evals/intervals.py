"""How little a count of successes says: Wilson's interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def wilson(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a share (Wilson, 1927, JASA 22:209): it stays inside [0, 1] and holds for small counts.

    Args:
        hits: successes, 0 to ``n``.
        n: trials; none at all leaves the share anywhere.
        z: quantile of the normal distribution; the default gives 95 %.

    Returns:
        ``(low, high)``.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"hits must be 0 to {n}, got {hits}")
    if n == 0:
        return 0.0, 1.0
    share, weight = hits / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    # At the ends rounding would leave a speck outside the interval that it must reach.
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


@dataclass(frozen=True)
class Tally:
    """So many of so many."""

    hits: int
    n: int

    @property
    def share(self) -> float | None:
        """Hits per trial; None where nothing was tried."""
        return self.hits / self.n if self.n else None

    def to_json(self) -> dict[str, object]:
        """Counts, share and its 95 % interval."""
        return {"hits": self.hits, "n": self.n, "share": self.share, "interval": list(wilson(self.hits, self.n))}

    def shown(self) -> str:
        """``7/15 (25–70 %)``: the interval stands in brackets."""
        if not self.n:
            return "-"
        low, high = wilson(self.hits, self.n)
        return f"{self.hits}/{self.n} ({100 * low:.0f}–{100 * high:.0f} %)"


def shown_tally(figure: Mapping[str, Any] | None) -> str:
    """A tally's JSON for a table, as :meth:`Tally.shown`; ``-`` where there is none."""
    return Tally(figure["hits"], figure["n"]).shown() if figure else "-"


def mean_interval(values: Sequence[float], z: float = Z95) -> tuple[float, float]:
    """``(mean, half width)`` of a normal interval of the mean; the half width of a single value is infinite."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.inf
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, z * math.sqrt(spread / len(values))
