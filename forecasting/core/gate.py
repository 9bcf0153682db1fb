"""Weights of several guesses that depend on the circumstances, fitted by likelihood.

A mixture of experts: weight = softmax(circumstances @ coefficients). The coefficients maximise
the probability that the mixture gave to what happened, with a Gaussian prior.

Source: Jacobs, Jordan, Nowlan & Hinton (1991), "Adaptive mixtures of local experts".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import FloatArray

LEAST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class Gate:
    """coefficients : shape (n_circumstances, n_guesses)."""

    coefficients: FloatArray

    def weights(self, circumstances: FloatArray) -> FloatArray:
        """Weights of the guesses in each case, shape (n_cases, n_guesses), rows summing to 1."""
        weight, _ = _softmax(self.coefficients.T @ circumstances.T)
        return weight.T


def fit_gate(
    circumstances: FloatArray,
    guesses: FloatArray,
    importance: FloatArray,
    *,
    prior: FloatArray,
    prior_cases: float = 3.0,
) -> Gate:
    """Fit a gate to what happened.

    circumstances : shape (n_cases, n_circumstances)
    guesses : shape (n_cases, n_guesses), probability each guess gave to what happened
    importance : shape (n_cases,), >= 0
    prior : shape (n_circumstances, n_guesses), coefficients to lean to
    prior_cases : strength of the leaning
    """
    # It takes half a second to import, and every process imports this module.
    from scipy.optimize import minimize

    floored = (1 - LEAST_PROBABILITY) * guesses + LEAST_PROBABILITY
    facts = np.ascontiguousarray(circumstances.T)
    log_guess = np.ascontiguousarray(np.log(floored).T)

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        coefficients = flat.reshape(prior.shape)
        logits = coefficients.T @ facts
        weight, base = _softmax(logits)
        blame, top = _softmax(logits + log_guess)
        pull = coefficients - prior
        value = (importance * (base - top)).sum() + prior_cases / 2 * (pull**2).sum()
        slope = facts @ ((weight - blame) * importance).T + prior_cases * pull
        return float(value), slope.ravel()

    best = minimize(loss, prior.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 150})
    return Gate(best.x.reshape(prior.shape))


def _softmax(logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Softmax over the first axis, and the log of its normaliser."""
    top = logits.max(axis=0)
    power = np.exp(logits - top)
    total = power.sum(axis=0)
    return power / total, top + np.log(total)
