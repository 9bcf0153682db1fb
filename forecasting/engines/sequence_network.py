"""A network that reads a person's last stays and says how likely each of their places is.

An LSTM reads the stays. Whatever is asked then looks back at them by attention, and each place gets
the attention of its stays (a pointer network, for which places need no names). That is one more
guess beside those of `forecasting.core.whereabouts`: all are mixed by weights of the context, which
holds what the LSTM made of the stays. Then each place's share grows or shrinks by a score of how
often, how lately and by which guesses the person would be there.

Source: Hochreiter & Schmidhuber (1997), "Long short-term memory"; Vinyals, Fortunato & Jaitly
(2015), "Pointer networks"; Merity et al. (2016), "Pointer sentinel mixture models".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forecasting.core.location import NEW_PLACE_LOGIT
from forecasting.core.stays import (
    GUESS_SCALE,
    LEAST_GUESS,
    N_CONTEXT,
    N_GUESSES,
    N_PLACE_FACTS,
    N_STAY_FACTS,
)

DROPOUT = 0.1


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
    def __init__(self, *, width: int = 32, hidden: int = 64) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_STAY_FACTS, width, batch_first=True)
        self.context = nn.Sequential(
            nn.Linear(N_CONTEXT + width, hidden), nn.GELU(), nn.Dropout(DROPOUT)
        )
        self.query = nn.Linear(hidden, width)
        self.key = nn.Linear(N_STAY_FACTS + width, width)
        # Weights of the guesses, of the attention, and of somewhere new.
        self.trust = nn.Linear(hidden, N_GUESSES + 2)
        self.mood = nn.Linear(hidden, hidden)
        self.place = nn.Linear(N_PLACE_FACTS + 1, hidden)
        self.mull = nn.Sequential(nn.GELU(), nn.Dropout(DROPOUT))
        self.score = nn.Linear(hidden, 1)
        self._trust_all_guesses()

    def _trust_all_guesses(self) -> None:
        """Before any evidence a place is as likely as the mean of the guesses has it."""
        for last in (self.score, self.trust):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        with torch.no_grad():
            self.trust.bias[-1] = NEW_PLACE_LOGIT

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log probability of each row's place, and of somewhere new for each question."""
        states, (last, _) = self.lstm(batch.stays)
        context = self.context(torch.cat([batch.context, last[-1][batch.person]], -1))
        pointed = self._pointed(batch, states, context)
        places = torch.cat([batch.places, pointed[:, None]], -1)
        weight = self.trust(context).log_softmax(-1)
        said = torch.cat([batch.places[:, :N_GUESSES], pointed[:, None]], -1) * GUESS_SCALE
        mixed = torch.logsumexp(weight[batch.case, :-1] + said, -1)
        mulled = self.mull(self.place(places) + self.mood(context)[batch.case])
        return log_shares(mixed + self.score(mulled)[:, 0], weight[:, -1], batch.case)

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
