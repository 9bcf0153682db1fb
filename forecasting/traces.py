"""Recorded resource use of real machines, read from published data sets as hourly means.

Two layouts are known by their files:

* `vm/*.csv.gz` with `meta.csv`: the columns of the Grid Workloads Archive's GWA-T-12 Bitbrains
  trace. Four resources: processor (MHz used), memory (KB active), disk (KB/s read) and network
  (KB/s received).
* `omi-*.npz`: the Application Server Dataset. One set of 19 unnamed metrics per server, five
  minutes apart, without dates: its first hour is taken to be a Monday's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from forecasting.core.arrays import FloatArray
from forecasting.errors import InvalidTrace

HOUR = timedelta(hours=1)
BITBRAINS_COLUMNS = {"cpu": 3, "memory": 6, "disk": 7, "network": 9}
ASD_SAMPLES_PER_HOUR = 12
ASD_START = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Trace:
    """Hourly means.

    name : of the layout
    start : aware beginning of slot 0
    resources : by name, shape (n_machines or n_series, n_slots), NaN where nothing was recorded
    """

    name: str
    start: datetime
    resources: Mapping[str, FloatArray]

    @property
    def n_slots(self) -> int:
        return next(iter(self.resources.values())).shape[1]

    @property
    def n_series(self) -> int:
        return sum(len(each) for each in self.resources.values())


def read_trace(
    folder: Path,
    *,
    machines: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trace:
    """Read a folder in whichever layout it is.

    machines : how many at most, evenly spread over the files; None for all
    progress : told how many files of how many are read

    Raises InvalidTrace when no layout fits, or a file cannot be read.
    """
    for pattern, read in (("vm/*.csv.gz", _read_bitbrains), ("omi-*.npz", _read_asd)):
        files = sorted(folder.glob(pattern))
        if files:
            return read(_spread(files, machines), progress)
    raise InvalidTrace(
        f"{folder} holds neither vm/*.csv.gz (Bitbrains) nor omi-*.npz (Application Server Dataset)"
    )


def _spread(files: list[Path], count: int | None) -> list[Path]:
    if count is None or count >= len(files):
        return files
    return [files[int(i)] for i in np.linspace(0, len(files) - 1, count).round()]


def _read_bitbrains(files: list[Path], progress: Callable[[int, int], None]) -> Trace:
    tables = []
    for number, path in enumerate(files):
        tables.append(_bitbrains_table(path))
        progress(number + 1, len(files))
    first = min(int(hours[0]) for hours, _ in tables)
    n_slots = max(int(hours[-1]) for hours, _ in tables) - first + 1
    resources = {name: np.full((len(files), n_slots), np.nan) for name in BITBRAINS_COLUMNS}
    for row, (hours, means) in enumerate(tables):
        for column, name in enumerate(BITBRAINS_COLUMNS):
            resources[name][row, hours - first] = means[:, column]
    return Trace("bitbrains", datetime.fromtimestamp(first * 3600, UTC), resources)


def _bitbrains_table(path: Path) -> tuple[np.ndarray, FloatArray]:
    """Hours since 1970 that were recorded, and the means of the four resources in them."""
    try:
        table = pd.read_csv(
            path,
            sep=";",
            skipinitialspace=True,
            usecols=[0, *BITBRAINS_COLUMNS.values()],
            dtype=np.float64,
        )
        # The header says milliseconds; the values are seconds.
        hour = (table.iloc[:, 0] // 3600).astype(np.int64)
        means = table.iloc[:, 1:].groupby(hour).mean()
    except (OSError, EOFError, ValueError) as error:
        raise InvalidTrace(f"{path}: {error}") from error
    if means.empty:
        raise InvalidTrace(f"{path}: no sample")
    return means.index.to_numpy(), means.to_numpy()


def _read_asd(files: list[Path], progress: Callable[[int, int], None]) -> Trace:
    servers = []
    for number, path in enumerate(files):
        servers.append(_asd_server(path))
        progress(number + 1, len(files))
    # All recordings end together as far as is known; one that began later misses its beginning.
    n_slots = max(each.shape[1] for each in servers)
    padded = [
        np.pad(each, ((0, 0), (n_slots - each.shape[1], 0)), constant_values=np.nan)
        for each in servers
    ]
    return Trace("asd", ASD_START, {"metrics": np.concatenate(padded)})


def _asd_server(path: Path) -> FloatArray:
    """Hourly means of one server's metrics, shape (19, n_slots); the two parts are contiguous."""
    try:
        with np.load(path) as parts:
            samples = np.concatenate([parts["train"], parts["test"]]).astype(np.float64)
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise InvalidTrace(f"{path}: {error}") from error
    n_slots = len(samples) // ASD_SAMPLES_PER_HOUR
    whole = samples[len(samples) - n_slots * ASD_SAMPLES_PER_HOUR :]
    means: FloatArray = whole.reshape(n_slots, ASD_SAMPLES_PER_HOUR, -1).mean(axis=1).T
    return means
