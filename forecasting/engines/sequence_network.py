"""A network that reads a person's last stays and says how likely each of their places is.

An LSTM reads the stays. Whatever is asked then looks back at them by attention, and each place gets
the attention of its stays (a pointer network, for which places need no names). That is one more
guess beside those of `forecasting.core.whereabouts`. What the LSTM made of the stays corrects the
weights by which the product mixes them, and each place's share by a score of how often, how lately
and by which guesses the person would be there. Untrained it says about what the product says.

Source: Hochreiter & Schmidhuber (1997), "Long short-term memory"; Vinyals, Fortunato & Jaitly
(2015), "Pointer networks"; Merity et al. (2016), "Pointer sentinel mixture models".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from forecasting.core.arrays import FloatArray
from forecasting.core.stays import (
    GUESS_SCALE,
    LEAST_GUESS,
    N_CONTEXT,
    N_GUESSES,
    N_PLACE_FACTS,
    N_STAY_FACTS,
)
from forecasting.core.whereabouts import ELSEWHERE, N_CIRCUMSTANCES

DROPOUT = 0.1
# Before any evidence attention is a rare guess.
ATTENTION_LOGIT = -3.0
# Weights that places have a part in: all but that of somewhere new.
IS_OF_PLACES = [*range(N_GUESSES), N_GUESSES + 1]


@dataclass(frozen=True)
class Batch:
    """Questions about people.

    stays : shape (n_people, N_STAYS, N_STAY_FACTS); stay_place : (n_people, N_STAYS), -1 for none
    person : shape (n,); context : (n, N_CONTEXT); first_row : (n,), of the question's places
    case : shape (n_rows,), question of each place, in order; places : (n_rows, N_PLACE_FACTS)
    """

    stays: Tensor
    stay_place: Tensor
    person: Tensor
    context: Tensor
    first_row: Tensor
    case: Tensor
    places: Tensor


class SequenceNetwork(nn.Module):
    """gate : shape (N_CIRCUMSTANCES, n_guesses), the mixture's own weights, which are bettered"""

    def __init__(self, gate: FloatArray, *, width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("gate", torch.from_numpy(gate.astype(np.float32)))
        self.lstm = nn.LSTM(N_STAY_FACTS, width, batch_first=True)
        self.context = nn.Sequential(
            nn.Linear(N_CONTEXT + width, hidden), nn.GELU(), nn.Dropout(DROPOUT)
        )
        self.query = nn.Linear(hidden, width)
        self.key = nn.Linear(N_STAY_FACTS + width, width)
        # In the guesses, somewhere new the last of them, and in the attention.
        self.trust = nn.Linear(hidden, N_GUESSES + 2)
        self.mood = nn.Linear(hidden, hidden)
        self.place = nn.Linear(N_PLACE_FACTS + 1, hidden)
        self.mull = nn.Sequential(nn.GELU(), nn.Dropout(DROPOUT))
        self.score = nn.Linear(hidden, 1)
        self._begin_as_the_mixture()

    def _begin_as_the_mixture(self) -> None:
        for last in (self.score, self.trust):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        with torch.no_grad():
            self.trust.bias[-1] = ATTENTION_LOGIT

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log probability of each row's place, and of somewhere new for each question."""
        states, (last, _) = self.lstm(batch.stays)
        context = self.context(torch.cat([batch.context, last[-1][batch.person]], -1))
        pointed = self._pointed(batch, states, context)
        places = torch.cat([batch.places, pointed[:, None]], -1)
        told = (batch.context[:, :N_CIRCUMSTANCES] @ self.gate).log_softmax(-1)
        weight = nn.functional.pad(told, (0, 1)) + self.trust(context)
        said = torch.cat([batch.places[:, :N_GUESSES], pointed[:, None]], -1) * GUESS_SCALE
        mixed = torch.logsumexp(weight[batch.case][:, IS_OF_PLACES] + said, -1)
        mulled = self.mull(self.place(places) + self.mood(context)[batch.case])
        return log_shares(mixed + self.score(mulled)[:, 0], weight[:, ELSEWHERE], batch.case)

    def _pointed(self, batch: Batch, states: Tensor, context: Tensor) -> Tensor:
        """Log of the attention that each row's place gets, told as guesses are."""
        key = self.key(torch.cat([states, batch.stays], -1))[batch.person]
        place = batch.stay_place[batch.person]
        score = (key @ self.query(context)[:, :, None])[:, :, 0] / key.shape[-1] ** 0.5
        is_there = place >= 0
        attention = score.masked_fill(~is_there, -1e9).softmax(-1)
        row = (batch.first_row[:, None] + place)[is_there]
        got = torch.zeros(len(batch.case)).index_add(0, row, attention[is_there])
        return torch.log(got + LEAST_GUESS) / GUESS_SCALE


def log_shares(rows: Tensor, elsewhere: Tensor, case: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the rows of each case and its elsewhere, as logarithms."""
    # Any number leaves the shares as they are; the largest keeps the powers finite.
    most = elsewhere.detach().scatter_reduce(0, case, rows.detach(), "amax")
    powers = torch.exp(elsewhere - most).index_add(0, case, torch.exp(rows - most[case]))
    total = most + torch.log(powers)
    return rows - total[case], elsewhere - total
