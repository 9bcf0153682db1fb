"""How many people are expected at each place, without giving any of them away.

The expected number is the sum of everybody's probability to be there. A place at which fewer than
k people may well be in an hour is not shown alone in that hour: it is one of "other places".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray

# With less than this, nobody would be looked for at a place.
RELEVANT = 0.05


@dataclass(frozen=True)
class PeopleByPlace:
    """What may be shown of a fleet; hours by places, shape (n_hours, n_places).

    places : labels, in the order of the columns
    expected : people, NaN where the place is one of the others in that hour
    others : shape (n_hours,), people expected at all the others together, NaN where so few may be
        there that nothing can be said
    people : how many there are in all
    """

    places: tuple[str, ...]
    expected: FloatArray
    others: FloatArray
    people: int


class FleetPlaces:
    """Sums up whereabouts as they are read, some people at a time."""

    def __init__(self, *, n_hours: int) -> None:
        self.n_hours = n_hours
        self.people = 0
        self._number: dict[str, int] = {}
        self._expected: list[FloatArray] = []
        self._rows: list[tuple[IntArray, IntArray, BoolArray]] = []

    def add(self, owner: IntArray, places: Sequence[str], chance: FloatArray) -> None:
        """Some people's probabilities.

        owner : shape (n,), whose each row is, numbered from 0 among those added now
        places : where; chance : shape (n, n_hours)
        """
        if not len(places):
            return
        place = np.array([self._numbered(each) for each in places], dtype=np.int64)
        order = np.argsort(place, kind="stable")
        numbers, first = np.unique(place[order], return_index=True)
        sums = np.add.reduceat(chance[order], first, axis=0, dtype=np.float64)
        for number, total in zip(numbers.tolist(), sums, strict=True):
            self._expected[number] += total
        self._rows.append((owner + self.people, place, (chance >= RELEVANT).T))
        self.people += int(owner.max()) + 1

    def _numbered(self, place: str) -> int:
        number = self._number.setdefault(place, len(self._expected))
        if number == len(self._expected):
            self._expected.append(np.zeros(self.n_hours))
        return number

    def shown(self, *, k: int) -> PeopleByPlace:
        """What may be shown where no place is shown for fewer than k people."""
        n_places = len(self._expected)
        expected = np.array(self._expected).reshape(n_places, self.n_hours).T.copy()
        others = np.zeros(self.n_hours)
        if self._rows:
            owner = np.concatenate([owner for owner, _, _ in self._rows])
            place = np.concatenate([place for _, place, _ in self._rows])
            relevant = np.concatenate([relevant for _, _, relevant in self._rows], axis=1)
            for hour in range(self.n_hours):
                there = np.flatnonzero(relevant[hour])
                is_shown, enough = _divide(owner[there], place[there], expected[hour], k=k)
                others[hour] = expected[hour, ~is_shown].sum() if enough else np.nan
                expected[hour, ~is_shown] = np.nan
        return PeopleByPlace(tuple(self._number), expected, others, self.people)


def _divide(
    owner: IntArray, place: IntArray, expected: FloatArray, *, k: int
) -> tuple[BoolArray, bool]:
    """Which places may be shown, shape (n_places,), and whether the others may, summed.

    owner, place : shape (n,), who may well be where; expected : shape (n_places,), people

    At the others nobody may be, or k people at least, if need be with the smallest place that has
    enough of its own: otherwise theirs could be had by subtraction from a total.
    """
    counts = np.bincount(place, minlength=len(expected))
    is_shown = counts >= k
    while True:
        hidden = len(np.unique(owner[~is_shown[place]]))
        if hidden == 0 or hidden >= k or not is_shown.any():
            return is_shown, hidden == 0 or hidden >= k
        by_size = np.lexsort((expected, counts))
        is_shown[by_size[is_shown[by_size]][0]] = False
