"""Somebody is where their forecast did not expect them: their map follows within seconds.

The hourly refresh would come to the same; who has just arrived somewhere is not to wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.core.cache import cache
from django.db import connection, transaction
from django.db.models import F, Q

from desktops import events
from desktops.models import Dataset, DesktopUser, Sighting
from desktops.services.retention import alone
from forecasting.core.arrays import AnyArray
from forecasting.core.profiles import HORIZON_HOURS
from forecasting.core.refresh import LEADS_H, Persistence
from forecasting.fields import pack_places
from forecasting.history import HOUR, Crowd
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.selectors import latest_generation
from forecasting.services.generations import Clock
from forecasting.services.refreshing import learn_staying

TABLE = ResourceDemandProfile._meta.db_table
LOCK = 0x666F7268
# What was given less is a surprise: of what is given one in ten, one in ten should come.
SURPRISE = 0.1
AT_ONCE = 500
# People from whom it is learned how long one stays; more add time, not knowledge.
LEARNED_FROM = 300
LEARNED_FOR_S = 3600
# Before there is anything to learn from: after a working day, one in two has gone.
HALF_GONE_H = 8.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A profile of somebody who was seen since its map was last looked at."""

    profile_id: int
    pool_id: int
    starts_at: datetime
    location: dict[str, AnyArray]
    site: str
    at: datetime

    @property
    def hour(self) -> int:
        return int((self.at - self.starts_at) / HOUR)

    @property
    def is_surprise(self) -> bool:
        given = self.location.get(self.site)
        return bool(self.location) and (given is None or given[self.hour] < SURPRISE)

    def packed_given(self, staying: Persistence) -> bytes:
        return pack_places(map_given(self.location, self.site, self.hour, staying))


def heed_sightings(*, clock: Clock) -> int:
    """Hold the standing maps against where people were just seen; returns how many changed."""
    with alone(LOCK) as is_ours:  # two at once would both mix
        if not is_ours:
            return 0
        datasets = Dataset.objects.filter(pk__in=Sighting.objects.values("desktop_user__dataset"))
        return sum(
            _heed(generation, clock=clock)
            for generation in map(latest_generation, datasets.order_by("pk"))
            if generation is not None
        )


def _heed(generation: Generation, *, clock: Clock) -> int:
    changed = last = 0
    while seen := _newly_seen(generation, after=last):
        last = seen[-1].profile_id
        surprised = [each for each in seen if each.is_surprise]
        staying = _staying(generation) if surprised else None
        with transaction.atomic():
            if staying is not None:
                changed += _move(generation, surprised, staying, at=clock())
            _note([each.profile_id for each in seen], [each.at for each in seen])
    return changed


def _newly_seen(generation: Generation, *, after: int) -> list[_Seen]:
    sighting = "desktop_user__sighting__"
    rows = (
        ResourceDemandProfile.objects.filter(
            Q(seen_at=None) | Q(seen_at__lt=F(sighting + "at")),
            generation=generation,
            pk__gt=after,
            desktop_user__is_located=True,
            desktop_user__is_predicted=True,
            **{
                sighting + "site__isnull": False,
                sighting + "at__gte": F("starts_at"),
                sighting + "at__lt": F("starts_at") + timedelta(hours=HORIZON_HOURS),
            },
        )
        .order_by("pk")
        .values_list(
            "pk", "pool_id", "starts_at", "location", sighting + "site__code", sighting + "at"
        )
    )
    return [_Seen(*row) for row in rows[:AT_ONCE]]


def _move(
    generation: Generation, surprised: Sequence[_Seen], staying: Persistence, *, at: datetime
) -> int:
    """Write new maps; of those who have not opted out since they were read."""
    profiles = ResourceDemandProfile.objects.filter(pk__in=[s.profile_id for s in surprised])
    people = dict(profiles.values_list("pk", "desktop_user_id"))
    # Who opts out from now on waits for this transaction, and finds the map.
    located = DesktopUser.objects.select_for_update(of=("self",), no_key=True).order_by("pk")
    located = located.filter(pk__in=people.values(), is_located=True, is_predicted=True)
    still = set(located.values_list("pk", flat=True))
    moved = [each for each in surprised if people.get(each.profile_id) in still]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {TABLE} profile SET location = new.location"
            " FROM unnest(%s::bigint[], %s::bytea[]) AS new (id, location)"
            " WHERE profile.id = new.id",
            [
                [each.profile_id for each in moved],
                [
                    pack_places(map_given(each.location, each.site, each.hour, staying))
                    for each in moved
                ],
            ],
        )
    # Last, as an event holds a lock until the commit.
    for pool_id, people_moved in sorted(Counter(each.pool_id for each in moved).items()):
        events.record(
            kind="forecast.contradicted",
            subject=generation,
            at=at,
            pool_id=pool_id,
            people=people_moved,
        )
    return len(moved)


def map_given(
    location: dict[str, AnyArray], site: str, hour: int, staying: Persistence
) -> dict[str, AnyArray]:
    """A map, given that somebody is at a site in one of its hours: mixed with staying there.

    location : place → probability by hour, summing to 1; hours that are over stay as they were
    """
    ahead = np.arange(HORIZON_HOURS) - hour
    weight = np.where(ahead >= 0, staying.at(np.maximum(ahead, 0)), 0.0).astype(np.float32)
    result = {place: (1 - weight) * chance for place, chance in location.items()}
    result[site] = result.get(site, np.float32(0)) + weight
    return result


def _note(profile_ids: Sequence[int], seen_at: Sequence[datetime]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {TABLE} profile SET seen_at = new.seen_at"
            " FROM unnest(%s::bigint[], %s::timestamptz[]) AS new (id, seen_at)"
            " WHERE profile.id = new.id",
            [list(profile_ids), list(seen_at)],
        )


def _staying(generation: Generation) -> Persistence:
    """How much people of the data set stay where they were seen, as refreshes learn it."""
    weights = cache.get_or_set(
        f"forecasting.staying.{generation.pk}", lambda: _learned(generation), LEARNED_FOR_S
    )
    return Persistence(np.array(weights))


def _learned(generation: Generation) -> list[float]:
    base = generation.base or generation
    weights = np.zeros(len(LEADS_H))
    if base.kind == Generation.Kind.FULL:
        people = base.profiles.filter(desktop_user__isnull=False).order_by("pk")
        keys = list(people.values_list("desktop_user", "desktop"))
        step = max(len(keys) // LEARNED_FROM, 1)
        some = keys[::step]
        crowd = Crowd("UTC", [person for person, _ in some], [d for _, d in some if d])
        weights = learn_staying(base, crowd, until=generation.as_of).weights
    unknown = 0.5 ** (LEADS_H / HALF_GONE_H)
    return list(weights if weights.any() else unknown)
