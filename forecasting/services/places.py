"""Where a data set's people were seen, and the model of where they will be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from desktops.models import Dataset
from forecasting.core.arrays import AnyArray
from forecasting.core.location import LocationModel, fit_locations
from forecasting.history import Sightings, read_sightings

UNKNOWN_SITE = -1
HOURS_PER_WEEK = 168
HISTORY_DAYS = 56


def fit_places(dataset: Dataset, *, until: datetime) -> LocationModel:
    """Learn from every hour of the last weeks in which somebody's site is known, before `until`.

    People are known to the model by primary key, places by the site's code.
    """
    return fit_sightings(read_sightings(dataset, until=until, days=HISTORY_DAYS), until=until)


def fit_sightings(seen: Sightings, *, until: datetime) -> LocationModel:
    return fit_locations(seen.user, seen.at_s, seen.site, until=until)


def sample_paths(
    dataset: Dataset,
    people: Sequence[int],
    sites: Sequence[str],
    *,
    at: datetime,
    n: int,
    seed: int,
) -> AnyArray:
    """Joint paths of where people will be in the week from `at`.

    Returns shape (len(people), n, 168), indices into `sites`, -1 for anywhere else.
    """
    model = fit_places(dataset, until=at)
    hours = at.timestamp() + 3600.0 * np.arange(HOURS_PER_WEEK)
    places, codes = model.sample_codes(np.array(people), hours, n=n, seed=seed)
    row_of = {code: row for row, code in enumerate(sites)}
    rows = np.array([row_of.get(place, UNKNOWN_SITE) for place in places], dtype=np.int64)
    paths: AnyArray = rows[codes]
    return paths
