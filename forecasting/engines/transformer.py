"""A transformer that reads the last two weeks in patches of a day, each beginning half a day on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from forecasting.engines.neural import NeuralEngine
from forecasting.engines.neural_head import QuantileHead
from forecasting.engines.neural_windows import CONTEXT_DAYS, N_CALENDAR, Batch

N_HEADS = 4
DROPOUT = 0.1


class TransformerNetwork(nn.Module):
    """Source: Nie et al. (2023), "A time series is worth 64 words" (PatchTST)."""

    def __init__(self, per_day: int, *, width: int = 64, layers: int = 2, hidden: int = 96) -> None:
        super().__init__()
        self.patch, self.stride = per_day, max(per_day // 2, 1)
        n_patches = (CONTEXT_DAYS * per_day - self.patch) // self.stride + 1
        self.embed = nn.Linear(2 * self.patch + N_CALENDAR, width)
        self.position = nn.Parameter(0.02 * torch.randn(n_patches, width))
        layer = nn.TransformerEncoderLayer(
            width,
            N_HEADS,
            2 * width,
            dropout=DROPOUT,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = QuantileHead(width, hidden=hidden)

    def forward(self, batch: Batch) -> Tensor:
        values = batch.past[..., :2].unfold(1, self.patch, self.stride).flatten(2)
        ends = batch.past[:, self.patch - 1 :: self.stride, 2:]
        tokens = self.embed(torch.cat([values, ends], -1)) + self.position
        read = self.norm(self.encoder(tokens))
        quantiles: Tensor = self.head(read[:, -1], batch)
        return quantiles


class Transformer(NeuralEngine):
    name = "transformer"
    version = "2"
    network = TransformerNetwork
