"""The part that turns what a network makes of the past into quantiles of the hours ahead."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecasting.engines.neural_windows import N_LAGS, N_LEAD, N_STATE, Batch

# Odd in number, the median in the middle.
LEVELS = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)
MEDIAN = len(LEVELS) // 2
# Of squeezed values: where the days before were all alike, the next may still differ a little.
LEAST_SPREAD = 0.004
# Softplus of it is a fifth: the first guess is a distribution some two spreads wide on each side.
FIRST_STEP = -1.5


class QuantileHead(nn.Module):
    """Quantiles at LEVELS of each lead, non-decreasing in level by construction.

    The median is a weighted mean of what was seen at that time of day and week, with weights
    chosen for the lead, plus a correction; every further quantile is a positive step away. Steps
    are measured in the spread of the days before, so that a steady series starts out steady.
    """

    def __init__(self, width: int, *, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width + N_STATE + N_LEAD, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
        )
        self.weights = nn.Linear(hidden, N_LAGS)
        self.steps = nn.Linear(hidden, len(LEVELS))
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(self, summary: Tensor, batch: Batch) -> Tensor:
        """summary : (b, width), of the past; returns squeezed values, (b, h, n_levels)."""
        n_leads = batch.leads.shape[1]
        common = torch.cat([summary, batch.state], -1)[:, None].expand(-1, n_leads, -1)
        hidden = self.mlp(torch.cat([common, batch.leads], -1))
        weights = self.weights(hidden).masked_fill(~batch.lag_seen, -1e4).softmax(-1)
        unit = batch.spread[..., None] + LEAST_SPREAD
        raw = self.steps(hidden)
        median = (weights * batch.lags).sum(-1, keepdim=True) + raw[..., MEDIAN, None] * unit
        steps = functional.softplus(raw + FIRST_STEP) * unit
        # Running sums, as products: on a GPU cumsum is not the same twice.
        sums = torch.ones(MEDIAN, MEDIAN, device=raw.device).triu()
        down, up = steps[..., :MEDIAN] @ sums.T, steps[..., MEDIAN + 1 :] @ sums
        return torch.cat([median - down, median, median + up], -1)
