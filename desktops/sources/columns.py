"""The documented schema of activity logs (docs/import.md), shared by CSV and Parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from desktops.errors import InvalidFile
from desktops.sources.samples import MEASURES, IntArray, Labels, Rejections, Samples, Screen
from desktops.sources.text import labels
from desktops.sources.values import instants, numbers

LABELS = ("person", "desktop", "site")
COLUMNS = ("time", *LABELS, *MEASURES)


def find_columns(present: Sequence[str], renamed: Mapping[str, str], where: str) -> dict[str, str]:
    """Our column → the file's, for those that the file has; raises InvalidFile.

    renamed : as given with --map; the others go by our own names
    """
    wanted = {ours: renamed.get(ours, ours) for ours in COLUMNS}
    if missing := sorted(theirs for theirs in renamed.values() if theirs not in present):
        raise InvalidFile(f"{where}: no column {', '.join(missing)} (--map)")
    found = {ours: theirs for ours, theirs in wanted.items() if theirs in present}
    if "time" not in found:
        raise InvalidFile(f"{where}: no column time; the columns are {', '.join(present)[:300]}")
    if not {"person", "desktop"} & set(found):
        raise InvalidFile(f"{where}: neither a column person nor a column desktop")
    if not {"site", *MEASURES} & set(found):
        raise InvalidFile(f"{where}: no column says what was observed")
    return found


def to_samples(
    lines: IntArray,
    column: Callable[[str], pa.Array],
    found: Mapping[str, str],
    rejections: Rejections,
) -> Samples:
    """Rows whose values can be understood.

    column : the file's name of a column → its values
    """
    screen = Screen(lines, rejections)
    unix_s = instants(column(found["time"]), "time", screen)
    texts = {
        name: labels(column(found[name])) if name in found else Labels.none(len(lines))
        for name in LABELS
    }
    measures = {
        name: numbers(column(found[name]), name, screen) for name in MEASURES if name in found
    }
    samples = Samples(lines, unix_s, texts["person"], texts["desktop"], texts["site"], measures)
    return samples.take(screen.passed)
