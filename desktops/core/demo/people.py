"""Who works in the demo fleet: pools, roles, rhythms, names. Nobody here is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np

from desktops.core.demo.calendar import Site

T = TypeVar("T")


class Rhythm(StrEnum):
    OFFICE = "office"
    TRADER = "trader"
    SHIFT = "shift"  # early, late and night in turn, weekends and holidays included
    PART_TIME = "part_time"


class Travel(StrEnum):
    NONE = "none"
    WEEKLY = "weekly"  # the same days of every week elsewhere
    FORTNIGHTLY = "fortnightly"  # Tuesday to Thursday of every other week elsewhere
    TRIPS = "trips"  # now and then, for days; some are on one now
    SECONDED = "seconded"  # elsewhere for weeks, now
    RELOCATED = "relocated"  # moved for good some weeks ago


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """How many people each site has in the pool, and what they are."""

    name: str
    people: Mapping[str, int]
    rhythms: Mapping[Rhythm, float]
    roles: Mapping[str, float]


POOLS = (
    PoolPlan(
        name="engineering",
        people={"fra": 18, "waw": 14, "bom": 14, "sfo": 12, "sao": 8},
        rhythms={Rhythm.OFFICE: 0.9, Rhythm.PART_TIME: 0.1},
        roles={"engineer": 0.7, "designer": 0.15, "analyst": 0.15},
    ),
    PoolPlan(
        name="trading",
        people={"nyc": 14, "lon": 14, "sin": 8, "tyo": 8},
        rhythms={Rhythm.TRADER: 0.8, Rhythm.OFFICE: 0.2},
        roles={"trader": 0.8, "controller": 0.2},
    ),
    PoolPlan(
        name="support",
        people={"bom": 18, "waw": 12, "chi": 10, "syd": 8},
        rhythms={Rhythm.SHIFT: 0.8, Rhythm.OFFICE: 0.2},
        roles={"agent": 1.0},
    ),
    PoolPlan(
        name="contractors",
        people={"par": 12, "chi": 8, "lon": 6, "sfo": 6, "sao": 6, "syd": 4},
        rhythms={Rhythm.OFFICE: 0.55, Rhythm.PART_TIME: 0.45},
        roles={"analyst": 0.4, "engineer": 0.3, "controller": 0.3},
    ),
)
SITE_CODES = ("nyc", "chi", "sfo", "sao", "lon", "par", "fra", "waw", "bom", "sin", "tyo", "syd")
PEOPLE = sum(sum(pool.people.values()) for pool in POOLS)

TRAVELLERS = {
    Travel.WEEKLY: 8,
    Travel.FORTNIGHTLY: 10,
    Travel.TRIPS: 22,
    Travel.SECONDED: 5,
    Travel.RELOCATED: 5,
}
# Shift workers keep to their rota's site.
TRAVELLING_RHYTHMS = frozenset({Rhythm.OFFICE, Rhythm.TRADER})
# Of those at a desk in roles that compute: they plan on one day what runs on the next.
PLANNERS = 20
PLANNING_ROLES = frozenset({"engineer", "designer", "analyst"})
# Days of history of those who have just started; everybody else has all of it.
STARTER_HISTORY_DAYS = (0, 0, 0, 3, 5)

GIVEN_NAMES = (
    *("Abelone", "Bastian", "Cyprian", "Damaris", "Eluned", "Fenella", "Gaspard", "Hesper"),
    *("Isolde", "Jorinde", "Kasimir", "Leocadia", "Melchior", "Nerys", "Orsolya", "Peregrin"),
    *("Quirin", "Rosamund", "Severin", "Tamsin"),
)
FAMILY_NAMES = (
    *("Amberwell", "Birkenrode", "Castellume", "Duskhollow", "Elmsgate", "Fairwether"),
    *("Glasfeld", "Hollinmark", "Inkspire", "Juniperley"),
)


@dataclass(frozen=True, slots=True)
class Person:
    """One invented person.

    site : index of the home site
    history_days : None for all of the generated weeks
    plans_ahead : what they compute was planned on the working day before; see `jobs`
    """

    number: int
    name: str
    pool: str
    role: str
    site: int
    rhythm: Rhythm
    travel: Travel
    history_days: int | None
    plans_ahead: bool

    @property
    def desktop_key(self) -> str:
        return f"demo-{self.number:03d}"


def make_people(sites: Sequence[Site], rng: np.random.Generator) -> tuple[Person, ...]:
    """The same people for the same generator state, numbered from 1."""
    index = {site.code: n for n, site in enumerate(sites)}
    posts = [
        (pool, index[code])
        for pool in POOLS
        for code, count in pool.people.items()
        for _ in range(count)
    ]
    rhythms = [_draw(pool.rhythms, rng) for pool, _ in posts]
    roles = [_draw(pool.roles, rng) for pool, _ in posts]
    starters = dict(zip(rng.permutation(len(posts)).tolist(), STARTER_HISTORY_DAYS, strict=False))
    may_travel = [n for n, r in enumerate(rhythms) if r in TRAVELLING_RHYTHMS and n not in starters]
    travels = dict(
        zip(
            rng.permutation(may_travel).tolist(),
            [travel for travel, count in TRAVELLERS.items() for _ in range(count)],
            strict=False,
        )
    )
    may_plan = [
        n
        for n, (rhythm, role) in enumerate(zip(rhythms, roles, strict=True))
        if rhythm == Rhythm.OFFICE and role in PLANNING_ROLES and n not in starters
    ]
    # A generator of their own: who plans changes nothing else about the fleet.
    planners = set(rng.spawn(1)[0].permutation(may_plan)[:PLANNERS].tolist())
    names = [f"{given} {family}" for family in FAMILY_NAMES for given in GIVEN_NAMES]
    names = [names[n] for n in rng.permutation(len(names))]
    return tuple(
        Person(
            number=n + 1,
            name=names[n],
            pool=pool.name,
            role=roles[n],
            site=site,
            rhythm=rhythms[n],
            travel=travels.get(n, Travel.NONE),
            history_days=starters.get(n),
            plans_ahead=n in planners,
        )
        for n, (pool, site) in enumerate(posts)
    )


def _draw(weights: Mapping[T, float], rng: np.random.Generator) -> T:
    choices = list(weights)
    return choices[int(rng.choice(len(choices), p=list(weights.values())))]
