"""How many threads a computation may take: numpy and LightGBM compute without Python's lock."""

from __future__ import annotations

import os

MOST = 4
N_THREADS = max(1, min(MOST, len(os.sched_getaffinity(0))))
