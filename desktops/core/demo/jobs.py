"""Work that is planned on one day and computed on the next: what people run today tells of
tomorrow, and their demand of today does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from desktops.core.demo.people import Person

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

P_PLANNING = 0.4
PLANNING_FROM_H = 12  # local time
LEAST_WORK_H = 2.0  # of a day on which the machine may be left computing


class Jobs(NamedTuple):
    """(people, hours) each: whether somebody plans, or computes what they had planned."""

    is_planning: BoolArray
    is_computing: BoolArray


def make_jobs(
    people: Sequence[Person],
    active: FloatArray,
    day: IntArray,
    clock: FloatArray,
    rng: np.random.Generator,
) -> Jobs:
    """Those who plan do so on some afternoons, at random, for their next day of work.

    active, day, clock : (people, hours), share of the hour with a session, number of the local
        day, and local time
    """
    n_days = int(day.max()) + 1
    plans, computes = np.zeros((2, len(people), n_days), dtype=np.bool_)
    for row, person in enumerate(people):
        if person.plans_ahead:
            worked_h = np.bincount(day[row], active[row], minlength=n_days)
            works = np.flatnonzero(worked_h >= LEAST_WORK_H)
            chosen = rng.random(len(works)) < P_PLANNING
            plans[row, works[chosen]] = True
            computes[row, works[1:][chosen[:-1]]] = True
    rows = np.arange(len(people))[:, None]
    at_work = active > 0
    return Jobs(
        is_planning=plans[rows, day] & at_work & (clock >= PLANNING_FROM_H),
        is_computing=computes[rows, day] & at_work,
    )
