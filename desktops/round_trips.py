"""Round trips between sites and regions: as measured or entered, else as the distance has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from django.conf import settings
from django.db.models import Case, When
from django.utils import timezone
from numpy.typing import NDArray

from desktops.core.geo import FloatArray, estimated_rtt_ms
from desktops.models import Region, RoundTrip, Site

UNKNOWN = ""
# What is read later is believed.
_RANKS = [
    When(source=source, then=rank)
    for rank, source in enumerate(
        (RoundTrip.Source.ESTIMATE, RoundTrip.Source.TABLE, RoundTrip.Source.MEASURED)
    )
]


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Shape (n_sites, n_regions) each, in the order in which they were asked for.

    rtt_ms : NaN where nothing is known
    source : a RoundTrip.Source, UNKNOWN where nothing is known
    """

    rtt_ms: FloatArray
    source: NDArray[np.str_]


def round_trips_between(sites: Sequence[Site], regions: Sequence[Region]) -> RoundTrips:
    """What was measured lately; else what the admin's table says; else, where the region's
    coordinates are known, a great-circle estimate. One query."""
    site_row = {site.pk: row for row, site in enumerate(sites)}
    region_row = {region.pk: row for row, region in enumerate(regions)}
    rtt_ms = _estimates(sites, regions)
    source = np.where(np.isfinite(rtt_ms), RoundTrip.Source.ESTIMATE.value, UNKNOWN).astype("U10")
    told = RoundTrip.objects.filter(site__in=site_row, region__in=region_row)
    oldest = timezone.now() - timedelta(days=settings.ROUND_TRIP_DAYS)
    counts = told.exclude(source=RoundTrip.Source.MEASURED, measured_at__lt=oldest)
    ranked = counts.annotate(rank=Case(*_RANKS)).order_by("rank")
    for site, region, each_ms, whose in ranked.values_list("site", "region", "rtt_ms", "source"):
        at = site_row[site], region_row[region]
        rtt_ms[at], source[at] = each_ms, whose
    return RoundTrips(rtt_ms, source)


def _estimates(sites: Sequence[Site], regions: Sequence[Region]) -> FloatArray:
    """NaN to regions whose coordinates nobody entered."""
    here = np.array([(s.latitude, s.longitude) for s in sites], dtype=float).reshape(-1, 2)
    there = np.array([(r.latitude, r.longitude) for r in regions], dtype=float).reshape(-1, 2)
    return estimated_rtt_ms(*here.T[:, :, None], *there.T[:, None])
