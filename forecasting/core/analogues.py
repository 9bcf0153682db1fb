"""Days like this one: where a person was later, on earlier days on which they were where they are.

Habit says where somebody is on Tuesdays at ten; it does not know that today they went to the plant.
What followed on other days at the plant does. The two are joined as evidence is: the habit of the
hour, times how much more often each place followed than the habit of those hours had it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import AnyArray, FloatArray, IntArray
from forecasting.core.daybook import DAY_HOURS, HOUR_S, Daybook

# Today, and a week from any hour of it; nothing is said of later days.
AHEAD_DAYS = 9
HALF_LIFE_DAYS = 180.0
# Days of what the habit has it, before what followed counts for more.
PRIOR_DAYS = 1.0
CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Analogues:
    """By days ahead of today and hour, on each person's clock.

    today : shape (n_users,), days since 1970
    lift : shape (n_pairs, AHEAD_DAYS, 24), how much more often than by habit a place followed
    days : shape (n_users, AHEAD_DAYS, 24), on so many days alike it rests
    """

    today: IntArray
    lift: AnyArray
    days: AnyArray

    @classmethod
    def of(
        cls,
        book: Daybook,
        habit: FloatArray,
        *,
        pair_user: IntArray,
        pair_place: IntArray,
        last_wall_s: FloatArray,
        last_place: IntArray,
        until_wall_s: FloatArray,
    ) -> Analogues:
        """Compare days, of people numbered from 0.

        habit : shape (n_pairs, 168); pair_place : shape (n_pairs,), number among the person's
        last_wall_s, last_place : when and where each was last seen, -1 for nobody yet; (n_users,)
        until_wall_s : the present, shape (n_users,)
        """
        today = (until_wall_s // (DAY_HOURS * HOUR_S)).astype(np.int64)
        alike = _followers(_days_like(book, last_wall_s, last_place), book, last_wall_s, today)
        days = np.matmul(alike, book.weight)
        lift = np.ones((len(pair_user), AHEAD_DAYS, DAY_HOURS), dtype=np.float32)
        slot = book.weekday(np.arange(book.n_days)) * DAY_HOURS
        slot = slot[:, None] + np.arange(DAY_HOURS)
        size = max(CELLS_AT_ONCE // max(book.n_days * DAY_HOURS, 1), 1)
        for first in range(0, len(pair_user), size):
            some = slice(first, first + size)
            user, weight = pair_user[some], book.weight[pair_user[some]]
            there = weight * (book.place[user] == pair_place[some, None, None])
            usual = weight * habit[some].astype(np.float32)[:, slot]
            followed, expected = (np.matmul(alike[user], each) for each in (there, usual))
            lift[some] = (followed + PRIOR_DAYS) / (expected + PRIOR_DAYS)
        return cls(today, lift, days)

    def at(
        self, user: IntArray, wall_s: FloatArray, case: IntArray, pair: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Lift of every row, shape (n_rows,), and days alike of every case, shape (n_cases,).

        user, wall_s : shape (n_cases,); case, pair : shape (n_rows,)
        """
        hour = (wall_s // HOUR_S).astype(np.int64)
        ahead = np.maximum(hour // DAY_HOURS - self.today[user], 0)
        is_known = ahead < AHEAD_DAYS
        ahead, hour = np.minimum(ahead, AHEAD_DAYS - 1), hour % DAY_HOURS
        lift = self.lift[pair, ahead[case], hour[case]]
        days = self.days[user, ahead, hour]
        return np.where(is_known[case], lift, 1.0), np.where(is_known, days, 0.0)


def _days_like(book: Daybook, last_wall_s: FloatArray, last_place: IntArray) -> AnyArray:
    """How much each day counts on which somebody was where they were last seen, at that hour of
    the day; shape (n_users, n_days)."""
    hour = (last_wall_s // HOUR_S).astype(np.int64)
    user = np.arange(len(hour))
    there = book.place[user, :, hour % DAY_HOURS] == last_place[:, None]
    age = (hour // DAY_HOURS - book.first_day)[:, None] - np.arange(book.n_days)
    # The day itself has not been followed by anything yet.
    there &= (last_place >= 0)[:, None] & (age > 0)
    fading = 0.5 ** (np.maximum(age, 0) / HALF_LIFE_DAYS)
    weight: AnyArray = np.where(there, book.weight[user, :, hour % DAY_HOURS] * fading, 0.0)
    return weight.astype(np.float32)


def _followers(
    weight: AnyArray, book: Daybook, last_wall_s: FloatArray, today: IntArray
) -> AnyArray:
    """How much each day of the book says of each day ahead; (n_users, AHEAD_DAYS, n_days)."""
    last_day = (last_wall_s // HOUR_S // DAY_HOURS).astype(np.int64)
    since = np.maximum(today - last_day, 0)[:, None, None] + np.arange(AHEAD_DAYS)[:, None]
    like = np.arange(book.n_days) - since
    told = weight[np.arange(len(weight))[:, None, None], np.maximum(like, 0)]
    followers: AnyArray = np.where(like >= 0, told, np.float32(0))
    return followers
