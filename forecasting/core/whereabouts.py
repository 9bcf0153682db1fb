"""What is known of where people have been, up to one moment, as arrays.

People and places are numbered; a *pair* is a person and a place that person was seen in. Pairs
of one person lie next to each other, so that everything about a fleet is a handful of flat
arrays. From them come several *guesses* of where a person will be, each a distribution over the
person's own places, and *circumstances*, the numbers by which `gate` weighs the guesses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, tzinfo

import numpy as np

from forecasting.core.analogues import Analogues
from forecasting.core.arrays import FloatArray, IntArray
from forecasting.core.daybook import DAY_HOURS, Daybook
from forecasting.core.timeline import DAY_S, wall_seconds

HOUR_S = 3600
HOURS_PER_WEEK = 168

GUESSES = (
    "stay",
    "return",
    "last days",
    "last weeks",
    "always",
    "hour of week",
    "hour of week lately",
    "usual place of the hour",
    "days like this",
    "elsewhere",
)
STAY, RETURN, DAYS, WEEKS, ALWAYS, HABIT, LATELY, USUAL, LIKE, ELSEWHERE = range(len(GUESSES))
# Hours seen in one place that make it a place to live in.
SETTLED_HOURS = 100.0
# The first two circumstances: always one, and settled where they hardly were before.
CONSTANT, MOVED, N_CIRCUMSTANCES = 0, 1, 28
HALF_LIFE_DAYS = {DAYS: 2.0, WEEKS: 15.0, ALWAYS: 365.0}
HABIT_HALF_LIFE_DAYS = {HABIT: 180.0, LATELY: 10.0}
# A habit to this power leaves hardly anything but the likeliest place.
SHARPNESS = 4.0
# Observations that a coarser habit counts for: all hours for an hour of the day, and that for an
# hour of the week.
BACKOFF = 1.0
# So many days alike are many.
MANY_DAYS = 40.0


@dataclass(frozen=True)
class Clocks:
    """By which wall clock each person lives, as habits follow it.

    of_user : shape (n_users,), index into zones; None where everybody lives by the first
    """

    zones: tuple[tzinfo, ...] = (UTC,)
    of_user: IntArray | None = None

    def wall_s(self, user: IntArray, at_s: FloatArray) -> FloatArray:
        """Seconds since 1970 UTC as each person's clock counts them, shape (n,)."""
        wall_s = at_s
        if self.of_user is None:
            if self.zones[0] is not UTC:
                wall_s = wall_seconds(at_s, self.zones[0])
        else:
            wall_s, zone = at_s.astype(np.float64), self.of_user[user]
            for number in np.unique(zone):
                here = zone == number
                wall_s[here] = wall_seconds(at_s[here], self.zones[number])
        return wall_s


@dataclass(frozen=True)
class Sightings:
    """Who was seen where and when, in order of person and time; one per person and hour.

    user, place : shape (n,), numbers; at_s : shape (n,), seconds since 1970 UTC
    """

    user: IntArray
    place: IntArray
    at_s: FloatArray
    n_users: int
    n_places: int
    clocks: Clocks = Clocks()

    @classmethod
    def of(
        cls,
        user: IntArray,
        place: IntArray,
        at_s: FloatArray,
        *,
        n_users: int,
        n_places: int,
        clocks: Clocks | None = None,
    ) -> Sightings:
        """Sort, and keep the last sighting of each person in each hour."""
        order = np.lexsort((place, at_s, user))
        user, place, at_s = user[order], place[order], at_s[order]
        hour = at_s // HOUR_S
        is_last = np.ones(len(user), dtype=np.bool_)
        is_last[:-1] = (user[1:] != user[:-1]) | (hour[1:] != hour[:-1])
        return cls(
            user[is_last], place[is_last], at_s[is_last], n_users, n_places, clocks or Clocks()
        )

    def of_some(self, most: int) -> Sightings:
        """Of so many people, spread evenly over all who were seen, and numbered anew."""
        people = np.unique(self.user)
        if len(people) > most:
            people = people[np.linspace(0, len(people) - 1, most).astype(np.int64)]
        theirs = np.isin(self.user, people)
        of_user = self.clocks.of_user
        return replace(
            self,
            user=np.searchsorted(people, self.user[theirs]),
            place=self.place[theirs],
            at_s=self.at_s[theirs],
            n_users=len(people),
            clocks=replace(self.clocks, of_user=None if of_user is None else of_user[people]),
        )

    def until(self, moment_s: float) -> Sightings:
        """Only what was seen up to a moment."""
        known = self.at_s <= moment_s
        return replace(self, user=self.user[known], place=self.place[known], at_s=self.at_s[known])


@dataclass(frozen=True)
class Knowledge:
    """What is known at `until_s`.

    Per user, shape (n_users,): first_pair, n_pairs (their slice of the pairs), n_seen, last_s,
        last_pair (-1 for a person never seen), since_s (there since), n_since (seen there since
        then), novelty (how often a sighting is of a new place)
    Per pair, shape (n_pairs,): pair_user, pair_place, share (n_pairs, 3) of the last days, the
        last weeks and always; previous (1 for the place before the last one)
    record : see `_record`; togetherness, analogues : see these
    habits : shape (3, n_pairs, 168), share of the place by hour of the week on the person's wall,
        backed off: over long, lately, and the first sharpened to the likeliest place
    """

    until_s: float
    clocks: Clocks
    first_pair: IntArray
    n_pairs: IntArray
    n_seen: FloatArray
    last_s: FloatArray
    last_pair: IntArray
    since_s: FloatArray
    n_since: FloatArray
    novelty: FloatArray
    pair_user: IntArray
    pair_place: IntArray
    share: FloatArray
    previous: FloatArray
    habits: FloatArray
    record: FloatArray
    togetherness: FloatArray
    analogues: Analogues

    @classmethod
    def of(
        cls, sightings: Sightings, until_s: float, *, togetherness: FloatArray | None = None
    ) -> Knowledge:
        """Everything the guesses need; nothing after `until_s` is looked at.

        togetherness : see `Daybook`; of the fleet, where these are only some of its people
        """
        seen = sightings.until(until_s)
        n_users = seen.n_users
        keys = seen.user * seen.n_places + seen.place
        pairs, first_at, pair = np.unique(keys, return_index=True, return_inverse=True)
        pair_user, pair_place = pairs // seen.n_places, pairs % seen.n_places
        n_pairs = np.bincount(pair_user, minlength=n_users)
        n_seen = np.bincount(seen.user, minlength=n_users)
        ends = np.cumsum(n_seen)
        has_any = n_seen > 0
        last = np.where(has_any, ends - 1, 0)

        arrival = _arrivals(seen, pair)
        last_pair = np.where(has_any, pair[last] if len(pair) else -1, -1)
        last_s = np.where(has_any, seen.at_s[last] if len(pair) else 0.0, -np.inf)
        since_s = np.where(has_any, seen.at_s[arrival[last]] if len(pair) else 0.0, -np.inf)
        before = np.where(has_any, arrival[last] - 1 if len(pair) else -1, -1)
        before = np.where(before >= ends - n_seen, before, -1)
        previous = np.zeros(len(pairs))
        previous[pair[before[before >= 0]]] = 1.0

        age_days = (until_s - seen.at_s) / DAY_S
        share = np.stack(
            [_share(0.5 ** (age_days / half), pair, pair_user) for half in HALF_LIFE_DAYS.values()],
            axis=1,
        )
        is_first = np.zeros(len(pair))
        is_first[first_at] = 1.0
        recent = 0.5 ** (age_days / HALF_LIFE_DAYS[ALWAYS])
        new = np.bincount(seen.user, recent * is_first, n_users)
        novelty = new / np.maximum(np.bincount(seen.user, recent, n_users), 1e-300)
        first_pair = np.cumsum(n_pairs) - n_pairs
        book = Daybook.of(
            seen.user,
            pair - first_pair[seen.user],
            seen.clocks.wall_s(seen.user, seen.at_s),
            n_users=n_users,
            togetherness=togetherness,
        )
        slots = _Slots.of(book, first_pair)
        habits = _habits(slots, until_s / DAY_S - book.first_day, pair_user, share)

        def wall_s_of_each(at_s: FloatArray) -> FloatArray:
            return seen.clocks.wall_s(np.arange(n_users), at_s)

        return cls(
            until_s=until_s,
            clocks=seen.clocks,
            first_pair=first_pair,
            n_pairs=n_pairs,
            n_seen=n_seen.astype(np.float64),
            last_s=last_s,
            last_pair=last_pair,
            since_s=since_s,
            n_since=np.where(has_any, last - arrival[last] + 1.0 if len(pair) else 0.0, 0.0),
            novelty=novelty,
            pair_user=pair_user,
            pair_place=pair_place,
            share=share,
            previous=previous,
            habits=habits,
            record=_record(book, slots, pair_user, share[:, ALWAYS - DAYS], n_users),
            togetherness=book.togetherness,
            analogues=Analogues.of(
                book,
                habits[0],
                pair_user=pair_user,
                pair_place=np.arange(len(pairs)) - first_pair[pair_user],
                last_wall_s=wall_s_of_each(np.where(has_any, last_s, 0.0)),
                last_place=np.where(has_any, last_pair - first_pair, -1),
                until_wall_s=wall_s_of_each(np.full(n_users, until_s)),
            ),
        )

    def rows(self, user: IntArray) -> tuple[IntArray, IntArray]:
        """Every place of every case's person: (case, pair), both shape (n_rows,)."""
        counts = self.n_pairs[user]
        case = np.repeat(np.arange(len(user)), counts)
        start = np.cumsum(counts) - counts
        pair = self.first_pair[user][case] + np.arange(len(case)) - start[case]
        return case, pair

    def guesses(
        self, user: IntArray, at_s: FloatArray, case: IntArray, pair: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """What each guess says of every case, and in which circumstances.

        user, at_s : shape (n_cases,), people who have been seen; case, pair : see `rows`
        Returns the probability each guess gives to each row, shape (n_rows, n_guesses), and what
        tells which guess to trust, shape (n_cases, N_CIRCUMSTANCES), about -1 to 1.
        """
        wall_s = self.clocks.wall_s(user, at_s)
        hour, of_row = hour_of_week(wall_s), user[case]
        guess = np.zeros((len(pair), len(GUESSES)))
        guess[:, STAY] = pair == self.last_pair[of_row]
        guess[:, RETURN] = self.previous[pair]
        # A person only ever seen in one place can return nowhere else.
        guess[:, RETURN] += guess[:, STAY] * (self.n_pairs[of_row] == 1)
        guess[:, DAYS : ALWAYS + 1] = self.share[pair]
        guess[:, HABIT : USUAL + 1] = self.habits[:, pair, hour[case]].T
        lift, days_alike = self.analogues.at(user, wall_s, case, pair)
        like = guess[:, HABIT] * lift
        guess[:, LIKE] = like / np.bincount(case, like, len(user))[case]
        sureness = np.zeros((len(user), 4))
        if len(pair):
            sureness[:, 0] = np.log1p(days_alike) / np.log1p(MANY_DAYS)
            starts = np.flatnonzero(np.diff(case, prepend=-1))
            sureness[:, 1:3] = np.maximum.reduceat(guess[:, [HABIT, LIKE]], starts)
            here = np.flatnonzero(guess[:, STAY])
            sureness[case[here], 3] = guess[here, LIKE]
        return guess, self._circumstances(user, at_s, hour, sureness)

    def _circumstances(
        self, user: IntArray, at_s: FloatArray, hour: IntArray, sureness: FloatArray
    ) -> FloatArray:
        last = np.maximum(self.last_pair[user], 0)
        lead_h = np.maximum(at_s - self.until_s, 0.0) / HOUR_S
        gap_h = np.maximum(at_s - self.last_s[user], 0.0) / HOUR_S
        dwell_h = np.maximum(self.last_s[user] - self.since_s[user], 0.0) / HOUR_S
        gap, dwell = log_hours(gap_h), log_hours(dwell_h)
        # Seen daily in one place for weeks is no ordinary trip, however often trips end.
        settled = 1 - np.exp(-np.maximum(dwell_h / HOURS_PER_WEEK - 1, 0) / 2)
        settled *= np.minimum(self.n_since[user] / SETTLED_HOURS, 1.0)
        here = self.share[last]
        usual = self.habits[0, last, hour]
        seen = np.log1p(self.n_seen[user]) / np.log(1000.0)
        known = [
            np.ones(len(user)),
            settled * (1 - here[:, 2]),
            log_hours(lead_h),
            gap,
            gap**2,
            dwell,
            settled,
            seen,
            self.novelty[user],
            np.log(np.maximum(self.novelty[user], 1e-3)) / np.log(1000.0),
            here[:, 0],
            here[:, 1],
            here[:, 2],
            usual,
            (self.n_pairs[user] == 1).astype(np.float64),
            gap * here[:, 2],
            gap * dwell,
            gap * self.novelty[user],
            gap * here[:, 0],
            *sureness.T,
            *self.record[user].T,
            sureness[:, 0] * usual,
        ]
        assert len(known) == N_CIRCUMSTANCES
        result: FloatArray = np.stack(known, axis=1)
        return result


def hour_of_week(wall_s: FloatArray) -> IntArray:
    """Monday 0:00 being 0; shape (n,)."""
    hour: IntArray = ((wall_s // HOUR_S).astype(np.int64) + 72) % HOURS_PER_WEEK
    return hour


def log_hours(hours: FloatArray) -> FloatArray:
    """Hours on a logarithmic scale on which a week is 1."""
    result: FloatArray = np.log1p(np.minimum(hours, 1e5)) / np.log1p(HOURS_PER_WEEK)
    return result


def _arrivals(seen: Sightings, pair: IntArray) -> IntArray:
    """For each sighting, the sighting at which the person came to that place."""
    came = np.ones(len(pair), dtype=np.bool_)
    came[1:] = pair[1:] != pair[:-1]
    arrival: IntArray = np.maximum.accumulate(np.where(came, np.arange(len(pair)), 0))
    return arrival


def _share(weight: FloatArray, pair: IntArray, pair_user: IntArray) -> FloatArray:
    """Each pair's part of its person's weight, shape (n_pairs,)."""
    # Sightings so old that their weight underflows still say where the person was.
    weight = np.maximum(weight, 1e-200)
    mass = np.bincount(pair, weight, len(pair_user))
    total = np.bincount(pair_user, mass, pair_user[-1] + 1 if len(pair_user) else 0)
    result: FloatArray = mass / total[pair_user]
    return result


@dataclass(frozen=True)
class _Slots:
    """Every hour of a daybook of which something is known; shape (n,) each.

    at : pair and hour of the week as one number; day : of the book
    """

    at: IntArray
    weight: FloatArray
    day: IntArray

    @classmethod
    def of(cls, book: Daybook, first_pair: IntArray) -> _Slots:
        user, day, hour = np.nonzero(book.place >= 0)
        pair = first_pair[user] + book.place[user, day, hour]
        at = pair * HOURS_PER_WEEK + book.weekday(day) * DAY_HOURS + hour
        return cls(at, book.weight[user, day, hour].astype(np.float64), day)

    def count(self, weight: FloatArray, n_pairs: int) -> FloatArray:
        """By pair and hour of the week, shape (n_pairs, 168)."""
        flat = np.bincount(self.at, weight, n_pairs * HOURS_PER_WEEK).astype(np.float64)
        return flat.reshape(n_pairs, HOURS_PER_WEEK)


def _habits(
    slots: _Slots, present_day: float, pair_user: IntArray, share: FloatArray
) -> FloatArray:
    """The habit over long, the habit lately, and the first sharpened; (3, n_pairs, 168)."""
    age_days = present_day - slots.day
    n_pairs = len(pair_user)
    over_long, lately = (
        _habit(
            slots.count(slots.weight * 0.5 ** (age_days / half_life), n_pairs), pair_user, coarse
        )
        for half_life, coarse in zip(
            HABIT_HALF_LIFE_DAYS.values(), (share[:, 2], share[:, 1]), strict=True
        )
    )
    sharp = over_long**SHARPNESS
    return np.stack([over_long, lately, sharp / _by_user(sharp, pair_user)])


def _habit(count: FloatArray, pair_user: IntArray, overall: FloatArray) -> FloatArray:
    """Share of each place by hour of the week, from counts; shape (n_pairs, 168) both.

    Counted by hour of the week, backed off to the hour of the day among working days or the
    weekend, and that to all hours.
    """
    n_pairs = len(pair_user)
    by_day = count.reshape(n_pairs, 7, 24)
    kind = np.stack([by_day[:, :5].sum(axis=1), by_day[:, 5:].sum(axis=1)], axis=1)

    def backed_off(fine: FloatArray, coarse: FloatArray) -> FloatArray:
        return (fine + BACKOFF * coarse) / (_by_user(fine, pair_user) + BACKOFF)

    by_kind = backed_off(kind, np.broadcast_to(overall[:, None, None], kind.shape))
    spread = by_kind[:, [0, 0, 0, 0, 0, 1, 1]].reshape(n_pairs, HOURS_PER_WEEK)
    return backed_off(count, spread)


def _record(
    book: Daybook, slots: _Slots, pair_user: IntArray, overall: FloatArray, n_users: int
) -> FloatArray:
    """How well some simple ideas have done of each person, shape (n_users, 4), in [0, 1].

    The probability (geometric mean over the hours) that the habit of the hour of the week, without
    the day itself, gave to where they were, and the habit of all hours; how often that was where
    they had been the day before, and the week before.
    """
    count = slots.count(slots.weight, len(pair_user))
    total = _by_user(count, pair_user)
    without = (np.maximum(count - 1, 0) + BACKOFF * overall[:, None]) / (
        np.maximum(total - 1, 0) + BACKOFF
    )
    n = np.bincount(pair_user, count.sum(axis=1), n_users)
    known, n = n > 0, np.where(n > 0, n, 1.0)
    habit = np.bincount(pair_user, (count * np.log(without)).sum(axis=1), n_users) / n
    always = np.bincount(pair_user, count.sum(axis=1) * np.log(overall), n_users) / n
    again = []
    for days in (1, 7):
        now, then = book.place[:, days:], book.place[:, :-days]
        both = (now >= 0) & (then >= 0)
        same = (both & (now == then)).sum(axis=(1, 2))
        again.append((same + 1.0) / (both.sum(axis=(1, 2)) + 1.5))
    done = [np.where(known, np.exp(each), 0.0) for each in (habit, always)]
    return np.column_stack([*done, *again])


def _by_user(values: FloatArray, pair_user: IntArray) -> FloatArray:
    """Sum over each person's pairs, given back to each pair; the shape of `values`."""
    if not len(pair_user):
        return values
    starts = np.flatnonzero(np.diff(pair_user, prepend=-1))
    total = np.add.reduceat(values, starts, axis=0)
    counts = np.diff(np.append(starts, len(pair_user)))
    result: FloatArray = np.repeat(total, counts, axis=0)
    return result
