"""The file formats that can be imported, by name."""

from __future__ import annotations

from collections.abc import Mapping

from desktops.sources import bitbrains, csv_log, gowalla, parquet
from desktops.sources.options import FileFormat

FORMATS: Mapping[str, FileFormat] = {
    "csv": csv_log,
    "parquet": parquet,
    "bitbrains": bitbrains,
    "gowalla": gowalla,
}
