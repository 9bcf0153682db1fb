"""The second stage: along each path the cheaper of staying and cutting over.

Two states, A (where the desktop is) and B (the prepared alternative). The choice is made anew each
hour; it may only be made where it is allowed, so that a cutover waits for its confirmation. Exact
dynamic programme on integers, vectorised over variants, desktops and paths.

Shapes: T hours, V variants, m desktops, K paths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from migration.core.slo import BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Recourse:
    """The best response.

    value : (V, m) cost summed over paths, beginning in A
    goes, returns : (T, V, m, K) whether it would leave A, and B, at the start of that hour
    """

    value: IntArray
    goes: BoolArray
    returns: BoolArray


@dataclass(frozen=True, slots=True)
class Course:
    """What happens along each path when one variant is followed; shapes (T, m, K)."""

    in_b: BoolArray
    cut_over: BoolArray
    cut_back: BoolArray
    first_cut: BoolArray


def best_response(
    *,
    path_a: IntArray,
    path_b: IntArray,
    hour_a: IntArray,
    hour_b: IntArray,
    go: IntArray,
    back: IntArray,
    can_go: BoolArray,
    can_return: BoolArray,
    end_in_b: IntArray,
) -> Recourse:
    """Solve backwards from the end.

    path_a, path_b : (T, m, K) cost of the hour in A and B that depends on the path
    hour_a, hour_b : (T, V, m) cost of the hour that does not
    go, back : (T, V, m) price of a cutover A to B and B to A at the start of the hour
    can_go, can_return : (T, m, K)
    end_in_b : (V, m) still to pay when the horizon ends in B

    On equal cost nothing is moved.
    """
    hours, variants, desktops = hour_a.shape
    shape = (variants, desktops, path_a.shape[2])
    goes = np.empty((hours, *shape), dtype=bool)
    returns = np.empty((hours, *shape), dtype=bool)
    value_a: IntArray = np.zeros(shape, dtype=np.int64)
    value_b: IntArray = np.zeros(shape, dtype=np.int64) + end_in_b[..., None]
    for t in range(hours - 1, -1, -1):
        in_a = value_a + hour_a[t][..., None]
        in_a += path_a[t]
        in_b = value_b + hour_b[t][..., None]
        in_b += path_b[t]
        over = in_b + go[t][..., None]
        home = in_a + back[t][..., None]
        np.less(over, in_a, out=goes[t])
        goes[t] &= can_go[t]
        np.less(home, in_b, out=returns[t])
        returns[t] &= can_return[t]
        value_a = np.where(goes[t], over, in_a)
        value_b = np.where(returns[t], home, in_b)
    return Recourse(value_a.sum(axis=-1), goes, returns)


def follow(goes: BoolArray, returns: BoolArray) -> Course:
    """Walk forwards from A; goes, returns : (T, m, K) of one variant per desktop."""
    in_b = np.empty(goes.shape, dtype=bool)
    cut_over = np.empty(goes.shape, dtype=bool)
    cut_back = np.empty(goes.shape, dtype=bool)
    first_cut = np.empty(goes.shape, dtype=bool)
    now: BoolArray = np.zeros(goes.shape[1:], dtype=bool)
    ever: BoolArray = np.zeros(goes.shape[1:], dtype=bool)
    for t in range(len(goes)):
        cut_over[t] = goes[t] & ~now
        cut_back[t] = returns[t] & now
        first_cut[t] = cut_over[t] & ~ever
        ever |= cut_over[t]
        now = (now | cut_over[t]) & ~cut_back[t]
        in_b[t] = now
    return Course(in_b, cut_over, cut_back, first_cut)
