"""Weights of several guesses that depend on the circumstances, fitted by likelihood.

A mixture of experts: weight = softmax(circumstances @ coefficients). The coefficients maximise
the probability that the mixture gave to what happened, with a Gaussian prior.

Source: Jacobs, Jordan, Nowlan & Hinton (1991), "Adaptive mixtures of local experts".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from forecasting.core.arrays import FloatArray

LEAST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class Gate:
    """coefficients : shape (n_circumstances, n_guesses)."""

    coefficients: FloatArray

    def weights(self, circumstances: FloatArray) -> FloatArray:
        """Weights of the guesses in each case, shape (n_cases, n_guesses), rows summing to 1."""
        result: FloatArray = softmax(circumstances @ self.coefficients, axis=1)
        return result


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
    floored = (1 - LEAST_PROBABILITY) * guesses + LEAST_PROBABILITY
    log_guess = np.log(floored)

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        coefficients = flat.reshape(prior.shape)
        logits = circumstances @ coefficients
        joint = logits + log_guess
        top = logsumexp(joint, axis=1, keepdims=True)
        base = logsumexp(logits, axis=1, keepdims=True)
        pull = coefficients - prior
        value = -(importance * (top - base)[:, 0]).sum() + prior_cases / 2 * (pull**2).sum()
        blame = (np.exp(logits - base) - np.exp(joint - top)) * importance[:, None]
        return float(value), (circumstances.T @ blame + prior_cases * pull).ravel()

    best = minimize(loss, prior.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 150})
    return Gate(best.x.reshape(prior.shape))
