"""How sure a mixture of guesses should be, learned from how sure it was and what then happened.

Guesses that bear each other out deserve more trust together than a mixture of them gets, and
guesses that all repeat one old habit deserve less. So probabilities are raised to a power and
brought back to a sum of one: above 1 the answer gets surer, below 1 less sure. The power depends
on how far ahead is asked.

Source: Guo, Pleiss, Sun & Weinberger (2017), "On calibration of modern neural networks"
(temperature scaling); Ranjan & Gneiting (2010), "Combining probability forecasts".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray

LEAST_PROBABILITY = 1e-6
HOURS_PER_WEEK = 168
# How strongly the power leans to one: as if so many cases had said so.
PRIOR_CASES = 20.0


@dataclass(frozen=True)
class Confidence:
    """log power = level + slope * (lead - 1); lead is on a logarithmic scale where a week is 1."""

    level: float = 0.0
    slope: float = 0.0

    def power(self, lead_h: FloatArray) -> FloatArray:
        """Shape (n_cases,); lead_h : hours ahead."""
        result: FloatArray = np.exp(self.level + self.slope * _log_lead(lead_h))
        return result

    def apply(
        self, case: IntArray, probability: FloatArray, elsewhere: FloatArray, lead_h: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """The distributions as sure as they should be, each summing to 1.

        case : shape (n_rows,), which case a row belongs to; probability : shape (n_rows,), up to
            a factor
        elsewhere, lead_h : shape (n_cases,)
        """
        power = self.power(lead_h)
        raised = np.maximum(probability, LEAST_PROBABILITY) ** power[case]
        raised[probability <= 0] = 0.0
        away = elsewhere**power
        total = np.bincount(case, raised, len(elsewhere)) + away
        return raised / total[case], away / total


@dataclass(frozen=True)
class Told:
    """What was said of some sightings, n_cases of them, and which place it turned out to be.

    case, probability, happened : shape (n_rows,), of places a person was seen in
    elsewhere, lead_h, importance : shape (n_cases,)
    """

    case: IntArray
    probability: FloatArray
    elsewhere: FloatArray
    happened: BoolArray
    lead_h: FloatArray
    importance: FloatArray


def fit_confidence(told: Sequence[Told]) -> Confidence:
    """The power under which what happened was likeliest; 1 with nothing to learn from."""
    # It takes half a second to import, and every process imports this module.
    from scipy.optimize import minimize

    if not told:
        return Confidence()
    starts = np.cumsum([0, *(len(each.elsewhere) for each in told)])
    n_cases = int(starts[-1])
    case = np.concatenate([each.case + at for each, at in zip(told, starts, strict=False)])
    rows = np.log(np.maximum(np.concatenate([t.probability for t in told]), LEAST_PROBABILITY))
    away = np.log(np.maximum(np.concatenate([t.elsewhere for t in told]), LEAST_PROBABILITY))
    happened = np.concatenate([each.happened for each in told])
    lead = _log_lead(np.concatenate([each.lead_h for each in told]))
    importance = np.concatenate([each.importance for each in told])
    log_outcome = away.copy()
    log_outcome[case[happened]] = rows[happened]

    def loss(at: FloatArray) -> tuple[float, FloatArray]:
        power = np.exp(at[0] + at[1] * lead)
        raised, gone = np.exp(power[case] * rows), np.exp(power * away)
        total = np.bincount(case, raised, n_cases) + gone
        mean = (np.bincount(case, raised * rows, n_cases) + gone * away) / total
        value = importance @ (np.log(total) - power * log_outcome)
        slope = importance * power * (mean - log_outcome)
        pull = PRIOR_CASES * at
        return (
            float(value + (pull * at).sum() / 2),
            np.array([slope.sum(), slope @ lead]) + pull,
        )

    best = minimize(
        loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-1.0, 1.0), (-1.0, 1.0)]
    )
    return Confidence(float(best.x[0]), float(best.x[1]))


def _log_lead(lead_h: FloatArray) -> FloatArray:
    result: FloatArray = np.log1p(np.maximum(lead_h, 0.0)) / np.log1p(HOURS_PER_WEEK) - 1.0
    return result
