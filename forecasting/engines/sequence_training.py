"""Training of the sequence engine, so that the same past gives the same networks."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.engines.neural_training import reproducible
from forecasting.engines.sequence_lessons import Lessons
from forecasting.engines.sequence_network import Batch, SequenceNetwork

AVERAGING = 0.98  # of the weights over steps
LONGEST_GRADIENT = 1.0
ASKS_AT_ONCE = 512


@dataclass(frozen=True)
class Settings:
    """How the networks are trained.

    members : networks, whose answers are averaged; each holds other people back
    parts : the people are dealt into so many; one part only says when to stop
    steps : at most; passes : nor more of them than see every ask so often
    batch : asks in a step; rate : highest learning rate; decay : of weights
    check_every : steps between looks at the people held back; patience : looks without progress
        before it stops
    """

    members: int = 3
    parts: int = 5
    steps: int = 1200
    passes: int = 30
    batch: int = 64
    rate: float = 2e-3
    decay: float = 1e-2
    check_every: int = 50
    patience: int = 6
    seed: int = 0


def fit_networks(lessons: Lessons, gate: FloatArray, settings: Settings) -> tuple[nn.Module, ...]:
    """Networks that do best on people they were not trained on.

    gate : see `SequenceNetwork`, which all start from, and which they are without lessons
    """
    people = np.unique(lessons.who)
    random = np.random.default_rng(settings.seed)
    part = random.permutation(len(people)) % settings.parts
    of_ask = part[np.searchsorted(people, lessons.who)]
    return tuple(
        _fit(lessons, gate, of_ask == member % settings.parts, settings, settings.seed + member)
        for member in range(settings.members)
    )


def _fit(
    lessons: Lessons, gate: FloatArray, is_held_back: BoolArray, settings: Settings, seed: int
) -> nn.Module:
    learn, check = np.flatnonzero(~is_held_back), np.flatnonzero(is_held_back)
    random = np.random.default_rng(seed)
    with reproducible(seed):
        network = SequenceNetwork(gate)
        if not len(learn):
            return network.eval()
        steps = min(settings.steps, settings.passes * len(learn) // settings.batch + 1)
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.rate, weight_decay=settings.decay
        )
        rates = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.rate, total_steps=steps, pct_start=1 / 6
        )
        best: nn.Module = deepcopy(network)
        least, waited = _held_back_loss(network, lessons, check), 0
        for step in range(1, steps + 1):
            network.train()
            some = random.choice(learn, min(settings.batch, len(learn)), replace=False)
            optimiser.zero_grad()
            _loss(network, *lessons.take(some)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), LONGEST_GRADIENT)
            optimiser.step()
            rates.step()
            average.update_parameters(network)
            if step % settings.check_every and step < steps:
                continue
            now = _held_back_loss(average.module, lessons, check)
            if now < least or not len(check):
                best, least, waited = deepcopy(average.module), now, 0
            else:
                waited += 1
            if waited >= settings.patience:
                break
    return best.eval()


def _loss(network: nn.Module, batch: Batch, happened: Tensor, importance: Tensor) -> Tensor:
    """Mean log loss; happened : shape (n,), row of each question, -1 for somewhere new."""
    rows, elsewhere = network(batch)
    said = torch.where(happened >= 0, rows[happened.clamp_min(0)], elsewhere)
    loss: Tensor = -(said * importance).sum() / importance.sum()
    return loss


def _held_back_loss(network: nn.Module, lessons: Lessons, asks: IntArray) -> float:
    network.eval()
    loss, weight = 0.0, 0.0
    with torch.no_grad():
        for some in np.split(asks, range(ASKS_AT_ONCE, len(asks), ASKS_AT_ONCE)):
            if len(some):
                batch, happened, importance = lessons.take(some)
                share = float(importance.sum())
                loss += share * float(_loss(network, batch, happened, importance))
                weight += share
    return loss / weight if weight else float("inf")
