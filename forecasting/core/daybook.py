"""Who was where on which day at which hour, the gaps filled from hours that go together.

Somebody seen in the office at ten was there at two as well, but hardly at eight in the evening.
Which hours go together in that way is learned, of everybody from the fleet and the better known of
themselves: it is how much more often two hours of a day are spent at one place than chance has it.
An hour nobody saw is then taken as the hour seen of that day that goes with it best, and counts so
much. So a day is evidence once for each of its hours, however often somebody was seen on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import AnyArray, FloatArray, IntArray

DAY_HOURS, WEEK_DAYS = 24, 7
HOUR_S, DAY_S = 3600, 86_400
MOST_DAYS = 364
# Pairs of hours seen on one day that the fleet's ways count for.
PRIOR_PAIRS = 10.0
# What goes together no more than by chance says nothing; what does a little, little.
SHARPNESS, LEAST_WEIGHT = 2.0, 0.1
# People with a single place say nothing of which hours go together.
LEAST_VARIETY = 0.05
# People that are enough to learn the fleet's ways from.
FLEET_SAMPLE, PEOPLE_AT_ONCE = 1000, 500


@dataclass(frozen=True)
class Daybook:
    """The last days of people numbered from 0, by each person's own clock.

    first_day : number of the first of the days, since 1970
    place : shape (n_users, n_days, 24), which of the person's places; -1 where nothing is known
    weight : the same shape, 1 where they were seen, less where it was filled, in [0, 1]
    togetherness : shape (24, 24), of the fleet, 1 on the diagonal
    """

    first_day: int
    place: AnyArray
    weight: AnyArray
    togetherness: FloatArray

    @classmethod
    def of(
        cls,
        user: IntArray,
        place: IntArray,
        wall_s: FloatArray,
        *,
        n_users: int,
        togetherness: FloatArray | None = None,
    ) -> Daybook:
        """Of sightings in order of person and time, the last of an hour counting.

        place : shape (n,), number among the person's places; wall_s : by the person's clock
        togetherness : of a larger fleet; None to learn it from these people
        """
        hour = (wall_s // HOUR_S).astype(np.int64)
        last_day = int(hour.max()) // DAY_HOURS if len(hour) else 0
        first_day = int(hour.min()) // DAY_HOURS if len(hour) else 0
        first_day = max(first_day, last_day + 1 - MOST_DAYS)
        n_days = last_day + 1 - first_day
        day, hour = hour // DAY_HOURS - first_day, hour % DAY_HOURS
        recent = day >= 0
        seen = _Seen(user[recent], day[recent], hour[recent], place[recent])
        if togetherness is None:
            some = slice(0, min(n_users, FLEET_SAMPLE))
            togetherness = _Together.of(seen.between(some), some.stop).of_fleet()
        filled = np.full((n_users, n_days, DAY_HOURS), -1, dtype=np.int16)
        weight = np.zeros(filled.shape, dtype=np.float32)
        for first in range(0, n_users, PEOPLE_AT_ONCE):
            some = slice(first, min(first + PEOPLE_AT_ONCE, n_users))
            theirs = seen.between(some)
            together = _Together.of(theirs, some.stop - first).of_each(togetherness)
            _fill(theirs, together, filled[some], weight[some])
        return cls(first_day, filled, weight, togetherness)

    @property
    def n_days(self) -> int:
        return int(self.place.shape[1])

    def weekday(self, day: IntArray) -> IntArray:
        """Monday 0; of days counted from the first."""
        return (day + self.first_day + 3) % WEEK_DAYS


@dataclass(frozen=True)
class _Seen:
    """Sightings in order of person and time; shape (n,) each."""

    user: IntArray
    day: IntArray
    hour: IntArray
    place: IntArray

    def between(self, people: slice) -> _Seen:
        """Of some people, numbered from the first of them."""
        first, end = np.searchsorted(self.user, (people.start, people.stop))
        some = slice(first, end)
        user = self.user[some] - people.start
        return _Seen(user, self.day[some], self.hour[some], self.place[some])

    def pairs_of_a_day(self) -> tuple[IntArray, IntArray]:
        """Every two sightings of one person on one day, the earlier and the later."""
        first = np.arange(len(self.user))
        pairs = []
        for apart in range(1, DAY_HOURS):
            first = first[first + apart < len(self.user)]
            second = first + apart
            of_a_day = (self.user[first] == self.user[second]) & (
                self.day[first] == self.day[second]
            )
            # Who has no sighting so much later has none still later.
            first = first[of_a_day]
            if not len(first):
                break
            pairs.append((first, first + apart))
        nothing = np.empty(0, dtype=np.int64)
        earlier, later = zip((nothing, nothing), *pairs, strict=True)
        return np.concatenate(earlier), np.concatenate(later)


@dataclass(frozen=True)
class _Together:
    """How often two hours of a day were spent at one place.

    same, both : shape (n_users, 24, 24), days on which they were, of days seen at both
    chance : shape (n_users,), how often any two sightings of a person are of one place
    """

    same: FloatArray
    both: FloatArray
    chance: FloatArray

    @classmethod
    def of(cls, seen: _Seen, n_users: int) -> _Together:
        first, second = seen.pairs_of_a_day()
        at = (seen.user[first] * DAY_HOURS + seen.hour[first]) * DAY_HOURS + seen.hour[second]
        agree = seen.place[first] == seen.place[second]
        shape = (n_users, DAY_HOURS, DAY_HOURS)
        both, same = (
            np.bincount(each, minlength=n_users * DAY_HOURS**2).reshape(shape).astype(np.float64)
            for each in (at, at[agree])
        )
        both, same = both + both.transpose(0, 2, 1), same + same.transpose(0, 2, 1)
        n_places = int(seen.place.max(initial=0)) + 1
        cell, count = np.unique(seen.user * n_places + seen.place, return_counts=True)
        user = cell // n_places
        total = np.maximum(np.bincount(user, count, n_users), 1)
        chance = np.bincount(user, (count / total[user]) ** 2, n_users).astype(np.float64)
        return cls(same, both, chance)

    def of_fleet(self) -> FloatArray:
        """More than by chance, 1 being always; shape (24, 24)."""
        by_chance = (self.both * self.chance[:, None, None]).sum(axis=0)
        same, both = self.same.sum(axis=0), self.both.sum(axis=0)
        spare = LEAST_VARIETY * both
        room = both - by_chance + spare
        more = (same - by_chance + spare) / np.where(room > 0, room, 1.0)
        result: FloatArray = np.clip(np.where(room > 0, more, 0.0), 0.0, 1.0)
        np.fill_diagonal(result, 1.0)
        return result

    def of_each(self, fleet: FloatArray) -> FloatArray:
        """The same of each person, leaning to the fleet; shape (n_users, 24, 24)."""
        chance = self.chance[:, None, None]
        expected = chance + (1 - chance) * fleet
        agree = (self.same + PRIOR_PAIRS * expected) / (self.both + PRIOR_PAIRS)
        more = (agree - chance + LEAST_VARIETY) / (1 - chance + LEAST_VARIETY)
        result: FloatArray = np.clip(more, 0.0, 1.0) ** SHARPNESS
        result[:, np.arange(DAY_HOURS), np.arange(DAY_HOURS)] = 1.0
        return result


def _fill(seen: _Seen, together: FloatArray, place: AnyArray, weight: AnyArray) -> None:
    """Write every hour as the hour seen of its day that goes with it best, and how well.

    place, weight : shape (n_users, n_days, 24), -1 and 0 so far
    """
    for hour in range(DAY_HOURS):
        some = np.flatnonzero(seen.hour == hour)
        user, day = seen.user[some], seen.day[some]
        offered, before = together[user, hour].astype(np.float32), weight[user, day]
        better = (offered > before) & (offered >= LEAST_WEIGHT)
        place[user, day] = np.where(better, seen.place[some, None], place[user, day])
        weight[user, day] = np.where(better, offered, before)
