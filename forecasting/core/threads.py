"""Work on many series side by side: numpy and LightGBM compute without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from forecasting.core.arrays import FloatArray, IntArray

MOST = 4
N_THREADS = max(1, min(MOST, len(os.sched_getaffinity(0))))
# What some hundred series need stays near the processor; more only waits for memory.
SERIES_AT_ONCE = 512


def in_pieces(work: Callable[[IntArray], FloatArray], n_series: int) -> list[FloatArray]:
    """What `work` makes of each piece of `n_series` series, in order."""
    pieces = np.array_split(np.arange(n_series), max(1, -(-n_series // SERIES_AT_ONCE)))
    with ThreadPoolExecutor(N_THREADS) as threads:
        return list(threads.map(work, pieces))
