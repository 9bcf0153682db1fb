"""The highest posterior of Prophet's model, for many series at once.

For a known noise variance the maximum a posteriori estimate is a ridge regression with an L1
penalty on the slope changes, and the best variance for known coefficients is closed-form. All but
the slope changes are eliminated, which leaves a quadratic programme of 25 unknowns a series,
solved by a primal-dual interior-point method; the variance follows after every step.

Source: the priors are those of Prophet's Stan model. Interior point: Boyd & Vandenberghe (2004),
"Convex optimization", chapter 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray

N_CHANGEPOINTS = 25
LAPLACE_SCALE = 0.05
TREND_SCALE = 5.0
SEASONAL_SCALE = 10.0
NOISE_SCALE = 0.5

# Columns of the design: slope, offset, slope changes, then seasonalities and holidays.
SLOPE, OFFSET, CHANGES = 0, 1, slice(2, 2 + N_CHANGEPOINTS)

# Scaled values lie in [-1, 1]; noise below this is rounding, and would make the programme singular.
LEAST_NOISE = 1e-7
# A dozen are usual; a series that hardly errs takes a hundred, as its noise is found step by step.
MAX_ITERATIONS = 200
TOLERANCE = 1e-9
# How far a step aims to bring the products of values and duals down.
CENTRING = 0.1
# Series that are done are let go when they are this share of those still worked on.
LEAVE_TOGETHER = 0.1


def maximise_posterior(
    gram: FloatArray, moment: FloatArray, energy: FloatArray, count: FloatArray
) -> FloatArray:
    """MAP coefficients of a batch of series, shape (n, p).

    gram : X'X, shape (n, p, p), or (1, p, p) when the series share it
    moment, energy : X'y (n, p) and y'y (n,) of the scaled series
    count : number of observations, shape (n,)
    """
    problem = _SlopeChanges.of(gram, moment, energy, count)
    changes, variance = _interior_point(problem)
    coefficients = np.empty_like(moment)
    rest = problem.rest(changes, variance)
    coefficients[:, CHANGES] = changes
    coefficients[:, _rest(moment.shape[1])] = np.matmul(problem.rotation, rest[:, :, None])[:, :, 0]
    return coefficients


def log_posterior(
    coefficients: FloatArray, variance: FloatArray, squared_error: FloatArray, count: FloatArray
) -> FloatArray:
    """As Stan's `lp__` for Prophet's model, constants left out; shape (n,)."""
    result: FloatArray = (
        -count * np.log(variance) / 2
        - squared_error / (2 * variance)
        - variance / (2 * NOISE_SCALE**2)
        - (_precision(coefficients.shape[1]) * coefficients**2).sum(axis=1) / 2
        - np.abs(coefficients[:, CHANGES]).sum(axis=1) / LAPLACE_SCALE
    )
    return result


def best_variance(squared_error: FloatArray, count: FloatArray) -> FloatArray:
    """The noise variance of highest posterior for given residuals, in closed form.

    Root of v^2 / NOISE_SCALE^2 + count * v - squared_error = 0, in the form without cancellation.
    """
    root = np.sqrt(count**2 + 4 * squared_error / NOISE_SCALE**2)
    return np.maximum(2 * squared_error / (count + root), LEAST_NOISE**2)


@dataclass(frozen=True)
class _SlopeChanges:
    """The programme in the slope changes alone, everything else having been eliminated.

    For a given noise variance v the other coefficients solve a ridge regression. In the basis in
    which their Gram matrix and their prior are both diagonal that is a division by
    `curvature + v`, so the programme for another v costs one small product.

    gram, pull : shape (n or 1, 25, 25) of the changes, (n or 1, rest, 25) of them with the rest
    curvature, rotation : shape (n or 1, rest), (n or 1, rest, rest), the basis of the rest
    moment, rest_moment, energy, count : shape (n, 25), (n, rest), (n,), (n,)
    """

    gram: FloatArray
    pull: FloatArray
    curvature: FloatArray
    rotation: FloatArray
    moment: FloatArray
    rest_moment: FloatArray
    energy: FloatArray
    count: FloatArray

    @classmethod
    def of(
        cls, gram: FloatArray, moment: FloatArray, energy: FloatArray, count: FloatArray
    ) -> _SlopeChanges:
        rest = _rest(moment.shape[1])
        root = 1.0 / np.sqrt(_precision(moment.shape[1])[rest])
        curvature, basis = np.linalg.eigh(gram[:, rest[:, None], rest] * root[:, None] * root)
        rotation = root[:, None] * basis
        changes = gram[:, CHANGES, CHANGES].copy()
        # A hair of ridge: neighbouring ramps may coincide where half the history is missing.
        where = np.arange(N_CHANGEPOINTS)
        changes[:, where, where] += 1e-13 * count.max()
        return cls(
            gram=changes,
            pull=np.matmul(rotation.transpose(0, 2, 1), gram[:, rest, CHANGES]),
            curvature=np.maximum(curvature, 0.0),
            rotation=rotation,
            moment=moment[:, CHANGES],
            rest_moment=np.matmul(moment[:, None, rest], rotation)[:, 0],
            energy=energy,
            count=count,
        )

    def take(self, some: IntArray | BoolArray) -> _SlopeChanges:
        """The same for some of the series."""
        return _SlopeChanges(
            *(
                each if len(each) == 1 < len(self.energy) else each[some]
                for each in vars(self).values()
            )
        )

    def reduced(self, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gram matrix and moment of the changes, shapes (n, 25, 25) and (n, 25)."""
        shrink = 1.0 / (self.curvature + variance[:, None])
        pulled = self.pull * shrink[:, :, None]
        gram = self.gram - np.matmul(pulled.transpose(0, 2, 1), self.pull)
        moment = self.moment - np.matmul(self.rest_moment[:, None], pulled)[:, 0]
        return gram, moment

    def rest(self, changes: FloatArray, variance: FloatArray) -> FloatArray:
        """The other coefficients for given changes, in their own basis; (n, rest)."""
        left = self.rest_moment - np.matmul(self.pull, changes[:, :, None])[:, :, 0]
        result: FloatArray = left / (self.curvature + variance[:, None])
        return result

    def squared_error(self, changes: FloatArray, rest: FloatArray) -> FloatArray:
        """Sum of squared residuals, shape (n,)."""
        pulled = np.matmul(rest[:, None], self.pull)[:, 0]
        bent = np.matmul(self.gram, changes[:, :, None])[:, :, 0]
        error = self.energy + (rest * (self.curvature * rest - 2 * self.rest_moment)).sum(axis=1)
        error += (changes * (bent + 2 * pulled - 2 * self.moment)).sum(axis=1)
        result: FloatArray = np.maximum(error, 0.0)
        return result


def _rest(n_columns: int) -> IntArray:
    """Columns other than the slope changes."""
    return np.delete(np.arange(n_columns), CHANGES)


def _precision(n_columns: int) -> FloatArray:
    """Of the Gaussian priors, by column; 0 for the slope changes, which have another."""
    precision = np.full(n_columns, SEASONAL_SCALE**-2)
    precision[[SLOPE, OFFSET]] = TREND_SCALE**-2
    precision[CHANGES] = 0.0
    return precision


def _interior_point(problem: _SlopeChanges) -> tuple[FloatArray, FloatArray]:
    """Slope changes (n, 25) and noise variance (n,) of highest posterior.

    With r = gram x changes - moment the optimum satisfies |r| <= penalty, with equality and the
    opposite sign where a change is not zero. `up` and `down` are the positive and negative parts
    of the changes, `up_dual` and `down_dual` the slacks of the two inequalities; their products
    are driven to zero together. The variance takes its best value after every step.
    """
    n_series = len(problem.energy)
    found, found_variance = np.zeros((n_series, N_CHANGEPOINTS)), np.zeros(n_series)
    open_ = np.arange(n_series)
    changes = np.zeros((n_series, N_CHANGEPOINTS))
    variance = best_variance(problem.energy, problem.count)
    penalty = (variance / LAPLACE_SCALE)[:, None]
    up = np.full((n_series, N_CHANGEPOINTS), LAPLACE_SCALE)
    down = up.copy()
    up_dual = np.repeat(penalty, N_CHANGEPOINTS, axis=1)
    down_dual = up_dual.copy()
    diagonal = np.arange(N_CHANGEPOINTS)
    for _ in range(MAX_ITERATIONS):
        gram, moment = problem.reduced(variance)
        gap = (up * up_dual + down * down_dual).mean(axis=1, keepdims=True) / 2
        mu = CENTRING * gap
        give = up / up_dual + down / down_dual
        push = mu / up_dual - up - mu / down_dual + down
        gradient = np.matmul(gram, changes[:, :, None])[:, :, 0] - moment
        gradient += penalty - up_dual - push / give
        gram[:, diagonal, diagonal] += 1.0 / give
        move = -np.linalg.solve(gram, gradient[:, :, None])[:, :, 0]

        dual_move = (push - move) / give
        up_move = (mu - up * up_dual - up * dual_move) / up_dual
        down_move = (mu - down * down_dual + down * dual_move) / down_dual
        primal = _step_inside((up, up_move), (down, down_move))
        dual = _step_inside((up_dual, dual_move), (down_dual, -dual_move))
        length = np.minimum(primal, dual)
        changes = changes + length * move
        up, down = up + length * up_move, down + length * down_move
        up_dual, down_dual = up_dual + length * dual_move, down_dual - length * dual_move

        error = problem.squared_error(changes, problem.rest(changes, variance))
        previous, variance = variance, best_variance(error, problem.count)
        settled = np.abs(variance - previous) <= TOLERANCE * variance
        settled &= gap[:, 0] <= TOLERANCE * variance
        found[open_], found_variance[open_] = changes, variance
        if settled.all():
            break
        stretch = (variance / previous)[:, None]
        up_dual, down_dual = up_dual * stretch, down_dual * stretch
        penalty = (variance / LAPLACE_SCALE)[:, None]
        if settled.sum() >= LEAVE_TOGETHER * len(settled):
            left = ~settled
            problem, open_ = problem.take(left), open_[left]
            changes, variance, penalty = changes[left], variance[left], penalty[left]
            up, down, up_dual, down_dual = up[left], down[left], up_dual[left], down_dual[left]
    return found, found_variance


def _step_inside(*moves: tuple[FloatArray, FloatArray]) -> FloatArray:
    """The longest step up to 1 that keeps every value positive, shape (n, 1)."""
    longest = np.ones(len(moves[0][0]))
    for value, move in moves:
        ratio = np.where(move < 0, -value / np.where(move < 0, move, 1.0), np.inf)
        longest = np.minimum(longest, 0.99 * ratio.min(axis=1))
    return longest[:, None]
