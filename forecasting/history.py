"""A data set's hourly activity as arrays: one query, one pass, whatever the size of the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.db import connection

from desktops.models import Activity, Dataset, Desktop, DesktopUser, Site
from forecasting.core.arrays import FloatArray
from forecasting.core.profiles import RESOURCES

HOUR = timedelta(hours=1)
ROWS_PER_FETCH = 100_000


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose series it is: a person, a machine without one, or a person at their desktop."""

    desktop_user_id: int | None
    desktop_id: int | None
    pool_id: int
    country: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class FleetHistory:
    """Hourly activity of n subjects over m hours from `start`; NaN where not observed.

    demand : resource → (n, m), in the unit of its name
    active_ratio : (n, m), share of the hour with a session; 0 in hours without a row once the
        subject's sessions have been seen, as sources report sessions and not their absence
    site : (n, m) index into `sites`, -1 where unknown
    """

    start: datetime
    subjects: tuple[Subject, ...]
    sites: tuple[str, ...]
    demand: dict[str, FloatArray]
    active_ratio: FloatArray
    site: np.ndarray

    @property
    def hours(self) -> int:
        return int(self.active_ratio.shape[1])


def read_history(dataset: Dataset, *, until: datetime, days: int) -> FleetHistory:
    """The last `days` days before `until` (exclusive), for every subject of the data set that
    has a desktop or any activity: a newcomer has a row of NaN."""
    end = until.replace(minute=0, second=0, microsecond=0)
    start = end - timedelta(days=days)
    subjects = _subjects(dataset)
    row_of = _rows(subjects)
    site_ids = list(Site.objects.order_by("code").values_list("pk", "code"))
    site_of = {pk: index for index, (pk, _) in enumerate(site_ids)}
    shape = (len(subjects), days * 24)
    demand = {name: np.full(shape, np.nan) for name in RESOURCES}
    active = np.full(shape, np.nan)
    site = np.full(shape, -1, dtype=np.int32)
    for batch in _batches(dataset, start=start, end=end):
        # Who was imported after the subjects were listed is for the next forecast.
        known = [each for each in batch if each[:2] in row_of]
        if not known:
            continue
        users, desktops, hours, actives, *resources, sites = zip(*known, strict=True)
        at = (
            np.array([row_of[key] for key in zip(users, desktops, strict=True)]),
            np.array(hours, dtype=np.int64),
        )
        active[at] = np.array(actives, dtype=float)
        site[at] = [site_of.get(pk, -1) for pk in sites]
        for name, values in zip(RESOURCES, resources, strict=True):
            demand[name][at] = np.array(values, dtype=float)
    codes = tuple(code for _, code in site_ids)
    return FleetHistory(start, tuple(subjects), codes, demand, _without_gaps(active), site)


def _without_gaps(active_ratio: FloatArray) -> FloatArray:
    has_begun = np.logical_or.accumulate(np.isfinite(active_ratio), axis=1)
    return np.where(has_begun & np.isnan(active_ratio), 0.0, active_ratio)


def _subjects(dataset: Dataset) -> list[Subject]:
    """Everybody who has activity or a desktop; a person's own desktop is theirs, not apart."""
    seen = set(
        Activity.objects.filter(dataset=dataset)
        .order_by()
        .values_list("desktop_user_id", "desktop_id")
        .distinct()
    )
    people = {
        person.pk: person
        for person in DesktopUser.objects.filter(dataset=dataset).select_related("home_site")
    }
    desktops = Desktop.objects.filter(dataset=dataset).in_bulk()
    for desktop in desktops.values():
        seen.add((desktop.desktop_user_id, desktop.pk))
        if desktop.desktop_user_id is not None:
            seen.discard((desktop.desktop_user_id, None))
    known_people = {user for user, _ in seen}
    seen.update((user, None) for user in people if user not in known_people)
    return [_subject(people.get(u), desktops.get(d)) for u, d in sorted(seen, key=_order)]


def _rows(subjects: list[Subject]) -> dict[tuple[int | None, int | None], int]:
    """Which row an observation belongs to; what is known of a person alone is their desktop's."""
    row_of = {(s.desktop_user_id, s.desktop_id): row for row, s in enumerate(subjects)}
    for row, subject in enumerate(subjects):
        if subject.desktop_user_id is not None:
            row_of.setdefault((subject.desktop_user_id, None), row)
    return row_of


def _order(key: tuple[int | None, int | None]) -> tuple[int, int]:
    return key[0] or 0, key[1] or 0


def _subject(person: DesktopUser | None, desktop: Desktop | None) -> Subject:
    owner = person or desktop
    assert owner is not None
    home = person.home_site if person else None
    return Subject(
        desktop_user_id=person.pk if person else None,
        desktop_id=desktop.pk if desktop else None,
        pool_id=owner.pool_id,
        country=home.country if home else "",
        time_zone=person.time_zone if person else "UTC",
    )


def _batches(dataset: Dataset, *, start: datetime, end: datetime):  # type: ignore[no-untyped-def]
    """Rows of (user, desktop, hours since start, active, *RESOURCES, site), streamed."""
    columns = ", ".join(RESOURCES)
    with connection.chunked_cursor() as cursor:
        cursor.execute(
            f"SELECT desktop_user_id, desktop_id,"
            f" (extract(epoch FROM hour - %s) / 3600)::int, active_ratio, {columns}, site_id"
            f" FROM {Activity._meta.db_table}"
            f" WHERE dataset_id = %s AND hour >= %s AND hour < %s",
            [start, dataset.pk, start, end],
        )
        while batch := cursor.fetchmany(ROWS_PER_FETCH):
            yield batch
