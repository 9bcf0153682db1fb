"""Every hour, what was observed since the newest full forecast is brought into it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from django.conf import settings

from desktops.models import Dataset, Notice
from forecasting.core.activity import LEAVE_SHARE
from forecasting.core.announced import with_trip
from forecasting.core.arrays import AnyArray, FloatArray
from forecasting.core.profiles import HORIZON_HOURS, RESOURCES
from forecasting.core.refresh import (
    Persistence,
    condition,
    learn_memory,
    learn_persistence,
    normal_scores,
    pairs_ahead,
)
from forecasting.errors import InvalidHistory
from forecasting.history import HOUR, Crowd, FleetHistory, Subject, crowds_of, read_history
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.selectors import profiles_of
from forecasting.services.calendars import leave_of, read_notices, trips_of
from forecasting.services.forecasts import settled_hour
from forecasting.services.generations import Clock, running_generation, start_generation
from forecasting.services.profiles import Row

# Hours to learn from: three nights' forecasts and what came of them.
LEARNED_DAYS = 3

Key = tuple[int | None, int | None]


def begin_refresh(*, dataset: Dataset, clock: Clock) -> Generation:
    """Start a refresh of the newest full forecast, or find what is in the making.

    Raises InvalidHistory when there is nothing to refresh.
    """
    if running := running_generation(dataset):
        return running
    base = newest_full(dataset)
    as_of = settled_hour(dataset, clock)
    if base is None or not base.as_of < as_of < base.as_of + HORIZON_HOURS * HOUR:
        raise InvalidHistory(f"{dataset} has no full forecast of the days before {as_of}.")
    return start_generation(
        dataset=dataset,
        kind=Generation.Kind.REFRESH,
        base=base,
        as_of=as_of,
        crowds=crowds_of(dataset, at=as_of, most=settings.FORECAST_CHUNK),
        at=clock(),
    )


def newest_full(dataset: Dataset, *, until: datetime | None = None) -> Generation | None:
    full = dataset.generations.filter(kind=Generation.Kind.FULL, state=Generation.State.COMPLETE)
    return (full.filter(as_of__lte=until) if until else full).first()


def make_refresh(generation: Generation, crowd: Crowd) -> list[Row]:
    """The standing profiles of a crowd, given what was observed since they were made.

    A week ahead stays a week: the hours that the full forecast does not reach are those of the
    week before them in it.
    """
    base = generation.base
    if base is None:
        raise InvalidHistory("The forecast that was to be refreshed is gone.")
    history = read_history(
        generation.dataset, until=generation.as_of, days=LEARNED_DAYS, crowd=crowd
    )
    told = _told(base, crowd, history)
    standing = told[0]
    if not standing.rows:
        return []
    gone = int((generation.as_of - base.as_of) / HOUR)
    hours = (gone + np.arange(HORIZON_HOURS)) % HORIZON_HOURS
    demand = {name: _demand(name, told, hours) for name in RESOURCES}
    active = _activity(told, hours)
    announced = _announced_since(base, generation)
    absent = leave_of(standing.subjects, generation.as_of, HORIZON_HOURS, announced)
    if absent is not None:
        active = np.where(absent, active * LEAVE_SHARE, active)
    travel = _trips_by_person(standing.subjects, announced)
    places = _Whereabouts.learn(told)
    return [
        Row(
            subject=standing.subjects[i],
            starts_at=generation.as_of,
            levels=tuple(row.levels),
            engine=row.engine,
            is_from_pool=row.is_from_pool,
            history_hours=row.history_hours,
            p_active=None if row.p_active is None else active[i],
            demand={name: demand[name][i] for name in RESOURCES if getattr(row, name) is not None},
            location=_with_trips(
                places.of(standing, i, hours),
                generation.as_of,
                travel.get(row.desktop_user_id or 0, []),
            ),
            engines=row.engines,
        )
        for i, row in enumerate(standing.rows)
    ]


def _announced_since(base: Generation, generation: Generation) -> list[Notice]:
    """Of the hours ahead, what the full forecast had not heard of.

    What was taken back, and what closes a pool or a site, waits for the next full one.
    """
    notices = read_notices(
        generation.dataset,
        start=generation.as_of,
        hours=HORIZON_HOURS,
        known_at=generation.started_at,
    )
    return [notice for notice in notices if notice.received_at > base.started_at]


def _trips_by_person(
    subjects: Sequence[Subject], notices: Sequence[Notice]
) -> Mapping[int, Sequence[tuple[str, datetime, datetime]]]:
    """Place, beginning and end of each person's announced trips."""
    trips = trips_of(subjects, notices)
    result: dict[int, list[tuple[str, datetime, datetime]]] = defaultdict(list)
    if trips is not None:
        for user, place, start_s, end_s in zip(
            trips.user.tolist(), trips.place, trips.start_s, trips.end_s, strict=True
        ):
            start, end = (datetime.fromtimestamp(moment_s, UTC) for moment_s in (start_s, end_s))
            result[user].append((place, start, end))
    return result


def _with_trips(
    location: dict[str, AnyArray],
    starts_at: datetime,
    trips: Sequence[tuple[str, datetime, datetime]],
) -> dict[str, AnyArray]:
    if location:
        for place, start, end in trips:
            location = with_trip(location, starts_at=starts_at, place=place, start=start, end=end)
    return location


@dataclass(frozen=True, slots=True)
class Told:
    """What a full forecast told of a crowd, and what was observed while it was the newest.

    rows : profiles; subjects : whose they are now, in the same order
    first : hour of the profiles that is the first of the arrays
    demand : resource → (n, hours), given a session, NaN where not observed
    active : (n, hours), 1 with a session, 0 without, NaN where not known
    site : (n, hours) index into `sites`, -1 where unknown
    """

    rows: Sequence[ResourceDemandProfile]
    subjects: Sequence[Subject]
    first: int
    demand: Mapping[str, FloatArray]
    active: FloatArray
    site: AnyArray
    sites: tuple[str, ...]

    @property
    def levels(self) -> FloatArray:
        return np.array(self.rows[0].levels, dtype=np.float64)

    @property
    def span(self) -> slice:
        """The hours of the profiles that the arrays are of."""
        return slice(self.first, self.first + self.active.shape[1])

    def quantiles(self, name: str) -> AnyArray:
        """Shape (n, HORIZON_HOURS, n_levels), single precision, NaN where nothing was told."""
        nothing = np.full((HORIZON_HOURS, len(self.levels)), np.nan, dtype=np.float32)
        stored = [getattr(row, name) for row in self.rows]
        return np.stack([nothing if values is None else values for values in stored])

    def chances(self) -> AnyArray:
        """Probability of a session, shape (n, HORIZON_HOURS), NaN where nothing was told."""
        nothing = np.full(HORIZON_HOURS, np.nan, dtype=np.float32)
        stored = [row.p_active for row in self.rows]
        return np.stack([nothing if values is None else values for values in stored])


def _told(base: Generation, crowd: Crowd, history: FleetHistory) -> list[Told]:
    """The forecast that stands, then those that stood before it in the hours that were read."""
    before = base.dataset.generations.filter(
        kind=Generation.Kind.FULL,
        state=Generation.State.COMPLETE,
        as_of__gte=history.start,
        as_of__lt=base.as_of,
    )
    newest_first = [base, *before]
    ends = [history.start + history.hours * HOUR, *(each.as_of for each in newest_first)]
    told = [
        _what_was_told(each, crowd, history, until=end)
        for each, end in zip(newest_first, ends, strict=False)
    ]
    return [told[0], *(each for each in told[1:] if each.rows)]


def _key(of: Subject | ResourceDemandProfile) -> Key:
    """A person is the same whichever desktop is theirs by now."""
    return of.desktop_user_id, None if of.desktop_user_id else of.desktop_id


def _what_was_told(
    generation: Generation, crowd: Crowd, history: FleetHistory, *, until: datetime
) -> Told:
    row_of = {_key(each): row for row, each in enumerate(history.subjects)}
    found = [
        (profile, row_of[_key(profile)])
        for profile in profiles_of(generation, crowd)
        if _key(profile) in row_of
    ]
    at = np.array([row for _, row in found], dtype=np.int64)
    begins = max(generation.as_of, history.start)
    hours = slice(int((begins - history.start) / HOUR), int((until - history.start) / HOUR))
    ratio = history.active_ratio[at, hours].astype(np.float64)
    return Told(
        rows=[profile for profile, _ in found],
        subjects=[history.subjects[row] for row in at],
        first=int((begins - generation.as_of) / HOUR),
        demand={name: history.given_session(name)[at, hours] for name in RESOURCES},
        active=np.where(np.isfinite(ratio), ratio > 0, np.nan),
        site=history.site[at, hours],
        sites=history.sites,
    )


def _demand(name: str, told: Sequence[Told], hours: AnyArray) -> AnyArray:
    """The standing quantiles of the hours ahead, moved to where the last hours say."""
    scores = [
        normal_scores(each.demand[name], each.quantiles(name)[:, each.span], levels=each.levels)
        for each in told
    ]
    standing = told[0]
    return condition(
        standing.quantiles(name)[:, hours],
        scores[0],
        levels=standing.levels,
        memory=learn_memory(scores),
    )


def _activity(told: Sequence[Told], hours: AnyArray) -> AnyArray:
    """The standing probability of a session, mixed with going on as in the last hour."""
    standing = told[0]
    chance = standing.chances()[:, hours]
    now = standing.active[:, -1]
    ahead = np.arange(1, HORIZON_HOURS + 1)
    for state in (0.0, 1.0):
        here = np.flatnonzero(now == state)
        weight = _going_on(told, state).at(ahead)
        chance[here] = weight * state + (1 - weight) * chance[here]
    return chance


def _going_on(told: Sequence[Told], state: float) -> Persistence:
    """How much sessions, or their absence, go on."""
    cases = []
    for each in told:
        chance = each.chances()[:, each.span].astype(np.float64)
        of_what_was = np.where(each.active > 0, chance, 1 - chance)
        seen = np.where(np.isfinite(chance), each.active, np.nan)
        lead, same, likely, first = pairs_ahead(seen, of_what_was)
        cases.append((lead[first == state], same[first == state], likely[first == state]))
    return learn_persistence(*(np.concatenate(parts) for parts in zip(*cases, strict=True)))


def learn_staying(base: Generation, crowd: Crowd, *, until: datetime) -> Persistence:
    """How much people stay where they were last seen, beyond what full forecasts had said."""
    history = read_history(base.dataset, until=until, days=LEARNED_DAYS, crowd=crowd)
    return _Whereabouts.learn(_told(base, crowd, history)).staying


@dataclass(frozen=True, slots=True)
class _Whereabouts:
    """How much people stay where they were last seen."""

    staying: Persistence

    @classmethod
    def learn(cls, told: Sequence[Told]) -> _Whereabouts:
        cases = [pairs_ahead(each.site, _chance_of_site(each))[:3] for each in told]
        return cls(
            learn_persistence(*(np.concatenate(parts) for parts in zip(*cases, strict=True)))
        )

    def of(self, standing: Told, i: int, hours: AnyArray) -> dict[str, AnyArray]:
        """The standing map of one subject for the hours ahead, given where they were last seen."""
        there = {place: chance[hours] for place, chance in standing.rows[i].location.items()}
        seen = np.flatnonzero(standing.site[i] >= 0)
        if not there or not len(seen):
            return there
        ago = standing.site.shape[1] - 1 - seen[-1]
        weight = self.staying.at(ago + np.arange(1, HORIZON_HOURS + 1)).astype(np.float32)
        there = {place: (1 - weight) * chance for place, chance in there.items()}
        place = standing.sites[standing.site[i, seen[-1]]]
        there[place] = there.get(place, np.float32(0)) + weight
        return there


def _chance_of_site(told: Told) -> FloatArray:
    """What the forecast gave to the place where somebody was then seen, shape (n, hours)."""
    chance = np.zeros(told.site.shape)
    for i, hour in zip(*np.nonzero(told.site >= 0), strict=True):
        place = told.rows[i].location.get(told.sites[told.site[i, hour]])
        if place is not None:
            chance[i, hour] = place[told.first + hour]
    return chance
