"""Whether published forecasts still hold what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray
from forecasting.core.scores import covered_share, pinball_loss

INTERVALS = (0.5, 0.8, 0.9)
# Hours of subjects; with fewer, chance looks like drift.
LEAST_HOURS = 500
# Shares of hours by which an interval may hold too many or too few before somebody is told, and
# within which it has recovered. Hours of one week err together, so this is wide.
DRIFTED, RECOVERED = 0.10, 0.07
# Loss as a ratio to seasonal naive's, likewise.
WORSE_THAN_NAIVE, BETTER_AGAIN = 1.0, 0.97


class DriftKind(StrEnum):
    COVERAGE = "coverage"
    LOSS = "loss"


@dataclass(frozen=True)
class Tally:
    """What some hours of forecasts came to; tallies of different hours add up.

    hours : that were forecast and then observed
    loss, naive_loss : sums of the mean pinball loss over levels, in the unit of the demand
    inside : how many of the hours lay inside each of INTERVALS
    """

    hours: int = 0
    loss: float = 0.0
    naive_loss: float = 0.0
    inside: tuple[float, ...] = (0.0,) * len(INTERVALS)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.hours + other.hours,
            self.loss + other.loss,
            self.naive_loss + other.naive_loss,
            tuple(a + b for a, b in zip(self.inside, other.inside, strict=True)),
        )

    @property
    def coverage(self) -> dict[float, float]:
        """Interval → share of the hours inside it; empty without hours."""
        if not self.hours:
            return {}
        return {i: inside / self.hours for i, inside in zip(INTERVALS, self.inside, strict=True)}

    @property
    def loss_ratio(self) -> float | None:
        """Loss as a ratio to the naive forecast's; None where that made no error."""
        return self.loss / self.naive_loss if self.naive_loss > 0 else None


def tally(
    actual: FloatArray, quantiles: FloatArray, naive: FloatArray, *, levels: FloatArray
) -> Tally:
    """Score the hours that were observed and that both forecasts know something of.

    actual : shape (n, n_hours), NaN where not observed
    quantiles, naive : shape (n, n_hours, n_levels), same unit
    """
    known: BoolArray = np.isfinite(actual)
    known &= np.isfinite(quantiles).all(axis=-1) & np.isfinite(naive).all(axis=-1)
    y, q, simple = actual[known], quantiles[known], naive[known]
    return Tally(
        hours=len(y),
        loss=float(pinball_loss(y, q, levels=levels).mean(axis=-1).sum()),
        naive_loss=float(pinball_loss(y, simple, levels=levels).mean(axis=-1).sum()),
        inside=tuple(
            float(covered_share(y, q, levels=levels, interval=interval).sum())
            for interval in INTERVALS
        ),
    )


def drifts(week: Tally, *, standing: frozenset[DriftKind]) -> Mapping[DriftKind, str]:
    """What is wrong with a week's forecasts, in words; nothing when all is well.

    standing : what somebody was told of already: it stands until it has clearly recovered
    """
    if week.hours < LEAST_HOURS:
        return {kind: "too few hours to say whether it has recovered" for kind in standing}
    wrong: dict[DriftKind, str] = {}
    interval, share = max(week.coverage.items(), key=lambda item: abs(item[1] - item[0]))
    limit = RECOVERED if DriftKind.COVERAGE in standing else DRIFTED
    if abs(share - interval) > limit:
        wrong[DriftKind.COVERAGE] = (
            f"{share:.0%} of {week.hours} hours lay in the interval meant to hold {interval:.0%}"
        )
    ratio = week.loss_ratio
    limit = BETTER_AGAIN if DriftKind.LOSS in standing else WORSE_THAN_NAIVE
    if ratio is not None and ratio > limit:
        wrong[DriftKind.LOSS] = (
            f"the loss over {week.hours} hours was {ratio:.2f} times that of last week's values"
        )
    return wrong
