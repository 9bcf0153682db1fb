"""Answers of Prometheus to columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from desktops.errors import SourceFailed
from desktops.sources.samples import FloatArray, Labels, Samples


def series_of(answer: Any) -> list[Any]:
    """The series of an answer to query_range. Raises SourceFailed for any other, and for one that
    is only a part: what was left out would never be asked for again."""
    if not isinstance(answer, dict) or answer.get("status") != "success":
        raise SourceFailed("The answer is not one of Prometheus' API.")
    # Remarks on the query itself begin like this; anything else says that a store was not heard.
    partial = [each for each in answer.get("warnings", ()) if not each.startswith("PromQL ")]
    if partial:
        raise SourceFailed(f"The answer is only a part: {partial[0][:200]}")
    data = answer.get("data")
    if not isinstance(data, dict) or data.get("resultType") != "matrix":
        raise SourceFailed("The answer is no range of values.")
    return list(data["result"])


def to_samples(
    answers: Mapping[str, Sequence[Any]],
    *,
    label: str,
    pattern: re.Pattern[str],
    first_s: int,
    step_s: int,
    n_points: int,
    shift_s: int = 0,
) -> Samples:
    """One row per desktop and moment at which anything was observed.

    answers : measure → its series
    label, pattern : which label names the desktop, and which part of it; series without are left
        out. Where two series name the same desktop, the larger value counts
    first_s, step_s, n_points : the moments that were asked for
    shift_s : a row is dated so much before the moment it was asked for
    """
    desktops: dict[str, int] = {}
    named = {
        measure: [(_number(one, label, pattern, desktops), one["values"]) for one in series]
        for measure, series in answers.items()
    }
    grids = {
        measure: _grid(series, len(desktops), n_points, first_s, step_s)
        for measure, series in named.items()
    }
    shape = (len(desktops), n_points)
    observed = np.zeros(shape, dtype=np.bool_)
    for grid in grids.values():
        observed |= ~np.isnan(grid)
    # By time, then desktop: what is stored together was observed together.
    point, desktop = np.nonzero(observed.T)
    n = len(point)
    return Samples(
        np.arange(1, n + 1),
        first_s - shift_s + point * step_s,
        Labels.none(n),
        Labels(tuple(desktops), desktop.astype(np.int64)),
        Labels.none(n),
        {measure: grid[desktop, point] for measure, grid in grids.items()},
    )


def _number(series: Any, label: str, pattern: re.Pattern[str], desktops: dict[str, int]) -> int:
    """Which desktop a series is of, -1 for none; one not seen before gets the next number."""
    found = pattern.search(series["metric"].get(label, ""))
    name = found and found.group(1)
    return desktops.setdefault(name, len(desktops)) if name else -1


def _grid(
    series: Sequence[tuple[int, Sequence[tuple[float, str]]]],
    n_desktops: int,
    n_points: int,
    first_s: int,
    step_s: int,
) -> FloatArray:
    """(n_desktops, n_points), NaN where nothing was observed or what was is no number."""
    grid = np.full((n_desktops, n_points), np.nan)
    series = [one for one in series if one[0] >= 0]
    lengths = [len(values) for _, values in series]
    desktop = np.repeat([number for number, _ in series], lengths).astype(np.int64)
    at = np.array([pair[0] for _, values in series for pair in values], dtype=np.float64)
    value = np.array([float(pair[1]) for _, values in series for pair in values])
    point = np.rint((at - first_s) / step_s).astype(np.int64)
    good = np.isfinite(value) & (point >= 0) & (point < n_points)
    np.fmax.at(grid, (desktop[good], point[good]), value[good])
    return grid
