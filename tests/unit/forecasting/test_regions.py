"""From a map of places to round trips by region."""

from __future__ import annotations

import numpy as np
import pytest

from desktops.core.geo import FIBRE_DETOUR, FIBRE_KM_PER_MS, LAST_MILE_MS, estimated_rtt_ms
from forecasting.core.regions import region_outlook

# Paris, Lyon, and a place of which nothing is known; to a near and a far region.
RTT_MS = np.array([[10.0, 90.0], [20.0, 100.0], [np.nan, np.nan]])


def test_an_expected_round_trip_is_the_mean_over_places() -> None:
    told = region_outlook(np.array([[0.5, 0.5, 0.0]]), RTT_MS, slo_rtt_ms=60)
    assert told.rtt_ms.tolist() == [[15.0, 95.0]]
    assert told.known.tolist() == [[1.0, 1.0]]


def test_places_without_a_round_trip_are_left_out_of_the_mean_and_reported() -> None:
    told = region_outlook(np.array([[0.3, 0.1, 0.4]]), RTT_MS, slo_rtt_ms=60)
    assert told.rtt_ms[0, 0] == pytest.approx((0.3 * 10 + 0.1 * 20) / 0.4)
    assert told.known[0] == pytest.approx([0.4, 0.4])
    assert told.within[0] == pytest.approx([0.4, 0.0])


def test_the_slo_itself_is_within_it() -> None:
    told = region_outlook(np.array([[0.5, 0.5, 0.0]]), RTT_MS, slo_rtt_ms=10)
    assert told.within[0, 0] == 0.5


def test_nothing_is_expected_of_a_region_no_place_is_known_to_reach() -> None:
    told = region_outlook(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), RTT_MS, slo_rtt_ms=60)
    assert np.isnan(told.rtt_ms[0]).all() and (told.within[0] == 0).all()
    assert told.rtt_ms[1, 0] == 10


def test_no_place_and_no_region_are_no_error() -> None:
    assert region_outlook(np.zeros((24, 0)), np.zeros((0, 2)), slo_rtt_ms=60).known.shape == (24, 2)
    assert region_outlook(np.ones((24, 3)), np.zeros((3, 0)), slo_rtt_ms=60).known.shape == (24, 0)


def test_an_estimate_is_the_cables_way_and_the_last_mile() -> None:
    around = 2 * np.pi * 6371.0
    estimate = estimated_rtt_ms(0.0, 0.0, 0.0, 90.0)
    assert estimate == pytest.approx(2 * FIBRE_DETOUR * around / 4 / FIBRE_KM_PER_MS + LAST_MILE_MS)
    assert estimated_rtt_ms(48.9, 2.4, 48.9, 2.4) == LAST_MILE_MS
    assert np.isnan(estimated_rtt_ms(48.9, 2.4, np.nan, 2.4))
