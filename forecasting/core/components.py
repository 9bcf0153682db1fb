"""The parts of a Prophet fit as a person can read them.

A sum says nothing of how it is split: where a desk is only ever seen from eight to five, the rhythm
of the day may lie far off at night if the trend makes up for it. So what repeats is told as the
difference from its own mean over the hours that were observed, the means go to the trend, and
hours of the day or the week that were never observed are left out. Hours are those of the wall
clock, which `prophet` works with, whether or not it changed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray

PERIODS_H = {"weekly": 168, "daily": 24}


def readable(
    parts: Mapping[str, FloatArray], *, wall_hour: FloatArray, observed: BoolArray
) -> dict[str, FloatArray]:
    """Trend, what repeats around it, and whatever else has an effect.

    parts : as of `ProphetFit.components`, of one series: shape (n,) each
    wall_hour : shape (n,), whole hours of the wall clock since any moment
    observed : shape (n_past,), n_past <= n, which of the first hours were observed; at least one
    """
    past = np.flatnonzero(observed)
    told = dict(parts)
    for name, period in PERIODS_H.items():
        if name not in parts:
            continue
        mean = parts[name][past].mean()
        seen = np.isin(wall_hour % period, wall_hour[past] % period)
        told[name] = np.where(seen, parts[name] - mean, np.nan)
        told["trend"] = told["trend"] + mean
    return {
        name: values
        for name, values in told.items()
        if name in ("trend", *PERIODS_H) or np.any(values != 0)
    }
