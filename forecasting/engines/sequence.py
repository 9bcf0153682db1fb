"""Where people will be, by networks that read their last stays; scored beside the product.

It knows of a person what the mixture of `forecasting.core.location` knows, its guesses among it,
and the order of their stays besides. Trained on earlier moments of the fleet, as the weights of the
mixture are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from forecasting.core.arrays import FloatArray, IntArray
from forecasting.core.location import ELSEWHERE_KEY, learn_gate
from forecasting.core.stays import Questions, Stays
from forecasting.core.whereabouts import Knowledge, Sightings
from forecasting.engines.neural_training import reproducible
from forecasting.engines.sequence_lessons import Lessons
from forecasting.engines.sequence_network import Batch
from forecasting.engines.sequence_training import Settings, fit_networks


@dataclass(frozen=True)
class Sequence:
    """What networks learned of the ways of a fleet; see `location_evaluation.Learned`.

    togetherness : of the fleet, see `Daybook`
    """

    networks: tuple[nn.Module, ...]
    togetherness: FloatArray

    @classmethod
    def learn(
        cls, seen: Sightings, moment_s: float, *, settings: Settings | None = None
    ) -> Sequence:
        """Nothing after the moment is looked at."""
        past = seen.until(moment_s)
        gate = learn_gate(past, moment_s).coefficients
        networks = fit_networks(Lessons.of(past, moment_s), gate, settings or Settings())
        return cls(networks, Knowledge.of(past, moment_s).togetherness)

    def about(self, seen: Sightings, moment_s: float) -> SequenceModel:
        """See `location_evaluation.Learned`."""
        past = seen.until(moment_s)
        people = np.unique(past.user)
        theirs = past.of_some(max(len(people), 1))
        known = Knowledge.of(theirs, moment_s, togetherness=self.togetherness)
        return SequenceModel(self.networks, people, known, Stays.of(theirs, known))


@dataclass(frozen=True)
class SequenceModel:
    """people : shape (n_users,), rising numbers of those that `known` and `stays` are about"""

    networks: tuple[nn.Module, ...]
    people: IntArray
    known: Knowledge
    stays: Stays

    def predict(self, user: ArrayLike, at: ArrayLike) -> list[dict[Any, float]]:
        """Distribution over places, as numbers, for each person at each time, summing to 1.

        user : shape (n,) or one number; at : shape (n,) or one time, seconds since 1970 UTC

        Who was never seen is in a place where they never were.
        """
        number, at_s = np.broadcast_arrays(np.atleast_1d(user), np.atleast_1d(at))
        answers: list[dict[Any, float]] = [{ELSEWHERE_KEY: 1.0} for _ in number]
        seen = np.flatnonzero(np.isin(number, self.people))
        if len(seen):
            who = np.searchsorted(self.people, number[seen])
            asked = Questions.of(self.known, self.stays, who, at_s[seen].astype(np.float64))
            rows, elsewhere = self._shares(asked)
            for i, p in zip(seen.tolist(), elsewhere.tolist(), strict=True):
                answers[i][ELSEWHERE_KEY] = p
            place = self.known.pair_place[asked.pair]
            for i, label, p in zip(
                seen[asked.case].tolist(), place.tolist(), rows.tolist(), strict=True
            ):
                answers[i][label] = p
        return answers

    def _shares(self, asked: Questions) -> tuple[FloatArray, FloatArray]:
        """Probability of each row's place, and of somewhere new; the mean of the networks."""
        batch = Batch(
            torch.from_numpy(self.stays.facts),
            torch.from_numpy(self.stays.place),
            torch.from_numpy(asked.user),
            torch.from_numpy(asked.context.astype(np.float32)),
            torch.from_numpy(np.searchsorted(asked.case, np.arange(len(asked.user)))),
            torch.from_numpy(asked.case),
            torch.from_numpy(asked.places.astype(np.float32)),
        )
        rows, elsewhere = np.zeros(len(asked.case)), np.zeros(len(asked.user))
        with reproducible(0), torch.no_grad():
            for network in self.networks:
                of_rows, of_elsewhere = network(batch)
                rows += of_rows.double().exp().numpy()
                elsewhere += of_elsewhere.double().exp().numpy()
        total = np.bincount(asked.case, rows, len(elsewhere)) + elsewhere
        return rows / total[asked.case], elsewhere / total
