"""Where a data set's people were seen, and the model of where they will be."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo

import numpy as np

from desktops.core.zones import zone_named
from desktops.models import Dataset
from forecasting.core.announced import Trips
from forecasting.core.arrays import AnyArray
from forecasting.core.location import LocationModel, fit_locations
from forecasting.history import Sightings, Subject, read_sightings, subjects_of
from forecasting.services.calendars import read_notices, trips_of

UNKNOWN_SITE = -1
HOURS_PER_WEEK = 168
HISTORY_DAYS = 56


def fit_places(dataset: Dataset, *, until: datetime, known_at: datetime) -> LocationModel:
    """Learn from every hour of the last weeks in which somebody's site is known, before `until`,
    and from the travel announced by `known_at`, see `read_notices`.

    People are known to the model by primary key, places by the site's code.
    """
    seen = read_sightings(dataset, until=until, days=HISTORY_DAYS)
    people = subjects_of(dataset)
    notices = read_notices(
        dataset,
        start=until - timedelta(days=HISTORY_DAYS),
        hours=24 * HISTORY_DAYS + HOURS_PER_WEEK,
        known_at=known_at,
    )
    return fit_sightings(seen, until=until, zones=zones_of(people), trips=trips_of(people, notices))


def fit_sightings(
    seen: Sightings,
    *,
    until: datetime,
    zones: Mapping[Hashable, tzinfo] | None = None,
    trips: Trips | None = None,
) -> LocationModel:
    return fit_locations(seen.user, seen.at_s, seen.site, until=until, zones=zones, trips=trips)


def zones_of(subjects: Sequence[Subject]) -> dict[Hashable, tzinfo]:
    """By which clock people live, by primary key."""
    return {s.desktop_user_id: zone_named(s.time_zone) for s in subjects if s.desktop_user_id}


def sample_paths(
    dataset: Dataset,
    people: Sequence[int],
    sites: Sequence[str],
    *,
    at: datetime,
    known_at: datetime,
    n: int,
    seed: int,
) -> AnyArray:
    """Joint paths of where people will be in the week from `at`.

    known_at : what had been announced by then counts, by the wall clock

    Returns shape (len(people), n, 168), indices into `sites`, -1 for anywhere else.
    """
    model = fit_places(dataset, until=at, known_at=known_at)
    hours = at.timestamp() + 3600.0 * np.arange(HOURS_PER_WEEK)
    places, codes = model.sample_codes(np.array(people), hours, n=n, seed=seed)
    row_of = {code: row for row, code in enumerate(sites)}
    rows = np.array([row_of.get(place, UNKNOWN_SITE) for place in places], dtype=np.int64)
    paths: AnyArray = rows[codes]
    return paths
