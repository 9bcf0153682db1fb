"""Fitting a network to the windows of a fleet, so that the same input gives the same network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from forecasting.engines.neural_head import LEVELS
from forecasting.engines.neural_windows import Batch, Windows
from forecasting.errors import InvalidHistory

FIRST_ORIGIN_DAYS = 7  # where there is so much: an origin that knows little teaches little
LEAST_DAYS = 3
LEAST_STEPS = 20
HELD_BACK_WINDOWS = 512
AVERAGING = 0.98  # of the weights over steps
LONGEST_GRADIENT = 1.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    steps : at most; passes : nor more of them than see every window so often
    batch, leads : windows in a step, and how many leads of each
    rate : highest learning rate, reached after a sixth of the steps; decay : of weights
    held_back_days : the newest, which only say when to stop; none of a history so short that it
        would leave less than as much again
    check_every : steps between looks at them; patience : looks without progress before it stops
    """

    steps: int = 900
    passes: int = 10
    batch: int = 128
    leads: int = 24
    rate: float = 3e-3
    decay: float = 1e-3
    held_back_days: int = 7
    check_every: int = 100
    patience: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """A fitted network: steps taken to it, mean pinball loss (squeezed) on the days held back."""

    network: nn.Module
    steps: int
    held_back_loss: float | None


def device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread and no algorithm whose sums depend on timing; all settings are put back."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, was = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was)
            torch.set_num_threads(threads)


def fit(
    make: Callable[[int], nn.Module],
    windows: Sequence[Windows],
    *,
    settings: Settings,
    progress: Progress = lambda done, total: None,
) -> Fit:
    """Train a network made by `make(slots a day)`.

    windows : groups of series, all with the same slots; progress : told steps done of how many

    Raises InvalidHistory when no series, or too little of them, was observed.
    """
    where = device()
    with reproducible(settings.seed):
        sample = _Sample(windows, settings)
        network = make(windows[0].per_day).to(where)
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.rate, weight_decay=settings.decay
        )
        steps = sample.steps
        rates = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.rate, total_steps=steps, pct_start=1 / 6
        )
        held_back = [batch.to(where) for batch in sample.held_back()]
        stop = _EarlyStop(settings.patience)
        for step in range(1, steps + 1):
            batch = sample.draw().to(where)
            optimiser.zero_grad()
            _loss(network(batch), batch).backward()
            nn.utils.clip_grad_norm_(network.parameters(), LONGEST_GRADIENT)
            optimiser.step()
            rates.step()
            average.update_parameters(network)
            progress(step, steps)
            looks = step % settings.check_every == 0 or step == steps
            if held_back and looks and stop.is_due(average.module, held_back, step):
                break
        if stop.best is not None:
            return Fit(stop.best, stop.step, stop.loss)
        return Fit(average.module.eval(), steps, None)


class _EarlyStop:
    """Keeps the network that was best on the days held back."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: nn.Module | None = None
        self.loss = float("inf")
        self.step = 0
        self._waited = 0

    def is_due(self, network: nn.Module, held_back: Sequence[Batch], step: int) -> bool:
        loss = _loss_of(network, held_back)
        if loss < self.loss:
            self.best, self.loss, self.step = deepcopy(network).eval(), loss, step
            self._waited = 0
        else:
            self._waited += 1
        return self._waited >= self.patience


class _Sample:
    """Draws windows; those whose targets lie in the days held back are drawn for them alone."""

    def __init__(self, windows: Sequence[Windows], settings: Settings) -> None:
        self._windows, self._settings = windows, settings
        self._chance = torch.Generator().manual_seed(settings.seed)
        self._series = [torch.nonzero(each.observed > 0)[:, 0] for each in windows]
        self._weights = torch.tensor([float(len(each)) for each in self._series])
        per_day, end = windows[0].per_day, windows[0].n_slots
        first = min(each.first for each in windows)
        if end - first < LEAST_DAYS * per_day or not self._weights.sum():
            raise InvalidHistory(
                f"a network needs {LEAST_DAYS} days of observed series to learn from, there are "
                f"{(end - first) / per_day:.1f} days and {int(self._weights.sum())} series"
            )
        held_back = settings.held_back_days * per_day
        self._end = end - (held_back if end - first >= 2 * held_back + per_day else 0)
        self._begin = first + min(FIRST_ORIGIN_DAYS * per_day, (self._end - first) // 2)

    @property
    def steps(self) -> int:
        n_windows = int(self._weights.sum()) * (self._end - self._begin)
        passes = self._settings.passes * n_windows // self._settings.batch
        return min(self._settings.steps, max(passes, LEAST_STEPS))

    def draw(self) -> Batch:
        return self._draw(self._begin, self._end, self._settings.batch)

    def held_back(self) -> list[Batch]:
        end = self._windows[0].n_slots
        if self._end == end:
            return []
        size = self._settings.batch
        return [self._draw(self._end, end, size) for _ in range(HELD_BACK_WINDOWS // size or 1)]

    def _draw(self, begin: int, end: int, size: int) -> Batch:
        """Windows with origins in [begin, end) and no target at or after `end`."""
        group = int(torch.multinomial(self._weights, 1, generator=self._chance))
        windows, observed = self._windows[group], self._series[group]
        series = observed[torch.randint(len(observed), (size,), generator=self._chance)]
        origin = torch.randint(begin, end, (size,), generator=self._chance)
        order = torch.randperm(windows.horizon, generator=self._chance)
        leads = order[: self._settings.leads].sort().values
        batch = windows.cut(series, origin, leads)
        late = origin[:, None] + leads >= end
        batch.target[late | (batch.scale == 0)[:, None]] = torch.nan
        return batch


def _loss_of(network: nn.Module, batches: Sequence[Batch]) -> float:
    network.eval()
    with torch.no_grad():
        return sum(_loss(network(batch), batch).item() for batch in batches) / len(batches)


def _loss(quantiles: Tensor, batch: Batch) -> Tensor:
    """Mean pinball loss over levels and observed targets.

    Of squeezed values: quantiles are the same hours whichever rising scale they are measured on,
    and on this one no single machine decides.
    """
    seen = torch.isfinite(batch.target)
    error = torch.nan_to_num(batch.target)[..., None] - quantiles
    level = torch.tensor(LEVELS, device=quantiles.device)
    loss = torch.maximum(level * error, (level - 1) * error).mean(-1)
    return (loss * seen).sum() / seen.sum().clamp_min(1)
