"""What the neural engines share: one network for a whole fleet, trained on the fleet's own past."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.engines import Observed
from forecasting.core.timeline import Timeline
from forecasting.core.wall import WallClock
from forecasting.engines.neural_head import LEVELS
from forecasting.engines.neural_training import Progress, Settings, device, fit, reproducible
from forecasting.engines.neural_windows import Windows
from forecasting.errors import InvalidHistory

SERIES_AT_ONCE = 512
FARTHEST = 15.0  # of squeezed values: two million times the mean


@dataclass(frozen=True)
class Trained:
    """A network and what it was trained for: up to `horizon` slots of length `step`.

    about : as JSON has it: data window, series, steps, device, loss on the days held back
    """

    network: nn.Module
    step: timedelta
    slots_per_day: int
    horizon: int
    about: dict[str, Any]


class NeuralEngine:
    """Forecasts with the network given, or with one fitted to the history of the call itself.

    To fit takes a minute or two for each call on a processor, so a backtest of many origins had
    better train once, on what lies before the first of them.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    network: ClassVar[Callable[[int], nn.Module]]

    def __init__(self, settings: Settings | None = None, trained: Trained | None = None) -> None:
        self.settings = settings or Settings()
        self.trained = trained

    def train(
        self,
        past: Sequence[Observed],
        *,
        step: timedelta,
        horizon: int,
        progress: Progress = lambda done, total: None,
    ) -> Self:
        """See `forecasting.core.engines.Trainable`.

        Learns in days of elapsed time, so of a window over a change of the clock something an hour
        off: a few of many. To forecast, the days before are those of the wall clock.
        """
        if len({each.history.shape[1] for each in past}) != 1:
            raise InvalidHistory("groups of series to learn from must have the same slots")
        windows = [
            Windows(
                each.history,
                timeline=Timeline(each.start, step, each.history.shape[1], horizon),
                holidays=each.holidays,
            )
            for each in past
        ]
        made = fit(type(self).network, windows, settings=self.settings, progress=progress)
        n_slots = windows[0].n_slots
        about = {
            "window_start": past[0].start.isoformat(),
            "window_end": (past[0].start + n_slots * step).isoformat(),
            "series": int(sum((each.observed > 0).sum() for each in windows)),
            "steps": made.steps,
            "device": device().type,
            "held_back_loss": made.held_back_loss,
        }
        return type(self)(
            self.settings, Trained(made.network, step, windows[0].per_day, horizon, about)
        )

    def forecast(
        self,
        history: FloatArray,
        *,
        start: datetime,
        step: timedelta,
        horizon: int,
        levels: Sequence[float],
        holidays: Holidays | None = None,
    ) -> FloatArray:
        """See `forecasting.core.engines.Engine`. NaN for series that were never observed.

        Levels between those of the network are interpolated, those beyond get its outermost.
        Raises InvalidHistory when the network was trained for other slots or a shorter horizon.
        """
        past = Observed(history, start, holidays)
        trained = self.trained or self.train([past], step=step, horizon=horizon).trained
        assert trained is not None
        if step != trained.step or horizon > trained.horizon:
            raise InvalidHistory(
                f"this {self.name} was trained for {trained.horizon} slots of {trained.step}, "
                f"not for {horizon} of {step}"
            )
        quantiles = np.full((len(history), horizon, len(levels)), np.nan)
        observed = np.flatnonzero(np.isfinite(history).any(axis=1))
        for some in np.split(observed, range(SERIES_AT_ONCE, len(observed), SERIES_AT_ONCE)):
            if len(some):
                part = Observed(history[some], start, holidays.take(some) if holidays else None)
                quantiles[some] = _at_levels(_apply(trained, part, horizon), levels)
        never_negative = ~(history < 0).any(axis=1)
        quantiles[never_negative] = np.maximum(quantiles[never_negative], 0.0)
        return quantiles


def _apply(trained: Trained, past: Observed, horizon: int) -> FloatArray:
    """Quantiles at LEVELS of the slots after the last, (n_series, horizon, n_levels)."""
    wall = WallClock.of(Timeline(past.start, trained.step, past.history.shape[1], horizon))
    windows = Windows(
        wall.history(past.history), timeline=wall.timeline, holidays=wall.holidays(past.holidays)
    )
    leads = torch.arange(windows.horizon)
    series = torch.arange(windows.n_series)
    with reproducible(0), torch.no_grad():
        batch = windows.cut(series, torch.full_like(series, windows.n_slots), leads)
        squeezed = trained.network.to(device())(batch.to(device())).cpu().double()
        values = torch.sinh(squeezed.clamp(-FARTHEST, FARTHEST)) * batch.scale[:, None, None]
    # They rise but for rounding.
    return wall.back(np.maximum.accumulate(values.numpy(), axis=-1))


def _at_levels(quantiles: FloatArray, levels: Sequence[float]) -> FloatArray:
    position = np.interp(levels, LEVELS, np.arange(len(LEVELS)))
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, len(LEVELS) - 1)
    low, high = quantiles[..., below], quantiles[..., above]
    between: FloatArray = np.minimum(low + (position - below) * (high - low), high)
    return between
