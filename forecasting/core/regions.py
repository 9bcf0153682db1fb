"""From where somebody will be to how far that is from the regions a desktop can run in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import FloatArray


@dataclass(frozen=True)
class RegionOutlook:
    """Shape (n_hours, n_regions) each.

    rtt_ms : expected round trip over the places whose round trip is known; NaN without any
    within : how likely the place is one whose round trip is known and within the SLO. What may
        be within it elsewhere is not counted: it is the least that can be said
    known : how likely the place is one whose round trip is known
    """

    rtt_ms: FloatArray
    within: FloatArray
    known: FloatArray


def region_outlook(p_place: FloatArray, rtt_ms: FloatArray, *, slo_rtt_ms: float) -> RegionOutlook:
    """How far each region will be.

    p_place : shape (n_hours, n_places), probability of each place; what is lacking from 1 is
        elsewhere, of which no round trip is known
    rtt_ms : shape (n_places, n_regions), NaN where it is not known
    slo_rtt_ms : the longest round trip that is good enough

    Means of hours can be asked for as well as hours: all of it but the quotient is linear.
    """
    is_known = np.isfinite(rtt_ms)
    known = p_place @ is_known.astype(float)
    summed = p_place @ np.where(is_known, rtt_ms, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.where(known > 0, summed / known, np.nan)
    within = p_place @ (is_known & (np.nan_to_num(rtt_ms, nan=np.inf) <= slo_rtt_ms)).astype(float)
    return RegionOutlook(expected, within, known)
