"""How far a forecast of whereabouts is from the best there is, where that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.known_whereabouts import KINDS, N_SITES, KnownFleet
from forecasting.core.location import ELSEWHERE_KEY, fit_locations
from forecasting.core.location_targets import targets_at
from forecasting.core.whereabouts import Sightings

LEAST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class Excess:
    """Means over first sightings in a band of lead time, nats.

    entropy : of where people truly may be, given what was seen of them
    divergence : what the forecast loses beyond it
    """

    entropy: float
    divergence: float

    @property
    def ratio(self) -> float:
        return self.divergence / self.entropy


def measure_excess(fleet: KnownFleet, moments_s: list[float]) -> dict[str, Excess]:
    """Of the product's model fitted at each moment, by kind of people and for `all`.

    Chances are compared, not one draw from them, so luck plays a small part only.
    """
    seen = Sightings.of(
        fleet.user,
        fleet.place,
        fleet.at_s,
        n_users=fleet.n_of_kind * len(KINDS),
        n_places=N_SITES,
    )
    kind, entropy, divergence = [], [], []
    for moment_s in moments_s:
        targets = targets_at(seen, moment_s)
        first = targets.is_first
        user, at_s = targets.user[first], targets.at_s[first]
        past = seen.until(moment_s)
        truth = _as_known(fleet.truth(moment_s, user, at_s), past, user)
        model = fit_locations(past.user, past.at_s, past.place, until=moment_s)
        said = np.zeros_like(truth)
        for row, answer in enumerate(model.predict(user, at_s)):
            for place, chance in answer.items():
                said[row, N_SITES if place == ELSEWHERE_KEY else place] = chance
        log_truth = np.log(np.where(truth > 0, truth, 1.0))
        log_said = np.log(np.maximum(said, LEAST_PROBABILITY))
        kind.append(fleet.kind(user))
        entropy.append(-(truth * log_truth).sum(axis=1))
        divergence.append((truth * (log_truth - log_said)).sum(axis=1))
    of, lost, beyond = (np.concatenate(each) for each in (kind, entropy, divergence))
    return {
        "all": Excess(float(lost.mean()), float(beyond.mean())),
        **{
            name: Excess(float(lost[of == k].mean()), float(beyond[of == k].mean()))
            for k, name in enumerate(KINDS)
        },
    }


def _as_known(truth: np.ndarray, past: Sightings, user: np.ndarray) -> np.ndarray:
    """Chances with all places a person was never seen in as one, the last column."""
    is_known = np.zeros((past.n_users, N_SITES), dtype=bool)
    is_known[past.user, past.place] = True
    known = np.where(is_known[user], truth, 0.0)
    return np.column_stack([known, 1.0 - known.sum(axis=1)]).clip(0.0)
