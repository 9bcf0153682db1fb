"""What the work of the demo fleet needs, from the applications each person uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from desktops.core.demo.calendar import Calendar
from desktops.core.demo.jobs import Jobs, make_jobs
from desktops.core.demo.people import Person

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

GIB = 2**30
MB = 1e6


@dataclass(frozen=True, slots=True)
class App:
    """What one hour of nothing but this application takes.

    peaks : local hours around which it is used most
    """

    cpu_cores: float
    memory_gib: float
    network_mb_per_s: float
    storage_mb_per_s: float
    peaks: tuple[float, ...]


APPS = {
    "browser": App(0.5, 2.5, 0.30, 0.3, (9.0, 13.0)),
    "build": App(5.5, 7.0, 0.40, 18.0, (11.5, 16.5)),
    "cad": App(3.2, 10.0, 0.60, 6.0, (10.5, 15.0)),
    "call": App(0.9, 0.9, 0.45, 0.1, (10.0, 14.5)),
    "crm": App(0.45, 1.6, 0.15, 0.2, (9.5, 15.0)),
    "editor": App(0.8, 3.5, 0.10, 0.8, (10.0, 15.5)),
    "ledger": App(0.9, 2.6, 0.20, 2.5, (16.0,)),
    "market": App(1.5, 4.0, 0.90, 0.6, (8.5, 15.5)),
    "notebook": App(3.0, 8.0, 0.50, 4.0, (14.0,)),
    "planner": App(0.6, 1.2, 0.05, 0.1, (14.0,)),
    "render": App(6.0, 9.0, 0.20, 8.0, (12.0,)),
    "sheet": App(0.7, 2.2, 0.08, 0.5, (9.5, 16.0)),
}
# What is in nobody's mix every day, and how much of an hour it takes when it runs.
PLANNING, COMPUTING = ("planner", 0.25), ("render", 0.7)
ROLES: Mapping[str, Mapping[str, float]] = {
    "agent": {"crm": 0.6, "call": 0.3, "browser": 0.1},
    "analyst": {"sheet": 0.45, "notebook": 0.35, "browser": 0.1, "call": 0.1},
    "controller": {"ledger": 0.55, "sheet": 0.35, "call": 0.1},
    "designer": {"cad": 0.6, "browser": 0.25, "call": 0.15},
    "engineer": {"editor": 0.45, "build": 0.25, "browser": 0.2, "call": 0.1},
    "trader": {"market": 0.6, "sheet": 0.2, "call": 0.1, "browser": 0.1},
}
MONTH_END_FACTOR = {"controller": 1.9, "analyst": 1.3, "trader": 1.25}
MIX_CONCENTRATION = 25.0  # how closely a person's mix keeps to the role's
NOISE_SIGMA, NOISE_MEMORY = 0.22, 0.6  # of the logarithm, hour to hour
DAY_SIGMA = 0.15
# A desktop nobody uses: the system itself, and a backup on the nights of working days.
IDLE_CPU_CORES = 0.05
IDLE_MEMORY_GIB = 1.6
IDLE_MEMORY_RATIO = 0.45  # of what the applications hold in a session
IDLE_NETWORK_MB_PER_S = 0.002
IDLE_STORAGE_MB_PER_S = 0.03
SESSION_NETWORK_MB_PER_S = 0.25
BACKUP_HOUR, BACKUP_STORAGE_MB_PER_S, BACKUP_CPU_CORES = 2, 6.0, 0.3


@dataclass(frozen=True, slots=True)
class Demand:
    """(people, hours) each. CPU counts work that waits for a core, so it can exceed a flavor.

    app_cpu_core_s : (people, hours, apps), seconds of one core by application, as APPS has them;
        the rest is the system's
    """

    cpu_cores: FloatArray
    memory_bytes: FloatArray
    network_bytes_per_s: FloatArray
    storage_bytes_per_s: FloatArray
    app_cpu_core_s: NDArray[np.float32]


def demand(
    people: Sequence[Person],
    active: FloatArray,
    place: IntArray,
    calendar: Calendar,
    rng: np.random.Generator,
) -> Demand:
    """active, place : (people, hours), from `rhythm` and `travel`."""
    hours = np.arange(calendar.hours)
    day = calendar.day[place, hours]
    mix = _mixes(people, rng)
    strain = active * _strain(people, calendar, day, rng)
    clock = calendar.hour_of_day[place, hours]
    use = _app_use(mix, clock) * strain[..., None]
    _add_jobs(use, strain, make_jobs(people, active, day, clock, rng.spawn(1)[0]))
    apps = APPS.values()
    cpu_by_app = use * np.array([app.cpu_cores for app in apps])
    cpu = cpu_by_app.sum(axis=-1)
    network = use @ np.array([app.network_mb_per_s for app in apps])
    storage = use @ np.array([app.storage_mb_per_s for app in apps])
    # Applications stay open between sessions, and hold part of their memory.
    held_gib = (mix @ np.array([app.memory_gib for app in apps]))[:, None]
    held_gib = held_gib * np.where(active > 0, 0.7 + 0.3 * strain, IDLE_MEMORY_RATIO)
    backup = _is_backup(people, calendar)
    return Demand(
        cpu_cores=cpu + IDLE_CPU_CORES * _flutter(cpu, rng) + BACKUP_CPU_CORES * backup,
        memory_bytes=GIB * (IDLE_MEMORY_GIB + held_gib),
        network_bytes_per_s=MB
        * (network + SESSION_NETWORK_MB_PER_S * active + IDLE_NETWORK_MB_PER_S),
        storage_bytes_per_s=MB
        * (
            storage
            + IDLE_STORAGE_MB_PER_S * _flutter(storage, rng)
            + BACKUP_STORAGE_MB_PER_S * backup
        ),
        app_cpu_core_s=(3600 * cpu_by_app).astype(np.float32),
    )


def _mixes(people: Sequence[Person], rng: np.random.Generator) -> FloatArray:
    """(people, apps): share of each application in a person's working time."""
    names = list(APPS)
    mix = np.zeros((len(people), len(names)))
    for row, person in enumerate(people):
        shares = ROLES[person.role]
        columns = [names.index(name) for name in shares]
        mix[row, columns] = rng.dirichlet(MIX_CONCENTRATION * np.array(list(shares.values())))
    return mix


def _app_use(mix: FloatArray, clock: FloatArray) -> FloatArray:
    """(people, hours, apps): the mix, more of an application around its peaks."""
    use = np.empty((*clock.shape, len(APPS)))
    for column, app in enumerate(APPS.values()):
        bumps = sum(np.exp(-((clock - peak) ** 2) / 2) for peak in app.peaks)
        use[..., column] = mix[:, column, None] * (0.75 + 0.6 * bumps)
    return use


def _add_jobs(use: FloatArray, strain: FloatArray, jobs: Jobs) -> None:
    names = list(APPS)
    for (app, share), runs in ((PLANNING, jobs.is_planning), (COMPUTING, jobs.is_computing)):
        use[..., names.index(app)] += share * strain * runs


def _strain(
    people: Sequence[Person], calendar: Calendar, day: IntArray, rng: np.random.Generator
) -> FloatArray:
    """(people, hours): how much more or less than usual, around 1."""
    n, hours = day.shape
    noise = np.empty((n, hours))
    state = rng.normal(0, NOISE_SIGMA, n)
    for hour in range(hours):
        fresh = rng.normal(0, NOISE_SIGMA * np.sqrt(1 - NOISE_MEMORY**2), n)
        state = NOISE_MEMORY * state + fresh
        noise[:, hour] = state
    of_person = rng.normal(0, 0.25, (n, 1))
    of_day = np.take_along_axis(rng.normal(0, DAY_SIGMA, (n, calendar.days)), day, axis=1)
    month_end = np.array([[MONTH_END_FACTOR.get(p.role, 1.0)] for p in people])
    return np.exp(noise + of_person + of_day) * np.where(calendar.is_month_end[day], month_end, 1.0)


def _is_backup(people: Sequence[Person], calendar: Calendar) -> NDArray[np.bool_]:
    """(people, hours): by the local time of the home site, where the desktop is looked after."""
    home, hours = np.array([[p.site] for p in people]), np.arange(calendar.hours)
    is_night = np.floor(calendar.hour_of_day[home, hours]) == BACKUP_HOUR
    is_backup: NDArray[np.bool_] = is_night & (calendar.weekday[calendar.day[home, hours]] < 5)
    return is_backup


def _flutter(like: FloatArray, rng: np.random.Generator) -> FloatArray:
    return rng.uniform(0.5, 1.5, like.shape)
