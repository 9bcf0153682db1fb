"""What every source hands over: samples in columns, and an account of what it refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MALFORMED = "malformed"  # the reason of a row that cannot be read at all

MEASURES = (
    "cpu_cores",
    "memory_bytes",
    "network_bytes_per_s",
    "storage_bytes_per_s",
    "active_ratio",
)


@dataclass(frozen=True, slots=True)
class Labels:
    """A text column: row n holds values[codes[n]], or nothing where the code is -1."""

    values: tuple[str, ...]
    codes: IntArray

    @classmethod
    def none(cls, n: int) -> Self:
        return cls((), np.full(n, -1, dtype=np.int64))

    @classmethod
    def constant(cls, value: str, n: int) -> Self:
        return cls((value,), np.zeros(n, dtype=np.int64))

    @property
    def is_given(self) -> BoolArray:
        given: BoolArray = self.codes >= 0
        return given

    def among(self, bad_value: Callable[[str], bool]) -> BoolArray:
        """Rows whose text is one that `bad_value` says yes to."""
        is_bad = np.array([bad_value(value) for value in self.values] + [False])
        rows: BoolArray = is_bad[self.codes]
        return rows

    def text(self, row: int) -> str:
        return self.values[self.codes[row]] if self.codes[row] >= 0 else ""

    def used(self) -> list[str]:
        return [self.values[code] for code in np.unique(self.codes[self.is_given])]


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows of one stretch of a file; every array has shape (n,).

    line : number of the row in its file, from 1
    unix_s : seconds since 1970 UTC
    measures : name in MEASURES → values in the unit of the name, NaN where not observed; a name
        that is not there was not observed at all
    """

    line: IntArray
    unix_s: IntArray
    person: Labels
    desktop: Labels
    site: Labels
    measures: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.line)

    def take(self, rows: BoolArray) -> Samples:
        if rows.all():
            return self
        return Samples(
            self.line[rows],
            self.unix_s[rows],
            *(Labels(c.values, c.codes[rows]) for c in (self.person, self.desktop, self.site)),
            {name: values[rows] for name, values in self.measures.items()},
        )


@dataclass(slots=True)
class Rejections:
    """How many rows of a file were seen and refused; the first few with line and reason.

    short_end : line of the last row seen when that has too few values, else 0
    codes : line → a word for programs, of those kept in `first`
    """

    most: int = 20
    rows: int = 0
    rejected: int = 0
    short_end: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)
    codes: dict[int, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.rejected / self.rows if self.rows else 0.0

    def add_all(
        self,
        lines: Sequence[int] | IntArray,
        reason: Callable[[int], str],
        code: str = MALFORMED,
    ) -> None:
        """reason : position in `lines` → sentence; asked only for those that are kept"""
        for position in range(min(len(lines), self.most - len(self.first))):
            self.first.append((int(lines[position]), reason(position)))
            self.codes[int(lines[position])] = code
        self.rejected += len(lines)

    def describe(self, noun: str = "line") -> list[str]:
        """One sentence for each row kept, and a count of the others."""
        shown = [f"{noun} {line}: {reason}" for line, reason in sorted(self.first)]
        others = self.rejected - len(self.first)
        return [*shown, f"and {others:,} more"] if others > 0 else shown


class Screen:
    """Rows of one block under examination: each is refused at most once, for its first fault."""

    def __init__(self, lines: IntArray, rejections: Rejections) -> None:
        self.lines = lines
        self.passed: BoolArray = np.ones(len(lines), dtype=np.bool_)
        self._rejections = rejections

    def refuse(self, bad: BoolArray, reason: Callable[[int], str], code: str = MALFORMED) -> None:
        """reason : row → sentence without the line; code : the same for programs"""
        rows = np.flatnonzero(bad & self.passed)
        if len(rows):
            self._rejections.add_all(self.lines[rows], lambda n: reason(int(rows[n])), code)
            self.passed[rows] = False
