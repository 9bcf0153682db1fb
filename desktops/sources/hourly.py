"""Samples to sums per hour. An hour that two stretches share is completed by adding the sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from desktops.sources.samples import MEASURES, FloatArray, IntArray, Samples

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class HourSums:
    """One row per person, desktop and hour; arrays of shape (n,).

    person, desktop, site : codes into the samples' labels, -1 for none
    hour_s : beginning of the hour, seconds since 1970 UTC
    sums, counts : by measure
    site : the last seen in the hour, at site_s
    """

    person: IntArray
    desktop: IntArray
    hour_s: IntArray
    sums: dict[str, FloatArray]
    counts: dict[str, IntArray]
    site: IntArray
    site_s: IntArray

    def __len__(self) -> int:
        return len(self.hour_s)


def sum_by_hour(samples: Samples) -> HourSums:
    hour = samples.unix_s // HOUR_S
    first_hour = hour.min(initial=0)
    n_desktops = len(samples.desktop.values) + 1
    n_hours = int(hour.max(initial=0) - first_hour) + 1
    subject = (samples.person.codes + 1) * n_desktops + samples.desktop.codes + 1
    _, first, group = np.unique(
        subject * n_hours + hour - first_hour, return_index=True, return_inverse=True
    )
    n = len(first)
    sums, counts = {}, {}
    for name in MEASURES:
        values = samples.measures.get(name)
        if values is None:
            sums[name], counts[name] = np.zeros(n), np.zeros(n, dtype=np.int64)
            continue
        given = np.isfinite(values)
        sums[name] = np.bincount(group, np.where(given, values, 0.0), minlength=n)
        counts[name] = np.bincount(group, given, minlength=n).astype(np.int64)
    site, site_s = _last_site(samples, group, n)
    return HourSums(
        samples.person.codes[first],
        samples.desktop.codes[first],
        HOUR_S * hour[first],
        sums,
        counts,
        site,
        site_s,
    )


def _last_site(samples: Samples, group: IntArray, n: int) -> tuple[IntArray, IntArray]:
    rows = np.flatnonzero(samples.site.is_given)
    rows = rows[np.argsort(samples.unix_s[rows], kind="stable")]
    site, site_s = np.full(n, -1), np.zeros(n, dtype=np.int64)
    # Written in order of time: the last one stays.
    site[group[rows]] = samples.site.codes[rows]
    site_s[group[rows]] = samples.unix_s[rows]
    return site, site_s
