"""Announcements in a CSV file with a header line (docs/sources/notices.md)."""

from __future__ import annotations

import csv
from pathlib import Path

from desktops.core.notices import FIELDS, InvalidNotice, announcement_from
from desktops.errors import InvalidFile
from desktops.sources.announcements import Announcements, Problem

REQUIRED = frozenset({"kind", "starts_at", "ends_at"})
SURPLUS = "values beyond the header"


def read(path: Path) -> Announcements:
    """Every row of the file; raises InvalidFile, OSError."""
    found = Announcements()
    # The byte order mark is what spreadsheets put before "CSV UTF-8".
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True, restkey=SURPLUS)
        try:
            header = [name.strip() for name in reader.fieldnames or ()]
            if missing := sorted(REQUIRED - set(header)):
                raise InvalidFile(f"{path.name} line 1: no column {', '.join(missing)}")
            reader.fieldnames = header
            for row in reader:
                found.rows += 1
                _read_row(row, f"line {reader.line_num}", found)
        except csv.Error as error:
            raise InvalidFile(f"{path.name} after line {reader.line_num}: {error}") from None
        except UnicodeDecodeError:
            raise InvalidFile(f"{path.name} after line {reader.line_num}: is not UTF-8") from None
    return found


def _read_row(row: dict[str, str | None], where: str, found: Announcements) -> None:
    try:
        if SURPLUS in row or None in row.values():
            raise InvalidNotice("malformed", "more or fewer values than columns")
        fields = {name: row[name] for name in FIELDS if name in row}
        found.entries.append(announcement_from(fields, where=where))
    except InvalidNotice as error:
        found.problems.append(Problem(where, error.reason, str(error)))
