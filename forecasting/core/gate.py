"""Weights of several guesses that depend on the circumstances, fitted by likelihood.

A mixture of experts: weight = softmax(circumstances @ coefficients). The coefficients maximise
the probability that the mixture gave to what happened, with a Gaussian prior.

Source: Jacobs, Jordan, Nowlan & Hinton (1991), "Adaptive mixtures of local experts".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import FloatArray, IntArray

LEAST_PROBABILITY = 1e-4
# How many cases the leaning counts for, the strongest first; and without a choice.
STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03)
MODERATE = 3.0
STEPS, TRIAL_STEPS, TRIAL_CASES = 300, 80, 5_000


@dataclass(frozen=True)
class Gate:
    """coefficients : shape (n_circumstances, n_guesses)."""

    coefficients: FloatArray

    def weights(self, circumstances: FloatArray) -> FloatArray:
        """Weights of the guesses in each case, shape (n_cases, n_guesses), rows summing to 1."""
        return _softmax(_logits(self.coefficients, circumstances.T)).T


def fit_gate(
    circumstances: FloatArray,
    guesses: FloatArray,
    importance: FloatArray,
    *,
    prior: FloatArray,
    group: IntArray | None = None,
) -> Gate:
    """Fit a gate to what happened.

    circumstances : shape (n_cases, n_circumstances)
    guesses : shape (n_cases, n_guesses), probability each guess gave to what happened
    importance : shape (n_cases,), >= 0
    prior : shape (n_circumstances, n_guesses), coefficients to lean to
    group : shape (n_cases,), whom each case is about. How strongly to lean is chosen by how well
        what is learned of some holds for the others; without groups, moderately.
    """
    lessons = _Lessons.of(circumstances, guesses, importance)
    strength = MODERATE
    if group is not None and len(np.unique(group)) > 1:
        strength = _choose_strength(lessons, group, prior)
    return Gate(_fit(lessons, prior, strength, start=prior, steps=STEPS))


@dataclass(frozen=True)
class _Lessons:
    """facts : shape (n_circumstances, n); guess : shape (n_guesses, n), > 0; importance : (n,)"""

    facts: FloatArray
    guess: FloatArray
    importance: FloatArray

    @classmethod
    def of(cls, circumstances: FloatArray, guesses: FloatArray, importance: FloatArray) -> _Lessons:
        floored = (1 - LEAST_PROBABILITY) * guesses + LEAST_PROBABILITY
        return cls(
            np.ascontiguousarray(circumstances.T), np.ascontiguousarray(floored.T), importance
        )

    def take(self, some: IntArray) -> _Lessons:
        # `take`, for rows that lie together in memory; an index leaves columns together.
        facts, guess = (each.take(some, axis=1) for each in (self.facts, self.guess))
        return _Lessons(facts, guess, self.importance[some])

    def losses(self, coefficients: FloatArray) -> FloatArray:
        """Of each case, times its importance; nats, shape (n,)."""
        likelihood = (_softmax(_logits(coefficients, self.facts)) * self.guess).sum(axis=0)
        result: FloatArray = -self.importance * np.log(likelihood)
        return result


def _choose_strength(lessons: _Lessons, group: IntArray, prior: FloatArray) -> float:
    """Of STRENGTHS the strongest that does as well as the best one, but for chance, on the half of
    the groups that was not learned from."""
    _, number = np.unique(group, return_inverse=True)
    n_groups = int(number.max()) + 1
    # Neighbours may be alike: halves of scattered groups, the same ones every time.
    half = np.random.default_rng(0).permutation(n_groups)[number] % 2
    loss = np.zeros((len(STRENGTHS), n_groups))
    for side in (0, 1):
        learn, check = (_thinned(np.flatnonzero(half == s)) for s in (side, 1 - side))
        coefficients = prior
        for row, strength in enumerate(STRENGTHS):
            # Half of the cases, so half of the leaning.
            coefficients = _fit(
                lessons.take(learn), prior, strength / 2, start=coefficients, steps=TRIAL_STEPS
            )
            losses = lessons.take(check).losses(coefficients)
            loss[row] += np.bincount(number[check], losses, n_groups)
    beyond = loss - loss[loss.sum(axis=1).argmin()]
    by_chance = np.sqrt(n_groups) * beyond.std(axis=1)
    as_good = beyond.sum(axis=1) <= by_chance
    return STRENGTHS[int(np.argmax(as_good))]


def _thinned(cases: IntArray) -> IntArray:
    if len(cases) <= TRIAL_CASES:
        return cases
    return cases[np.linspace(0, len(cases) - 1, TRIAL_CASES).astype(np.int64)]


def _fit(
    lessons: _Lessons, prior: FloatArray, strength: float, *, start: FloatArray, steps: int
) -> FloatArray:
    # It takes half a second to import, and every process imports this module.
    from scipy.optimize import minimize

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        coefficients = flat.reshape(prior.shape)
        weight = _softmax(_logits(coefficients, lessons.facts))
        joint = weight * lessons.guess
        likelihood = joint.sum(axis=0)
        pull = coefficients - prior
        value = strength / 2 * (pull**2).sum() - (lessons.importance * np.log(likelihood)).sum()
        # What happened moves the weights from prior to posterior.
        told = (weight - joint / likelihood) * lessons.importance
        slope = np.einsum("cn,gn->cg", lessons.facts, told) + strength * pull
        return float(value), slope.ravel()

    best = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    found: FloatArray = best.x.reshape(prior.shape)
    return found


def _logits(coefficients: FloatArray, facts: FloatArray) -> FloatArray:
    # Not `@`: NumPy and SciPy bring a BLAS each, whose idle threads wait by spinning and keep one
    # another from the processors; a fit took five times as long on two cores.
    logits: FloatArray = np.einsum("cg,cn->gn", coefficients, facts)
    return logits


def _softmax(logits: FloatArray) -> FloatArray:
    """Over the first axis."""
    power = np.exp(logits - logits.max(axis=0))
    result: FloatArray = power / power.sum(axis=0)
    return result
