"""What else was observed of a subject: which applications ran, which data were read.

Only its past is known. A forecast may learn from it what the series alone does not show: who opens
the planning tool today renders tomorrow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from forecasting.core.arrays import AnyArray, BoolArray, IntArray
from forecasting.errors import InvalidHistory


@dataclass(frozen=True)
class Related:
    """Observations beside the series to be forecast, on the same slots.

    values : shape (n_subjects, n_slots, n_kinds), any unit, one unit a kind; NaN where not
        observed, 0 where it did not happen
    subject : shape (n_series,), row of `values` that belongs to each series, -1 for none
    """

    values: AnyArray
    subject: IntArray

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise InvalidHistory(
                f"related observations have shape {self.values.shape}, expected (n_subjects,"
                " n_slots, n_kinds)"
            )
        if len(self.subject) and not -1 <= self.subject.min() <= self.subject.max() < len(
            self.values
        ):
            raise InvalidHistory(
                f"related subjects run from {self.subject.min()} to {self.subject.max()}, there"
                f" are {len(self.values)}"
            )

    @property
    def n_kinds(self) -> int:
        return int(self.values.shape[2])

    def take(self, series: IntArray | BoolArray) -> Related:
        """The same for some of the series only."""
        return replace(self, subject=self.subject[series])
