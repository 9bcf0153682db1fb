"""Round trips between sites and regions: as measured or entered, else as the distance has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from desktops.core.geo import FloatArray, estimated_rtt_ms
from desktops.models import Region, RoundTrip, Site

UNKNOWN = ""


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Shape (n_sites, n_regions) each, in the order in which they were asked for.

    rtt_ms : NaN where nothing is known
    source : a RoundTrip.Source, UNKNOWN where nothing is known
    """

    rtt_ms: FloatArray
    source: NDArray[np.str_]


def round_trips_between(sites: Sequence[Site], regions: Sequence[Region]) -> RoundTrips:
    """What the table says; where it says nothing and the region's coordinates are known, a
    great-circle estimate. One query."""
    site_row = {site.pk: row for row, site in enumerate(sites)}
    region_row = {region.pk: row for row, region in enumerate(regions)}
    rtt_ms = _estimates(sites, regions)
    source = np.where(np.isfinite(rtt_ms), RoundTrip.Source.ESTIMATE.value, UNKNOWN).astype("U10")
    told = RoundTrip.objects.filter(site__in=site_row, region__in=region_row)
    for site, region, each_ms, whose in told.values_list("site", "region", "rtt_ms", "source"):
        at = site_row[site], region_row[region]
        rtt_ms[at], source[at] = each_ms, whose
    return RoundTrips(rtt_ms, source)


def _estimates(sites: Sequence[Site], regions: Sequence[Region]) -> FloatArray:
    """NaN to regions whose coordinates nobody entered."""
    here = np.array([(s.latitude, s.longitude) for s in sites], dtype=float).reshape(-1, 2)
    there = np.array([(r.latitude, r.longitude) for r in regions], dtype=float).reshape(-1, 2)
    return estimated_rtt_ms(*here.T[:, :, None], *there.T[:, None])
