"""Round trips as pages and the planner read them."""

from __future__ import annotations

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from desktops.core.geo import LAST_MILE_MS
from desktops.models import Region, RoundTrip, Site
from desktops.round_trips import UNKNOWN, round_trips_between

pytestmark = pytest.mark.django_db


def site(code: str, latitude: float) -> Site:
    return Site.objects.create(code=code, label=code.title(), latitude=latitude, longitude=2)


def region(name: str, **where: float) -> Region:
    return Region.objects.create(cloud="simulated", name=name, label=name.title(), **where)


def test_the_table_counts_before_an_estimate_and_says_whose_it_is() -> None:
    paris, lyon = site("paris", 48.9), site("lyon", 45.8)
    near, nowhere = region("near", latitude=48.9, longitude=2), region("nowhere")
    RoundTrip.objects.create(site=lyon, region=near, rtt_ms=7, source="measured")
    RoundTrip.objects.create(site=lyon, region=nowhere, rtt_ms=80, source="table")
    told = round_trips_between([paris, lyon], [nowhere, near])
    assert told.source.tolist() == [[UNKNOWN, "estimate"], ["table", "measured"]]
    assert np.isnan(told.rtt_ms[0, 0]) and told.rtt_ms[1].tolist() == [80, 7]
    assert told.rtt_ms[0, 1] == pytest.approx(LAST_MILE_MS)


def test_one_query_is_enough_for_any_number_of_sites() -> None:
    regions = [region(f"r{i}", latitude=i, longitude=i) for i in range(3)]
    sites = [site(f"s{i}", i) for i in range(20)]
    with CaptureQueriesContext(connection) as asked:
        told = round_trips_between(sites, regions)
    assert len(asked) == 1
    assert told.rtt_ms.shape == (20, 3) and np.isfinite(told.rtt_ms).all()


def test_no_sites_and_no_regions_are_no_error() -> None:
    assert round_trips_between([], [region("r")]).rtt_ms.shape == (0, 1)
    assert round_trips_between([site("s", 1)], []).source.shape == (1, 0)
