"""What pages say of where somebody will be: in words, how that held before, and how far each region
is from there. Times are hours of a stored profile; nothing here is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from django.conf import settings
from django.db.models import BinaryField, ExpressionWrapper, F, Q, QuerySet

from desktops.models import Activity, Desktop, DesktopUser, Pool, Region, RoundTrip, Site
from desktops.round_trips import UNKNOWN, RoundTrips, round_trips_between
from desktops.selectors import pools_for, regions_for, sites_for
from forecasting.charts import FleetRow, SitePoint
from forecasting.core.arrays import FloatArray
from forecasting.core.fleet_places import FleetPlaces, PeopleByPlace
from forecasting.core.profiles import HORIZON_HOURS, HOUR
from forecasting.core.regions import RegionOutlook, region_outlook
from forecasting.core.spans import Foretold, Kept, Record, likeliest_spans
from forecasting.fields import pack_places, unpack_rows
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.selectors import profiles_in

if TYPE_CHECKING:
    from desktops.selectors import Viewer

Location = Mapping[str, FloatArray]

TOLD_HOURS = 48
# What came true fewer hours than this says nothing.
LEAST_KEPT = 10
# Of a pool, so many people are asked how it went; the oldest members.
POOL_PEOPLE = 100
LEAST_SOURCE = 0.005
READ_AT_ONCE = 1000
NOWHERE = pack_places({})
OTHERS, ELSEWHERE = "Other places", "Elsewhere, at no known site"


def hours_gone(row: ResourceDemandProfile, *, clock: datetime) -> int:
    """How many of a profile's hours are over; the next one is the present hour."""
    return int(np.clip((clock - row.starts_at) // HOUR, 0, HORIZON_HOURS))


@dataclass(frozen=True, slots=True)
class Stay:
    """Where somebody most likely is for a while.

    kept : how the same turned out before, None where that is too little to say
    is_pools : it is the record of their pool, not of themselves
    """

    place: str
    chance: float
    starts_at: datetime
    ends_at: datetime
    kept: Kept | None
    is_pools: bool = False


def stays_ahead(
    viewer: Viewer, row: ResourceDemandProfile, *, labels: Mapping[str, str], clock: datetime
) -> list[Stay]:
    """The next two days in words. Two queries, or four where the pool has to be asked.

    labels : of sites, by code
    """
    gone = hours_gone(row, clock=clock)
    codes, p_place = _as_matrix(row.location)
    spans = likeliest_spans(p_place[gone : gone + TOLD_HOURS])
    if not spans:
        return []
    own_record = _record_of_person(viewer, row, clock)
    theirs = [own_record.like(span, lead_h=gone) for span in spans]
    pools = theirs
    if any(kept.hours < LEAST_KEPT for kept in theirs):
        record = _record_of_pool(viewer, row, clock)
        pools = [record.like(span, lead_h=gone) for span in spans]
    return [
        Stay(
            place=labels.get(codes[span.place], codes[span.place]),
            chance=span.chance,
            starts_at=row.starts_at + (gone + span.first) * HOUR,
            ends_at=row.starts_at + (gone + span.end) * HOUR,
            kept=next((kept for kept in (own, pool) if kept.hours >= LEAST_KEPT), None),
            is_pools=own.hours < LEAST_KEPT,
        )
        for span, own, pool in zip(spans, theirs, pools, strict=True)
    ]


def _as_matrix(location: Location) -> tuple[list[str], FloatArray]:
    """Codes, and shape (n_hours, n_places)."""
    codes = list(location)
    chances = np.array([location[code] for code in codes], dtype=np.float64)
    return codes, chances.reshape(len(codes), -1).T


def _record_of_person(viewer: Viewer, row: ResourceDemandProfile, clock: datetime) -> Record:
    earlier = _earlier(viewer, row).filter(desktop_user=row.desktop_user_id)
    return _record(earlier, Q(desktop_user=row.desktop_user_id), clock)


def _record_of_pool(viewer: Viewer, row: ResourceDemandProfile, clock: datetime) -> Record:
    some = DesktopUser.objects.filter(pool=row.pool_id, is_located=True).order_by("pk")
    people = some.values("pk")[:POOL_PEOPLE]
    earlier = _earlier(viewer, row).filter(desktop_user__in=people)
    return _record(earlier, Q(desktop_user__in=people), clock)


def _earlier(viewer: Viewer, row: ResourceDemandProfile) -> QuerySet[ResourceDemandProfile]:
    """The full forecasts that were made before a profile's, as far as they are kept."""
    return ResourceDemandProfile.objects.filter(
        pool__in=pools_for(viewer),
        generation__dataset=row.generation.dataset_id,
        generation__kind=Generation.Kind.FULL,
        generation__state=Generation.State.COMPLETE,
        generation__as_of__lt=row.starts_at,
    )


def _record(earlier: QuerySet[ResourceDemandProfile], whose: Q, clock: datetime) -> Record:
    profiles = list(earlier.values_list("desktop_user_id", "starts_at", "seen_at", "location"))
    if not profiles:
        return Record.of([])
    since = min(starts_at for _, starts_at, _, _ in profiles)
    seen: dict[int, dict[datetime, str]] = defaultdict(dict)
    rows = Activity.objects.filter(
        whose, hour__gte=since, hour__lt=clock, site__isnull=False
    ).values_list("desktop_user_id", "hour", "site__code")
    for person, hour, code in rows:
        seen[person][hour] = code
    return Record.of(
        Foretold(location, _seen_during(seen[person], starts_at, heeded=seen_at))
        for person, starts_at, seen_at, location in profiles
    )


def _seen_during(
    seen: Mapping[datetime, str], starts_at: datetime, *, heeded: datetime | None
) -> dict[int, str]:
    """Hour of the forecast → place; without the hours up to the sighting that its map was last
    held against, as nobody foretells what they have seen."""
    leads = {(hour - starts_at) // HOUR: code for hour, code in seen.items()}
    first = 0 if heeded is None else (heeded - starts_at) // HOUR + 1
    return {lead: code for lead, code in leads.items() if first <= lead < HORIZON_HOURS}


@dataclass(frozen=True, slots=True)
class RegionAhead:
    """What is expected of one region.

    periods : expected round trip (None: not known) and least probability to be within the SLO
    sources : where the figures come from, with the share of the week's probability each is for
    """

    region: Region
    is_present: bool
    periods: list[tuple[float | None, float]]
    sources: list[tuple[str, float]]


@dataclass(frozen=True)
class Ground:
    """The regions a desktop could run in, the sites its person may be at, and how far it is.

    sites : in the order of the round trips' rows; regions : of their columns
    """

    sites: Sequence[Site]
    regions: Sequence[Region]
    trips: RoundTrips
    slo_rtt_ms: float

    @cached_property
    def labels(self) -> dict[str, str]:
        return {site.code: site.label for site in self.sites}

    def p_site(self, location: Location, hours: Sequence[slice]) -> FloatArray:
        """Mean probability of each site over some hours, shape (len(hours), n_sites)."""
        means = [
            [
                float(np.mean(location[s.code][some])) if s.code in location else 0.0
                for s in self.sites
            ]
            for some in hours
        ]
        return np.array(means).reshape(len(hours), len(self.sites))

    def outlook(self, location: Location, hours: Sequence[slice]) -> RegionOutlook:
        """Shape (len(hours), n_regions)."""
        p_site = self.p_site(location, hours)
        return region_outlook(p_site, self.trips.rtt_ms, slo_rtt_ms=self.slo_rtt_ms)


def ground_of(
    viewer: Viewer,
    *,
    pool: Pool,
    desktop: Desktop | None,
    location: Location,
    also: Iterable[str] = (),
) -> Ground:
    """Four queries at most, however many sites and regions there are.

    also : codes of sites that the profile does not name
    """
    sites = list(sites_for(viewer).filter(code__in={*location, *also}))
    regions = list(_possible_regions(viewer, pool, desktop))
    return Ground(sites, regions, round_trips_between(sites, regions), pool.slo_rtt_ms)


def _possible_regions(viewer: Viewer, pool: Pool, desktop: Desktop | None) -> QuerySet[Region]:
    """Of the desktop's cloud, else the pool's: those that residency allows and that offer its
    flavor; its present one in any case."""
    present = desktop.region if desktop else None
    cloud = present.cloud if present else pool.cloud
    allowed = Q()
    if residency := list(pool.residency.values_list("pk", flat=True)):
        allowed &= Q(pk__in=residency)
    if desktop and desktop.flavor_id:
        allowed &= Q(prices__flavor=desktop.flavor_id)
    if present:
        allowed |= Q(pk=present.pk)
    return regions_for(viewer).filter(allowed, cloud=cloud).exclude(cloud="").distinct()


def regions_ahead(
    ground: Ground, location: Location, *, desktop: Desktop | None, hours: Sequence[slice]
) -> list[RegionAhead]:
    """The nearest first, by the last of the periods. `hours` : the periods asked about."""
    told = ground.outlook(location, hours)
    shares = _shares(ground, location, hours[-1])
    rows = [
        RegionAhead(
            region=region,
            is_present=bool(desktop and desktop.region_id == region.pk),
            periods=[
                (float(rtt) if np.isfinite(rtt) else None, float(within))
                for rtt, within in zip(told.rtt_ms[:, column], told.within[:, column], strict=True)
            ],
            sources=shares[column],
        )
        for column, region in enumerate(ground.regions)
    ]
    return sorted(rows, key=_distance)


def _distance(row: RegionAhead) -> float:
    rtt_ms = row.periods[-1][0]
    return np.inf if rtt_ms is None else rtt_ms


def _shares(ground: Ground, location: Location, hours: slice) -> list[list[tuple[str, float]]]:
    """By region: what the figures are from, most of them first; what is not known at the end."""
    p_site = ground.p_site(location, [hours])[0]
    by_source = {
        source: p_site @ (ground.trips.source == source).astype(float)
        for source in RoundTrip.Source.values
    }
    unknown = 1.0 - p_site.sum() + p_site @ (ground.trips.source == UNKNOWN).astype(float)
    told = []
    for column in range(len(ground.regions)):
        known = [
            (str(RoundTrip.Source(source).label), float(share[column]))
            for source, share in by_source.items()
        ]
        ranked = sorted(known, key=lambda each: -each[1])
        rest = ("not known", float(unknown[column]))
        told.append([each for each in (*ranked, rest) if each[1] >= LEAST_SOURCE])
    return told


def fleet_ahead(viewer: Viewer, generation: Generation) -> PeopleByPlace:
    """How many of the viewer's people are expected at each place, hour by hour, by code.

    Whoever opted out of being located is not among them. One query, read a part at a time.
    """
    found = FleetPlaces(n_hours=HORIZON_HOURS)
    # The bytes as they are: a dictionary of arrays for each row would take most of the time.
    rows = (
        profiles_in(generation, viewer)
        .filter(desktop_user__is_located=True, desktop_user__is_predicted=True)
        .annotate(packed=ExpressionWrapper(F("location"), output_field=BinaryField()))
        .values_list("packed", flat=True)
    )
    located = (bytes(each) for each in rows.iterator(chunk_size=READ_AT_ONCE) if each != NOWHERE)
    while some := list(islice(located, READ_AT_ONCE)):
        found.add(*unpack_rows(some))
    return found.shown(k=settings.K_ANONYMITY)


def fleet_rows(ahead: PeopleByPlace) -> list[FleetRow]:
    """With the places' names, most people of the week first; those never shown are left out."""
    sites = {site.code: site for site in Site.objects.filter(code__in=ahead.places)}
    rows = [
        _fleet_row(sites.get(code), people)
        for code, people in zip(ahead.places, ahead.expected.T, strict=True)
        if np.isfinite(people).any()
    ]
    rows.sort(key=lambda row: -np.nansum(row.people))
    return [*rows, FleetRow(OTHERS, None, ahead.others)] if ahead.people else []


def _fleet_row(site: Site | None, people: FloatArray) -> FleetRow:
    """A place that is no site is elsewhere, or a site that was deleted since."""
    if site is None:
        return FleetRow(ELSEWHERE, None, people)
    return FleetRow(site.label, SitePoint(site.label, site.latitude, site.longitude), people)
