"""What one person (or machine) will need and where they will be, and how it is assembled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from forecasting.core.activity import forecast_activity
from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.fleet import ENGINE_NAME, FleetForecast, forecast_in_detail
from forecasting.core.location import LocationModel
from forecasting.core.related import Related
from forecasting.errors import InvalidHistory

RESOURCES = ("cpu_cores", "memory_bytes", "network_bytes_per_s", "storage_bytes_per_s")
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HORIZON_HOURS = 168
HOUR = timedelta(hours=1)
# Less than this is not a habit yet: a newcomer's first week is forecast from their pool.
LEAST_SPAN_HOURS, LEAST_SEEN_HOURS = 7 * 24, 20
POOL_ENGINE = "pool"
# After so many hours observed, a newcomer's own size counts as much as their pool's.
OWN_SIZE_HOURS = 8.0
MOST_LENDERS = 100
# A place less likely than this all week is counted as elsewhere.
LEAST_PLACE_PROBABILITY = 5e-4


class EngineShare(NamedTuple):
    """What an engine had to do with a forecast.

    weight : part of the mean it took, in [0, 1]
    loss : pinball loss at past origins, as a ratio to repeating the day before; NaN if unknown
    """

    weight: float
    loss: float


@dataclass(frozen=True)
class ResourceDemandProfile:
    """The week ahead of one subject; hour h of every array begins at `starts_at` + h * `step`, UTC.

    cpu_cores, memory_bytes, network_bytes_per_s, storage_bytes_per_s : shape (horizon,
        len(levels)), quantiles of demand, given a session where sessions are known; NaN where
        neither the subject nor its fleet was ever observed
    p_active : shape (horizon,), probability of a session; None when sessions are not observed
    location : place to probability, shape (horizon,) each; an hour sums to 1 over the places;
        empty for a subject that is not a person
    engine : what made the demand quantiles, of those resources that are the subject's own
    enough_history : whether any is: one observed for too short a time is the pool's all the same
    history_hours : hours observed
    engines : resource to engine to its share, without those lent by the pool
    """

    starts_at: datetime
    step: timedelta
    levels: tuple[float, ...]
    cpu_cores: FloatArray
    memory_bytes: FloatArray
    network_bytes_per_s: FloatArray
    storage_bytes_per_s: FloatArray
    p_active: FloatArray | None
    location: Mapping[str, FloatArray]
    engine: str
    enough_history: bool
    history_hours: int
    engines: Mapping[str, Mapping[str, EngineShare]] = field(default_factory=dict)


def build_profiles(
    demand: Mapping[str, FloatArray],
    *,
    active_ratio: FloatArray | None,
    start: datetime,
    pool: Sequence[Hashable],
    holidays: Holidays | None = None,
    locations: LocationModel | None = None,
    people: Sequence[Hashable | None] | None = None,
    related: FloatArray | None = None,
    absent: BoolArray | None = None,
    levels: Sequence[float] = LEVELS,
    horizon: int = HORIZON_HOURS,
) -> list[ResourceDemandProfile]:
    """Assemble the profiles of a fleet.

    demand : resource to hourly history, shape (n_subjects, n_hours) each, NaN where unknown
    active_ratio : shape (n_subjects, n_hours), share of each hour with a session; a row of NaN
        (or None for all) where sessions are not observed, as for a machine without a person
    start : aware beginning of the first hour
    pool : pool of each subject; who has too little history gets the pool's profile
    holidays : see `calendar.event_flags`, one calendar index per subject
    locations, people : where people will be, and the label of each subject in that model (None
        for a subject that is not a person)
    related : shape (n_subjects, n_hours, n_kinds), what else was observed: application use
    absent : shape (n_subjects, n_hours + horizon), hours of announced leave

    Returns one profile per subject, in order.
    """
    n_subjects, n_hours = _checked_shape(demand, active_ratio, pool)
    # In UTC: adding hours to a wall clock that changes in between lands an hour off.
    starts_at = start.astimezone(UTC) + n_hours * HOUR
    in_session = hours_that_count(active_ratio, (n_subjects, n_hours))
    history = np.stack([np.where(in_session, demand[name], np.nan) for name in RESOURCES])
    seen = np.isfinite(history)
    seen_hours = seen.sum(axis=2).max(axis=0)
    enough = np.stack([_has_enough(each) for each in seen])
    is_own = np.asarray(enough.any(axis=0))
    # All resources at once: what a call costs whatever its size is paid once, not four times.
    subject = np.tile(np.arange(n_subjects), len(RESOURCES))
    made = forecast_in_detail(
        history.reshape(-1, n_hours),
        start=start,
        step=HOUR,
        horizon=horizon,
        levels=levels,
        holidays=holidays.take(subject) if holidays else None,
        related=Related(related, subject) if related is not None else None,
    )
    together = made.quantiles.reshape(len(RESOURCES), n_subjects, horizon, len(levels))
    pool_number = np.unique([str(each) for each in pool], return_inverse=True)[1]
    quantiles = {
        name: _lend_from_pool(forecast, past, of_themselves, pool_number, levels)
        for name, forecast, past, of_themselves in zip(
            RESOURCES, together, history, enough, strict=True
        )
    }
    shares = _engine_shares(made, enough)
    people = people or [None] * n_subjects
    p_active = _p_active(active_ratio, people, start, horizon, holidays, absent)
    where = _where(locations, people, starts_at, horizon)
    return [
        ResourceDemandProfile(
            starts_at=starts_at,
            step=HOUR,
            levels=tuple(levels),
            cpu_cores=quantiles["cpu_cores"][i],
            memory_bytes=quantiles["memory_bytes"][i],
            network_bytes_per_s=quantiles["network_bytes_per_s"][i],
            storage_bytes_per_s=quantiles["storage_bytes_per_s"][i],
            p_active=p_active[i],
            location=where[i],
            engine=ENGINE_NAME if is_own[i] else POOL_ENGINE,
            enough_history=bool(is_own[i]),
            history_hours=int(seen_hours[i]),
            engines=shares[i],
        )
        for i in range(n_subjects)
    ]


def _checked_shape(
    demand: Mapping[str, FloatArray], active_ratio: FloatArray | None, pool: Sequence[Hashable]
) -> tuple[int, int]:
    missing = [name for name in RESOURCES if name not in demand]
    if missing:
        raise InvalidHistory(f"demand lacks {', '.join(missing)}")
    shape = demand[RESOURCES[0]].shape
    others = {name: demand[name].shape for name in RESOURCES}
    if active_ratio is not None:
        others["active_ratio"] = active_ratio.shape
    for name, other in others.items():
        if other != shape:
            raise InvalidHistory(f"{name} has shape {other}, {RESOURCES[0]} has {shape}")
    if len(pool) != shape[0]:
        raise InvalidHistory(f"{len(pool)} pools for {shape[0]} subjects")
    return shape[0], shape[1]


def hours_that_count(active_ratio: FloatArray | None, shape: tuple[int, int]) -> BoolArray:
    """Hours with a session, or all hours of a subject whose sessions are not observed."""
    if active_ratio is None:
        return np.ones(shape, dtype=np.bool_)
    unobserved = ~np.isfinite(active_ratio).any(axis=1, keepdims=True)
    counts: BoolArray = (active_ratio > 0) | unobserved
    return counts


def _has_enough(seen: BoolArray) -> BoolArray:
    """Whether each series has been observed for long enough, shape (n_subjects,)."""
    if not seen.shape[1]:
        return np.zeros(len(seen), dtype=np.bool_)
    first = np.argmax(seen, axis=1)
    last = seen.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    long_enough = (last - first + 1 >= LEAST_SPAN_HOURS) & (seen.sum(axis=1) >= LEAST_SEEN_HOURS)
    return np.asarray(long_enough)


def _engine_shares(
    made: FleetForecast, enough: BoolArray
) -> list[dict[str, dict[str, EngineShare]]]:
    """Of each subject: resource to engine to its share, where it was observed for long enough.

    enough : shape (len(RESOURCES), n_subjects)
    """
    shape = (*enough.shape, len(made.engines))
    weights, losses = (each.reshape(shape).tolist() for each in (made.weights, made.losses))
    return [
        {
            name: {
                engine: EngineShare(*share)
                for engine, *share in zip(made.engines, weights[r][i], losses[r][i], strict=True)
                if share[0] > 0
            }
            for r, name in enumerate(RESOURCES)
            if enough[r, i]
        }
        for i in range(enough.shape[1])
    ]


def _lend_from_pool(
    forecast: FloatArray,
    history: FloatArray,
    enough: BoolArray,
    pool: IntArray,
    levels: Sequence[float],
) -> FloatArray:
    """Give those with too little history the spread of their pool, else of the whole fleet.

    The few hours a newcomer was observed say how large they are: the more there are, the more
    everybody's forecast is scaled to that size before it is lent.
    """
    result = forecast.copy()
    seen = np.isfinite(history).sum(axis=1)
    size = np.where(np.isfinite(history), history, 0.0).sum(axis=1) / np.maximum(seen, 1)
    for each in np.unique(pool[~enough]):
        lenders = np.flatnonzero(enough & (pool == each))
        lenders = lenders if len(lenders) else np.flatnonzero(enough)
        if not len(lenders):
            continue
        lenders = lenders[np.argsort(size[lenders], kind="stable")]
        evenly = np.linspace(0, len(lenders) - 1, min(len(lenders), MOST_LENDERS))
        lenders = lenders[evenly.round().astype(np.int64)]
        newcomers = np.flatnonzero(~enough & (pool == each))
        hours = np.where(size[newcomers] > 0, seen[newcomers], 0)
        for count in np.unique(hours):
            own = count / (count + OWN_SIZE_HOURS)
            of_lenders = np.where(size[lenders] > 0, size[lenders], 1.0) ** own
            lent = _mixture(forecast[lenders] / of_lenders[:, None, None], levels)
            some = newcomers[hours == count]
            result[some] = lent * (size[some] ** own)[:, None, None]
    return result


def _mixture(forecasts: FloatArray, levels: Sequence[float]) -> FloatArray:
    """Quantiles of a subject drawn at random: shape (n, horizon, n_levels) to (horizon, n_levels).

    Each forecast is taken as steps at its own levels, each with the mass half way to the next.
    """
    level = np.asarray(levels, dtype=np.float64)
    order = np.argsort(level)
    rising = level[order]
    edges = np.concatenate([[0.0], (rising[1:] + rising[:-1]) / 2, [1.0]])
    known = forecasts[np.all(np.isfinite(forecasts), axis=(1, 2))][:, :, order]
    if not len(known):
        return np.full(forecasts.shape[1:], np.nan)
    values = np.moveaxis(known, 1, 0).reshape(forecasts.shape[1], -1)
    mass = np.broadcast_to(np.tile(np.diff(edges), len(known)), values.shape)
    rank = np.argsort(values, axis=1)
    values = np.take_along_axis(values, rank, axis=1)
    middle = np.cumsum(np.take_along_axis(mass, rank, axis=1), axis=1)
    middle = (middle - np.take_along_axis(mass, rank, axis=1) / 2) / len(known)
    rows = [np.interp(level, at, value) for at, value in zip(middle, values, strict=True)]
    return np.stack(rows)


def _p_active(
    active_ratio: FloatArray | None,
    people: Sequence[Hashable | None],
    start: datetime,
    horizon: int,
    holidays: Holidays | None,
    absent: BoolArray | None,
) -> list[FloatArray | None]:
    """Probability of a session of each subject; None for machines whose sessions nobody sees."""
    if active_ratio is None or not np.isfinite(active_ratio).any():
        return [None] * len(people)
    probability = forecast_activity(
        active_ratio, start=start, horizon=horizon, holidays=holidays, absent=absent
    )
    seen = np.any(np.isfinite(active_ratio), axis=1).tolist()
    return [
        probability[i] if seen[i] or person is not None else None for i, person in enumerate(people)
    ]


def _where(
    locations: LocationModel | None,
    people: Sequence[Hashable | None],
    starts_at: datetime,
    horizon: int,
) -> list[dict[str, FloatArray]]:
    """Place to hourly probability of each subject; empty for what is not a person."""
    where: list[dict[str, FloatArray]] = [{} for _ in people]
    persons = [i for i, person in enumerate(people) if person is not None]
    if locations is None or not persons:
        return where
    places, maps = locations.maps([people[i] for i in persons], starts_at, horizon)
    likely = maps.max(axis=1) >= LEAST_PLACE_PROBABILITY
    for i, chance, keep in zip(persons, maps, likely, strict=True):
        kept = [k for k in np.flatnonzero(keep[:-1])]
        where[i] = {str(places[k]): chance[:, k] for k in kept}
        where[i][str(places[-1])] = 1.0 - chance[:, kept].sum(axis=1)
    return where
