"""How fast demand is forecast, and how good Prophet's batched fit is, beside its peers.

* prophet_vs_stock_pool, prophet_vs_prophet_batch: fit and 19 quantiles of 48 hours on 28 days of
  hourly demand of the invented fleet, series a second of ours in one process against stock
  Prophet and prophet-batch in two. The peers are given a sample of the same series. prophet-batch
  is used in both ways that come near (its own pool, which returns one interval; its fits and the
  models' draws, for all 19 quantiles), and the faster one counts. Series that were observed in the
  same hours are fitted together, which the peers do not do; prophet_masked_series_per_s is our rate
  where every series lacks hours of its own, as people's demand does outside their sessions
* posterior_below_stan: of 500 series, half of them recorded, half invented, a third with 30 % of
  the hours missing, a third with holidays, those whose log posterior is below that of Stan's
  optimum by more than a millionth
* fleet_series_per_s: the whole product forecast, six weeks of history, 24 hours, 19 quantiles, on
  10,000 series; fleet_series_per_s_300 on 300

Recorded series come from the folder FOREDESK_DATASETS (default ../shared/datasets).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.figures import Figures, Goal, report
from benchmarks.peers import (
    STEP,
    Ask,
    rate_of_stock,
    rates_of_prophet_batch,
    stan_posterior,
    two_processes,
)
from desktops.core.demo.facts import world_facts
from desktops.core.demo.fleet import make_fleet
from forecasting.core.calendar import Holidays
from forecasting.core.fleet import forecast_fleet
from forecasting.core.prophet import fit_prophet
from forecasting.errors import InvalidTrace
from forecasting.traces import read_trace

GOALS: dict[str, Goal] = {
    "prophet_vs_stock_pool": (">=", 100),
    "prophet_vs_prophet_batch": (">=", 15),
    "posterior_below_stan": ("==", 0),
    "fleet_series_per_s": (">=", 200),
    "fleet_series_per_s_300": (">=", 20),
}
ROOT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("FOREDESK_DATASETS", ROOT.parent / "shared" / "datasets"))

SEED = 20260302
END = datetime(2026, 3, 2, tzinfo=UTC)
LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
REPEATS = 3

PROPHET_DAYS, PROPHET_HORIZON = 28, 48
PROPHET_SERIES, STOCK_SERIES, BATCH_SERIES = 4000, 200, 600
MASKED_SHARE = 0.6

POSTERIOR_SERIES = 500
TOLERANCE = 1e-6
KINDS = ("whole", "missing", "holidays")

FLEET_DAYS, FLEET_HORIZON = 42, 24
FLEET_SERIES, FEW_SERIES = 10_000, 300


def run(only: frozenset[str] = frozenset()) -> Figures:
    parts: dict[str, Callable[[], Figures]] = {
        "speed": _speed,
        "posterior": _posterior,
        "fleet": _fleet,
    }
    figures: Figures = {}
    for name, part in parts.items():
        if not only or name in only:
            figures |= part()
    return figures


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def invented_demand(n_series: int, days: int) -> np.ndarray:
    """Hourly demand of invented people, four resources each, until END; (n_series, hours)."""
    rows: list[np.ndarray] = []
    n_made = 0
    while n_made < n_series:
        fleet = make_fleet(sites=world_facts().calendar_sites, end=END, seed=SEED + len(rows))
        for values in (
            fleet.demand.cpu_cores,
            fleet.demand.memory_bytes,
            fleet.demand.network_bytes_per_s,
            fleet.demand.storage_bytes_per_s,
        ):
            seen = np.where(fleet.is_observed, values, np.nan)
            seen = seen[:, fleet.history_hours - 24 * days : fleet.history_hours]
            # Peers answer nothing for a person seen for less than a day.
            rows.append(seen[np.isfinite(seen).sum(axis=1) >= 24])
            n_made += len(rows[-1])
    every = np.concatenate(rows)
    return every[np.random.default_rng(SEED).permutation(len(every))[:n_series]]


def recorded_use(days: int) -> np.ndarray:
    """Windows of recorded series, at varying places; (n_series, hours), or none at all."""
    random = np.random.default_rng(SEED)
    windows = []
    for name in ("bitbrains_dev", "asd_servers_dev"):
        try:
            trace = read_trace(DATASETS / name)
        except InvalidTrace as error:
            _say(f"no recorded series: {error}")
            continue
        for values in trace.resources.values():
            first = random.integers(0, values.shape[1] - 24 * days + 1, len(values))
            windows += [v[f : f + 24 * days] for v, f in zip(values, first, strict=True)]
    return np.array(windows).reshape(-1, 24 * days)


def _speed() -> Figures:
    ask = _ask(PROPHET_DAYS, PROPHET_HORIZON)
    history = invented_demand(PROPHET_SERIES, PROPHET_DAYS)

    random = np.random.default_rng(SEED)
    masked = np.where(random.random(history.shape) < MASKED_SHARE, np.nan, history)

    def ours(series: np.ndarray = history) -> float:
        started = time.perf_counter()
        fit_prophet(series, timeline=ask.timeline).quantiles(ask.levels)
        return len(series) / (time.perf_counter() - started)

    ours()
    # Before, between and after the peers: what else the machine does changes meanwhile.
    rates = [ours()]
    peers: dict[str, float] = {}
    with two_processes() as workers:
        peers["stock"] = rate_of_stock(workers, history[:STOCK_SERIES], ask, _say)
        rates.append(ours())
        if find_spec("prophet_batch"):
            ways = rates_of_prophet_batch(workers, history[:BATCH_SERIES], ask)
            _say(f"prophet-batch, series/s: {ways}")
            peers["prophet_batch"] = max(ways.values())
            rates.append(ours())
        else:
            _say("prophet_vs_prophet_batch: pip install -r requirements-benchmarks.txt first")
    rate = float(np.median(rates))
    figures = {
        "prophet_series_per_s": rate,
        "prophet_masked_series_per_s": ours(masked),
        "prophet_vs_stock_pool": rate / peers["stock"],
    }
    if "prophet_batch" in peers:
        figures["prophet_vs_prophet_batch"] = rate / peers["prophet_batch"]
    return figures | {f"{name}_series_per_s": peer for name, peer in peers.items()}


def _ask(days: int, horizon: int) -> Ask:
    return Ask(END - 24 * days * STEP, 24 * days, horizon, LEVELS)


def _posterior() -> Figures:
    ask = _ask(PROPHET_DAYS, PROPHET_HORIZON)
    random = np.random.default_rng(SEED)
    recorded = _changing(recorded_use(PROPHET_DAYS))
    recorded = recorded[random.permutation(len(recorded))[: POSTERIOR_SERIES // 2]]
    invented = _changing(invented_demand(2 * POSTERIOR_SERIES, PROPHET_DAYS))
    history = np.concatenate([recorded, invented[: POSTERIOR_SERIES - len(recorded)]])
    kind = np.resize(np.arange(len(KINDS)), len(history))
    holed = (kind == KINDS.index("missing"))[:, None]
    history[holed & (random.random(history.shape) < 0.3)] = np.nan
    below = 0
    with two_processes() as workers:
        for number, name in enumerate(KINDS):
            some = history[kind == number]
            below += _below_stan(workers, name, some, _holidays(ask, name), ask)
    return {"posterior_below_stan": below}


def _below_stan(
    workers: ProcessPoolExecutor, kind: str, history: np.ndarray, holidays: Holidays, ask: Ask
) -> int:
    ours = fit_prophet(history, timeline=ask.timeline, holidays=holidays).log_posterior
    work = partial(stan_posterior, flags=holidays.flags[0], ask=ask, names=holidays.names)
    lead = np.empty(len(history))
    for i, stan in enumerate(workers.map(work, history)):
        lead[i] = (ours[i] - stan) / abs(stan)
        if not (i + 1) % 50 or i + 1 == len(history):
            below = int((lead[: i + 1] < -TOLERANCE).sum())
            _say(f"{kind}: {i + 1} of {len(history)} series, {below} below Stan's optimum")
    _say(f"{kind}: ahead by {lead.min():.1e} at least, {np.median(lead):.1e} at the middle")
    return int((lead < -TOLERANCE).sum())


def _changing(history: np.ndarray) -> np.ndarray:
    """Those Prophet fits at all: it answers for a constant series without Stan."""
    spread = np.nanmax(history, axis=1) > np.nanmin(history, axis=1)
    return history[spread & (np.isfinite(history).sum(axis=1) >= 24 * 7)]


def _holidays(ask: Ask, kind: str) -> Holidays:
    """A few days of three names, one of them coming back, in the part that has them."""
    names = ("closing", "holiday", "migration") if kind == "holidays" else ()
    flags = np.zeros((1, ask.n_slots + ask.horizon, len(names)), dtype=bool)
    for column, days in enumerate(((3, 10, 17, 24), (12,), (20, 21))[: len(names)]):
        for day in days:
            flags[0, 24 * day : 24 * (day + 1), column] = True
    return Holidays(names, flags, np.zeros(len(names), dtype=bool))


def _fleet() -> Figures:
    history = invented_demand(FLEET_SERIES, FLEET_DAYS)
    figures = {}
    for name, some in (
        ("fleet_series_per_s_300", history[:FEW_SERIES]),
        ("fleet_series_per_s", history),
    ):
        _say(f"forecasting {len(some):,} series ...")
        started = time.perf_counter()
        forecast_fleet(
            some,
            start=END - 24 * FLEET_DAYS * STEP,
            step=STEP,
            horizon=FLEET_HORIZON,
            levels=LEVELS,
        )
        figures[name] = len(some) / (time.perf_counter() - started)
        _say(f"{figures[name]:,.0f} series/s")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--only", action="append", choices=["speed", "posterior", "fleet"])
    options = parser.parse_args()
    figures = run(frozenset(options.only or ()))
    print(report(figures, GOALS))
    if options.json:
        print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
