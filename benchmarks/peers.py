"""What forecasts are held against, as work for two processes: stock Prophet, and prophet-batch."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd

from forecasting.core.calendar import Holidays
from forecasting.core.timeline import Timeline

PROCESSES = 2
SAMPLES = 1000  # Prophet's own default
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STEP = timedelta(hours=1)


@dataclass(frozen=True)
class Ask:
    """Hourly series, and how far ahead which quantiles are wanted."""

    start: datetime
    n_slots: int
    horizon: int
    levels: tuple[float, ...]

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.start, STEP, self.n_slots, self.horizon)

    @property
    def times(self) -> pd.DatetimeIndex:
        return pd.to_datetime(self.timeline.wall_s, unit="s")


@contextmanager
def two_processes() -> Iterator[ProcessPoolExecutor]:
    """Workers that have loaded everything before they are measured."""
    with (
        one_thread_each(),
        ProcessPoolExecutor(
            PROCESSES, mp_context=get_context("spawn"), initializer=_quiet
        ) as workers,
    ):
        yield workers


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started meanwhile do linear algebra in one thread, and leave the others theirs."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def stock_quantiles(values: np.ndarray, *, ask: Ask) -> np.ndarray:
    """One series by stock Prophet with its defaults, shape (horizon, n_levels)."""
    from prophet import Prophet

    frame = pd.DataFrame({"ds": ask.times})
    model = Prophet(uncertainty_samples=SAMPLES)
    model.fit(frame[: ask.n_slots].assign(y=values).dropna())
    return _quantiles(model, frame[ask.n_slots :], ask)


def batch_quantiles(history: np.ndarray, *, ask: Ask) -> np.ndarray:
    """Some series fitted together by prophet-batch, shape (n_series, horizon, n_levels)."""
    from prophet_batch import fit_many

    models = fit_many(long_frame(history, ask))
    future = pd.DataFrame({"ds": ask.times[ask.n_slots :]})
    return np.stack([_quantiles(models[i], future, ask) for i in range(len(history))])


def long_frame(history: np.ndarray, ask: Ask) -> pd.DataFrame:
    """One row a series and slot, as prophet-batch takes them."""
    return pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(len(history)), ask.n_slots),
            "ds": np.tile(ask.times[: ask.n_slots], len(history)),
            "y": history.ravel(),
        }
    )


def _quantiles(model: object, future: pd.DataFrame, ask: Ask) -> np.ndarray:
    draws = model.predictive_samples(future)["yhat"]  # type: ignore[attr-defined]
    return np.quantile(draws, ask.levels, axis=1).T


def stan_posterior(
    values: np.ndarray, flags: np.ndarray, *, ask: Ask, names: Sequence[str]
) -> float:
    """Log posterior of Prophet's Stan model at Stan's own optimum, constants left out.

    flags : shape (n_slots + horizon, n_names), one regressor a holiday
    """
    from forecasting.engines.prophet_stock import fit_stock, log_posterior

    holidays = Holidays(tuple(names), flags[None], np.zeros(len(names), dtype=bool))
    model, _ = fit_stock(values, ask.timeline, holidays if names else None)
    return log_posterior(model)


def rate_of_stock(
    workers: ProcessPoolExecutor, history: np.ndarray, ask: Ask, say: Callable[[str], None]
) -> float:
    """Series a second of stock Prophet in two processes."""
    work = partial(stock_quantiles, ask=ask)
    list(workers.map(work, history[: 2 * PROCESSES]))
    started = time.perf_counter()
    for done, _ in enumerate(workers.map(work, history), start=1):
        if not done % 50:
            say(f"stock Prophet: {done} of {len(history)} series")
    return len(history) / (time.perf_counter() - started)


def rates_of_prophet_batch(
    workers: ProcessPoolExecutor, history: np.ndarray, ask: Ask
) -> dict[str, float]:
    """Series a second of prophet-batch in two processes, by the way it is used.

    Its own pool returns one interval instead of 19 quantiles, which is less work.
    """
    from prophet_batch import Pool

    pieces = np.array_split(history, max(len(history) // 100, PROCESSES))
    work = partial(batch_quantiles, ask=ask)
    list(workers.map(work, [history[:10]] * PROCESSES))
    started = time.perf_counter()
    list(workers.map(work, pieces))
    rates = {"19 quantiles": len(history) / (time.perf_counter() - started)}

    columns = ["ds", "yhat", "yhat_lower", "yhat_upper"]
    asked = {"periods": ask.horizon, "freq": "h", "seed": 0, "include_history": False}
    with Pool(n_jobs=PROCESSES) as pool:
        pool.forecast_many(long_frame(history[:20], ask), columns=columns, **asked)
        frame = long_frame(history, ask)
        started = time.perf_counter()
        pool.forecast_many(frame, columns=columns, **asked)
        rates["one interval"] = len(history) / (time.perf_counter() - started)
    return rates
