"""Invented people whose whereabouts follow a law that is known, so that a forecast can be held
against the best there is.

Every person is in one state a day, the states following each other as a Markov chain, and where
they are follows from state and hour. They are seen at hours that tell nothing of the place. What
can be known at a moment is then exactly the forward filter of that chain (Rabiner 1989).

* staying: at one place, rarely away for some days
* commuting: home, but office or plant from nine to five, by a weekly habit that is not always kept
* shift: some days at one site, some at another, some at home, in this order
* travelling: trips of typical lengths to a few usual and some unusual places

People of a kind differ in their places and weekly habits; how often, how surely and for how long
is the same for all of a kind. A forecast that learns from the fleet can know it well, so what it
loses beyond the truth is its own fault and not that of short records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KINDS = ("staying", "commuting", "shift", "travelling")
N_SITES = 30
START_S = 1_704_067_200.0  # a Monday, 1 January 2024
DAY_S, HOUR_S = 86_400, 3_600
SEEN_HOURS = np.arange(7, 22)
LONGEST_TRIP_DAYS = 5
WEEK_DAYS = 7


@dataclass(frozen=True)
class Law:
    """What some people do; n people, s states.

    step : shape (n, 1 or 7, s, s), chances of tomorrow's state by that day's weekday
    site : shape (n, s, 24), place by state and hour
    """

    step: np.ndarray
    site: np.ndarray

    def at(self, day: int) -> np.ndarray:
        """Chances of the state of a day by the state of the day before, shape (n, s, s)."""
        return self.step[:, day % self.step.shape[1]]


@dataclass(frozen=True)
class KnownFleet:
    """People numbered in order of their kinds, as many of each.

    user, at_s, place : shape (n,), sightings
    """

    laws: tuple[Law, ...]
    user: np.ndarray
    at_s: np.ndarray
    place: np.ndarray

    @property
    def n_of_kind(self) -> int:
        return len(self.laws[0].site)

    def kind(self, user: np.ndarray) -> np.ndarray:
        """Index into KINDS."""
        return user // self.n_of_kind

    def truth(self, moment_s: float, user: np.ndarray, at_s: np.ndarray) -> np.ndarray:
        """Chances of each site from what was seen up to a moment, shape (n, N_SITES).

        user, at_s : shape (n,); times within a week after the moment
        """
        chances = np.zeros((len(user), N_SITES))
        for number, law in enumerate(self.laws):
            some = np.flatnonzero(self.kind(user) == number)
            if len(some):
                chances[some] = self._truth_of(number, law, moment_s, user[some], at_s[some])
        return chances

    def _truth_of(
        self, number: int, law: Law, moment_s: float, user: np.ndarray, at_s: np.ndarray
    ) -> np.ndarray:
        first = number * self.n_of_kind
        known = (self.kind(self.user) == number) & (self.at_s <= moment_s)
        person, place = self.user[known] - first, self.place[known]
        day, hour = _day_and_hour(self.at_s[known])
        today, _ = _day_and_hour(np.array([moment_s]))
        now = np.zeros(law.site.shape[:2])
        now[:, 0] = 1.0
        for number_of_day in range(int(today[0]) + 1):
            now = np.einsum("ns,nst->nt", now, law.at(number_of_day))
            seen = np.flatnonzero(day == number_of_day)
            fits = law.site[person[seen], :, hour[seen]] == place[seen][:, None]
            possible = np.ones(now.shape, dtype=bool)
            np.logical_and.at(possible, person[seen], fits)
            now = now * possible
            now /= now.sum(axis=1, keepdims=True)
        ahead = [now]
        for number_of_day in range(int(today[0]) + 1, int(today[0]) + WEEK_DAYS + 2):
            ahead.append(np.einsum("ns,nst->nt", ahead[-1], law.at(number_of_day)))
        asked, asked_hour = _day_and_hour(at_s)
        state = np.stack(ahead)[asked - today[0], user - first]
        site = law.site[user - first, :, asked_hour]
        chances = np.zeros((len(user), N_SITES))
        np.add.at(chances, (np.arange(len(user))[:, None], site), state)
        return chances


def invent_fleet(n_of_kind: int, *, weeks: int, seed: int, seen_share: float = 0.3) -> KnownFleet:
    """Invent people and where they were seen.

    seen_share : of the waking hours of most days; some days nobody sees them
    """
    random = np.random.default_rng(seed)
    laws = tuple(make(n_of_kind, random) for make in LAWS.values())
    n_days = WEEK_DAYS * weeks
    rows = []
    for number, law in enumerate(laws):
        state = np.zeros(n_of_kind, dtype=np.int64)
        for day in range(n_days):
            state = _draw(law.at(day)[np.arange(n_of_kind), state], random)
            is_out = random.random(n_of_kind) < 0.15
            seen = (random.random((n_of_kind, len(SEEN_HOURS))) < seen_share) & ~is_out[:, None]
            person, at = np.nonzero(seen)
            hour = SEEN_HOURS[at]
            # At any minute, but well within the hour whose place it is.
            at_s = START_S + day * DAY_S + hour * HOUR_S + random.integers(60, 3540, len(hour))
            place = law.site[person, state[person], hour]
            rows.append((number * n_of_kind + person, at_s, place))
    user, at_s, place = (np.concatenate(each) for each in zip(*rows, strict=True))
    return KnownFleet(laws, user, at_s.astype(np.float64), place)


def _staying(n: int, random: np.random.Generator) -> Law:
    weight = 0.5 ** np.arange(1, 5)
    step = np.zeros((n, 1, 5, 5))
    step[:, 0, 0, 0] = 0.97
    step[:, 0, 0, 1:] = 0.03 * weight / weight.sum()
    away = np.arange(1, 5)
    step[:, 0, away, 0] = step[:, 0, away, away] = 0.5
    return Law(step, np.repeat(_own_sites(n, 5, random)[:, :, None], 24, axis=2))


def _commuting(n: int, random: np.random.Generator) -> Law:
    """States: at home, in the office, at the plant; a working day's do not depend on the last."""
    usual = random.choice(3, (n, WEEK_DAYS), p=[0.25, 0.65, 0.1])
    usual[:, 5:] = 0
    chance = np.where(np.arange(3) == usual[:, :, None], 0.9, 0.05)
    sites = _own_sites(n, 3, random)
    site = np.repeat(sites[:, :1, None], 3, axis=1) * np.ones(24, dtype=np.int64)
    site[:, :, 9:17] = sites[:, :, None]
    return Law(np.repeat(chance[:, :, None, :], 3, axis=2), site)


def _shift(n: int, random: np.random.Generator) -> Law:
    """States: at home, at one site, at the other, in this order; each lasts for some days."""
    step = np.zeros((n, 1, 3, 3))
    for state, days in enumerate((3.0, 4.0, 4.0)):
        step[:, 0, state, state] = 1 - 1 / days
        step[:, 0, state, (state + 1) % 3] = 1 / days
    return Law(step, np.repeat(_own_sites(n, 3, random)[:, :, None], 24, axis=2))


def _travelling(n: int, random: np.random.Generator) -> Law:
    """States: at home, and each destination by days there; trips end as trips do."""
    n_places = 8
    ends = np.array([0.15, 0.35, 0.5, 0.5, 1.0])
    weight = np.arange(1, n_places + 1) ** -1.5
    begin = 0.08
    step = np.zeros((n, 1, 1 + n_places * LONGEST_TRIP_DAYS, 1 + n_places * LONGEST_TRIP_DAYS))
    step[:, 0, 0, 0] = 1 - begin
    for place in range(n_places):
        arrival = 1 + place * LONGEST_TRIP_DAYS
        step[:, 0, 0, arrival] = begin * weight[place] / weight.sum()
        for age, end in enumerate(ends):
            step[:, 0, arrival + age, 0] = end
            if age + 1 < LONGEST_TRIP_DAYS:
                step[:, 0, arrival + age, arrival + age + 1] = 1 - end
    sites = _own_sites(n, 1 + n_places, random)
    of_state = np.concatenate([[0], 1 + np.repeat(np.arange(n_places), LONGEST_TRIP_DAYS)])
    return Law(step, np.repeat(sites[:, of_state, None], 24, axis=2))


LAWS: dict[str, Callable[[int, np.random.Generator], Law]] = {
    "staying": _staying,
    "commuting": _commuting,
    "shift": _shift,
    "travelling": _travelling,
}


def _own_sites(n: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Different sites for each person, shape (n, count)."""
    return np.argsort(random.random((n, N_SITES)), axis=1)[:, :count]


def _draw(chance: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One state for each row of chances."""
    return (np.cumsum(chance, axis=1)[:, :-1] < random.random((len(chance), 1))).sum(axis=1)


def _day_and_hour(at_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hours = ((at_s - START_S) // HOUR_S).astype(np.int64)
    return hours // 24, hours % 24
