"""A long short-term memory network that reads the last week slot by slot."""

from __future__ import annotations

from torch import Tensor, nn

from forecasting.engines.neural import NeuralEngine
from forecasting.engines.neural_head import QuantileHead
from forecasting.engines.neural_windows import N_PAST, Batch

READ_DAYS = 7


class LstmNetwork(nn.Module):
    """Source: Hochreiter & Schmidhuber (1997), "Long short-term memory"."""

    def __init__(self, per_day: int, *, width: int = 48, hidden: int = 96) -> None:
        super().__init__()
        self.n_read = READ_DAYS * per_day
        self.encoder = nn.LSTM(N_PAST, width, batch_first=True)
        self.head = QuantileHead(width, hidden=hidden)

    def forward(self, batch: Batch) -> Tensor:
        _, (state, _) = self.encoder(batch.past[:, -self.n_read :])
        quantiles: Tensor = self.head(state[-1], batch)
        return quantiles


class Lstm(NeuralEngine):
    name = "lstm"
    version = "2"
    network = LstmNetwork
