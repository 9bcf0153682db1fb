"""A data set's hourly activity as arrays: one query, one pass, whatever the size of the fleet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from django.db import connection
from django.db.models import Max, QuerySet

from desktops.core.zones import zone_named
from desktops.models import Activity, Dataset, Desktop, DesktopUser, Site
from forecasting.core.arrays import FloatArray
from forecasting.core.profiles import HORIZON_HOURS, RESOURCES

HOUR = timedelta(hours=1)
# The longest history anything learns from: a network's.
CLOCK_DAYS = 70
BLOCKS_AT_ONCE = 1000  # of the table's, some 80,000 rows
# Column → what numpy calls it and what stands for nothing, in the order in which they are asked.
COLUMNS = {
    "desktop_user_id": (">i8", "0"),
    "desktop_id": (">i8", "0"),
    "hour": (">i8", ""),
    "site_id": (">i8", "0"),
    "active_ratio": (">f4", "'NaN'"),
    **dict.fromkeys(RESOURCES, (">f4", "'NaN'")),
}
ARRAY_HEADER_BYTES = 20
# A timestamp as PostgreSQL keeps it: microseconds since 2000.
EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000


Columns = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose series it is: a person, with the desktop they have now, or a machine without one.

    A person is one series wherever they work: demand is in cores and bytes, not in shares of what
    somebody happens to have, so that a resize, a move or a new desktop does not change it.
    """

    desktop_user_id: int | None
    desktop_id: int | None
    pool_id: int
    country: str
    time_zone: str
    is_located: bool = True


@dataclass(frozen=True, slots=True)
class Crowd:
    """Part of a data set: people with their desktops, and machines without a person; by keys."""

    time_zone: str
    people: Sequence[int]
    desktops: Sequence[int]
    n_subjects: int = 0


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

    def given_session(self, resource: str) -> FloatArray:
        """Demand in the hours that count, as doubles, NaN in the others; shape (n, m)."""
        active = self.active_ratio
        unobserved = ~np.isfinite(active).any(axis=1, keepdims=True)
        demand: FloatArray = self.demand[resource].astype(np.float64)
        demand[~((active > 0) | unobserved)] = np.nan
        return demand


def crowds_of(dataset: Dataset, *, at: datetime, most: int) -> list[Crowd]:
    """Everybody of a data set, once, in crowds of `most` subjects or fewer and similar size.

    A crowd lives by one clock, as rhythms follow the wall clock: zones whose clocks agreed in the
    weeks before `at`, and go on to, are one. A pool is kept together where it fits, as its members
    lend each other what one of them lacks.
    """
    people, desktops = _known(dataset)
    by_clock: dict[tuple[timedelta | None, ...], list[Subject]] = defaultdict(list)
    for subject in _subjects(people, desktops):
        by_clock[_clock(subject.time_zone, at)].append(subject)
    crowds = []
    for subjects in sorted(by_clock.values(), key=lambda each: min(s.time_zone for s in each)):
        zone = min(s.time_zone for s in subjects)
        subjects.sort(key=lambda s: (s.pool_id, s.desktop_user_id or 0, s.desktop_id or 0))
        count = -(-len(subjects) // most)
        for part in np.array_split(np.arange(len(subjects)), count):
            some = [subjects[row] for row in part]
            crowds.append(
                Crowd(
                    zone,
                    [s.desktop_user_id for s in some if s.desktop_user_id],
                    [s.desktop_id for s in some if s.desktop_id],
                    len(some),
                )
            )
    return crowds


def subjects_of(dataset: Dataset) -> list[Subject]:
    """Everybody of a data set, once."""
    return _subjects(*_known(dataset))


@lru_cache(maxsize=1024)
def _clock(zone: str, at: datetime) -> tuple[timedelta | None, ...]:
    """By how much clocks there differ from UTC, every day a forecast learns from or speaks of."""
    there = zone_named(zone)
    days = range(-CLOCK_DAYS, HORIZON_HOURS // 24 + 2)
    return tuple((at + timedelta(days=day)).astimezone(there).utcoffset() for day in days)


def read_history(
    dataset: Dataset, *, until: datetime, days: int, crowd: Crowd | None = None
) -> FleetHistory:
    """The last `days` days before `until` (exclusive), for every person and desktop of the data
    set (or of a crowd): a newcomer has a row of NaN.

    Memory: 26 bytes an hour and subject, 0.35 GB for eight weeks of 10,000 people.
    """
    end = until.replace(minute=0, second=0, microsecond=0)
    start = end - timedelta(days=days)
    people, desktops = _known(dataset, crowd)
    subjects = _subjects(people, desktops)
    site_ids = list(Site.objects.order_by("code").values_list("pk", "code"))
    site_of = {pk: index for index, (pk, _) in enumerate(site_ids)}
    arrays = _Arrays(subjects, start, days * 24, site_of)
    strangers = [arrays.fill(part) for part in _copied(dataset, crowd, start=start, end=end)]
    if strangers := [part for part in strangers if len(part["hour"])]:
        others = {name: np.concatenate([part[name] for part in strangers]) for name in COLUMNS}
        # Whoever had another desktop before, or sits at somebody else's, is the same person.
        others = arrays.fill_gaps(others)
        # A desktop before it was anybody's: a series of its own.
        pairs = sorted(
            set(zip(others["desktop_user_id"].tolist(), others["desktop_id"].tolist(), strict=True))
        )
        desktops |= _desktops(dataset).in_bulk({desktop for _, desktop in pairs} - set(desktops))
        more = [
            _subject(people.get(user), desktops.get(desktop))
            for user, desktop in pairs
            if _is_known(user, desktop, people, desktops)
        ]
        subjects += more
        arrays.add(more)
        arrays.fill(others)
    codes = tuple(code for _, code in site_ids)
    active = _without_gaps(arrays.active_ratio, _hours_told(dataset, start, end))
    return FleetHistory(start, tuple(subjects), codes, arrays.demand, active, arrays.site)


@dataclass(frozen=True, slots=True)
class Sightings:
    """Who was seen where, in no particular order; shape (n,) each.

    user : primary keys; at_s : beginning of the hour, seconds since 1970 UTC; site : codes
    """

    user: np.ndarray
    at_s: np.ndarray
    site: np.ndarray


def read_sightings(dataset: Dataset, *, until: datetime, days: int) -> Sightings:
    """Of everybody in the data set who may be located, in the last `days` days before `until`."""
    codes = dict(Site.objects.values_list("pk", "code"))
    located = DesktopUser.objects.filter(dataset=dataset, is_predicted=True, is_located=True)
    may_be_located = np.array(list(located.values_list("pk", flat=True)), dtype=np.int64)
    parts = [
        {name: values.astype(np.int64) for name, values in part.items()}
        for part in _copied(
            dataset,
            None,
            start=until - timedelta(days=days),
            end=until,
            columns=("desktop_user_id", "hour", "site_id"),
            only="AND desktop_user_id IS NOT NULL AND site_id IS NOT NULL",
        )
    ]
    user, hour, site = (
        np.concatenate([np.empty(0, dtype=np.int64), *(part[name] for part in parts)])
        for name in ("desktop_user_id", "hour", "site_id")
    )
    known = np.isin(user, may_be_located)
    labels, number = np.unique(site[known], return_inverse=True)
    names = np.array([codes.get(pk, "") for pk in labels.tolist()], dtype=object)
    return Sightings(user[known], _unix_s(hour[known]), names[number])


def sightings_in(history: FleetHistory) -> Sightings:
    """The same of the people of a history that was read already."""
    who = np.array([s.desktop_user_id or 0 for s in history.subjects], dtype=np.int64)
    is_located = np.array([s.is_located for s in history.subjects], dtype=bool)
    row, hour = np.nonzero((history.site >= 0) & ((who > 0) & is_located)[:, None])
    names = np.array(history.sites, dtype=object)
    return Sightings(
        who[row], history.start.timestamp() + 3600.0 * hour, names[history.site[row, hour]]
    )


def _unix_s(since_2000_us: np.ndarray) -> np.ndarray:
    return since_2000_us / 1e6 + EPOCH_2000.timestamp()


class _Arrays:
    """The arrays of a FleetHistory while they are filled."""

    def __init__(
        self, subjects: list[Subject], start: datetime, hours: int, site_of: dict[int, int]
    ) -> None:
        self._start_us = (start - EPOCH_2000) // timedelta(microseconds=1)
        self._hours = hours
        self._site_of = _Lookup(site_of)
        self._row_of: dict[int, int] = {}
        self._demand = self._nothing(len(RESOURCES), 0)
        self.active_ratio = self._nothing(0)
        self.site = np.empty((0, hours), dtype=np.int16)
        self.add(subjects)

    def _nothing(self, *shape: int) -> np.ndarray:
        return np.full((*shape, self._hours), np.nan, dtype=np.float32)

    @property
    def demand(self) -> dict[str, np.ndarray]:
        """One block of memory, seen by resource."""
        return dict(zip(RESOURCES, self._demand, strict=True))

    def add(self, subjects: list[Subject]) -> None:
        n, first = len(subjects), len(self.site)
        for row, subject in enumerate(subjects, start=first):
            user, desktop = subject.desktop_user_id or 0, subject.desktop_id or 0
            self._row_of[_pair(user, desktop)] = row
            if user:
                # What is known of a person alone is their desktop's.
                self._row_of.setdefault(_pair(user, 0), row)
        self._rows = _Lookup(self._row_of)
        nothing = self._nothing(len(RESOURCES), n)
        self._demand = np.concatenate((self._demand, nothing), axis=1)
        self.active_ratio = np.concatenate((self.active_ratio, self._nothing(n)))
        unknown = np.full((n, self._hours), -1, dtype=np.int16)
        self.site = np.concatenate((self.site, unknown))

    def fill(self, part: Columns) -> Columns:
        """Returns what is of subjects that are not among ours."""
        row = self._rows[_pair(part["desktop_user_id"].astype(np.int64), part["desktop_id"])]
        known = row >= 0
        mine = part if known.all() else {name: values[known] for name, values in part.items()}
        self._put(mine, self._at(mine, row[known]))
        return {name: values[~known] for name, values in part.items()}

    def fill_gaps(self, part: Columns) -> Columns:
        """What people did elsewhere than at their desktop, in hours of which nothing is known
        there. Returns what is of nobody we know."""
        user = part["desktop_user_id"].astype(np.int64)
        row = self._rows[_pair(user, 0)]
        known = (row >= 0) & (user > 0)
        theirs = {name: values[known] for name, values in part.items()}
        at = self._at(theirs, row[known])
        arrays = (self.active_ratio, *self.demand.values())
        is_gap = np.isnan([values.reshape(-1)[at] for values in arrays]).all(axis=0)
        is_gap &= self.site.reshape(-1)[at] < 0
        self._put({name: values[is_gap] for name, values in theirs.items()}, at[is_gap])
        return {name: values[~known] for name, values in part.items()}

    def _at(self, part: Columns, row: np.ndarray) -> np.ndarray:
        hour = (part["hour"].astype(np.int64) - self._start_us) // HOUR_US
        return row * self._hours + hour

    def _put(self, mine: Columns, at: np.ndarray) -> None:
        self.active_ratio.reshape(-1)[at] = mine["active_ratio"]
        if mine["site_id"].any():
            self.site.reshape(-1)[at] = self._site_of[mine["site_id"]]
        for name, values in self.demand.items():
            values.reshape(-1)[at] = mine[name]


def _pair(user: Any, desktop: Any) -> Any:
    """The ids of a person and a desktop (0 for none) as one number; ids or arrays of them."""
    return user * 2**31 + desktop


class _Lookup:
    """Whole arrays of keys to values; -1 for a key that is not there."""

    def __init__(self, values: dict[int, int]) -> None:
        self._keys = np.array(sorted(values), dtype=np.int64)
        self._values = np.array([values[key] for key in self._keys.tolist()], dtype=np.int64)

    def __getitem__(self, keys: np.ndarray) -> np.ndarray:
        if not len(self._keys):
            return np.full(len(keys), -1)
        keys = keys.astype(np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._values[at], -1)


def _hours_told(dataset: Dataset, start: datetime, end: datetime) -> int:
    """Hours from the start up to the newest of which anything was told, of anybody."""
    newest = Activity.objects.filter(dataset=dataset, hour__gte=start, hour__lt=end).aggregate(
        newest=Max("hour")
    )["newest"]
    return 0 if newest is None else int((newest - start) / timedelta(hours=1)) + 1


def _without_gaps(active_ratio: FloatArray, hours_told: int) -> FloatArray:
    """With 0 for hours in which somebody was not at work; NaN for those that are still to come in,
    and for those before somebody was first seen."""
    has_begun = np.logical_or.accumulate(np.isfinite(active_ratio), axis=1)
    has_begun[:, hours_told:] = False
    return np.where(has_begun & np.isnan(active_ratio), 0.0, active_ratio)


def _known(
    dataset: Dataset, crowd: Crowd | None = None
) -> tuple[dict[int, DesktopUser], dict[int, Desktop]]:
    """Without those who opted out, and without their desktops: that would be them, too."""
    people = DesktopUser.objects.filter(dataset=dataset, is_predicted=True)
    # What a Subject is made of, and no more: there are tens of thousands.
    people = people.select_related("home_site").only(
        "pool_id", "time_zone", "is_located", "home_site__country"
    )
    if crowd is None:
        return people.in_bulk(), _desktops(dataset).in_bulk()
    return people.in_bulk(crowd.people), _desktops(dataset).in_bulk(crowd.desktops)


def _desktops(dataset: Dataset) -> QuerySet[Desktop]:
    desktops = Desktop.objects.filter(dataset=dataset).exclude(desktop_user__is_predicted=False)
    return desktops.only("desktop_user_id", "pool_id")


def _subjects(people: dict[int, DesktopUser], desktops: dict[int, Desktop]) -> list[Subject]:
    """Everybody once; a person's own desktop is theirs, not apart."""
    pairs = {
        (desktop.desktop_user_id or 0, desktop.pk)
        for desktop in desktops.values()
        if desktop.desktop_user_id is None or desktop.desktop_user_id in people
    }
    at_a_desktop = {user for user, _ in pairs}
    pairs.update((user, 0) for user in people if user not in at_a_desktop)
    return [_subject(people.get(u), desktops.get(d)) for u, d in sorted(pairs)]


def _is_known(
    user: int, desktop: int, people: dict[int, DesktopUser], desktops: dict[int, Desktop]
) -> bool:
    """Whether both were there when they were listed; newer ones are for the next forecast."""
    return (not user or user in people) and (not desktop or desktop in desktops)


def _subject(person: DesktopUser | None, desktop: Desktop | None) -> Subject:
    owner = person or desktop
    assert owner is not None
    home = person.home_site if person else None
    return Subject(
        desktop_user_id=person.pk if person else None,
        desktop_id=desktop.pk if desktop else None,
        pool_id=owner.pool_id,
        country=home.country if home else "",
        time_zone=zone_named(person.time_zone).key if person else "UTC",
        is_located=person.is_located if person else True,
    )


# One pass over the table, in the order in which it lies there, whoever wrote it in which order; a
# stretch of blocks becomes one row of arrays, as a message for every row is what takes long.
READ = """
COPY (
    SELECT part.*
    FROM generate_series(
        0, pg_relation_size('{table}') / current_setting('block_size')::int, {blocks}
    ) block,
    LATERAL (
        SELECT {arrays} FROM {table}
        WHERE ctid >= format('(%%s,0)', block)::tid
            AND ctid < format('(%%s,0)', block + {blocks})::tid
            AND dataset_id = %s AND hour >= %s AND hour < %s {of}
    ) part
) TO STDOUT (FORMAT binary)
"""
# Not "= ANY": the planner would ask the index for each of thousands of keys in every stretch.
OF_CROWD = """
AND (
    desktop_user_id IN (SELECT unnest(%s::bigint[]))
    OR desktop_user_id IS NULL AND desktop_id IN (SELECT unnest(%s::bigint[]))
)
"""


# The same for a few hours: the index knows where they lie, and an hour becomes one row.
READ_RECENT = """
COPY (
    SELECT {arrays} FROM {table}
    WHERE dataset_id = %s AND hour >= %s AND hour < %s {of}
    GROUP BY hour
) TO STDOUT (FORMAT binary)
"""
RECENT = timedelta(days=4)


def _copied(
    dataset: Dataset,
    crowd: Crowd | None,
    *,
    start: datetime,
    end: datetime,
    columns: Sequence[str] = tuple(COLUMNS),
    only: str = "",
) -> Iterator[Columns]:
    """The activity as arrays by column, ids 0 for nobody and NaN where not observed."""
    arrays = (
        f"array_agg(coalesce({name}, {nothing}))" if nothing else f"array_agg({name})"
        for name, (_, nothing) in ((name, COLUMNS[name]) for name in columns)
    )
    statement = (READ_RECENT if end - start <= RECENT else READ).format(
        table=Activity._meta.db_table,
        blocks=BLOCKS_AT_ONCE,
        arrays=", ".join(arrays),
        of=only + (OF_CROWD if crowd else ""),
    )
    keys = [list(crowd.people), list(crowd.desktops)] if crowd else []
    with connection.cursor() as cursor:
        statement = cursor.mogrify(statement, [dataset.pk, start, end, *keys])
        with cursor.copy(statement) as copy:
            for row in copy.rows():
                if row[0] is not None:
                    yield {
                        name: _array(name, data) for name, data in zip(columns, row, strict=True)
                    }


def _array(name: str, data: bytes) -> np.ndarray:
    """PostgreSQL's array without NULLs: every element has its size before it.

    Source: array_send in PostgreSQL's source.
    """
    element = np.dtype([("size", ">i4"), ("value", COLUMNS[name][0])])
    return np.frombuffer(data, element, offset=ARRAY_HEADER_BYTES)["value"]
