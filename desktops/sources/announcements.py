"""What reading a file of announcements yields, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field

from desktops.core.notices import Announced, Withdrawn


@dataclass(frozen=True, slots=True)
class Problem:
    """where : such as `line 3`; reason : a fixed word; detail : a sentence"""

    where: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


@dataclass(slots=True)
class Announcements:
    """rows : how many there were to read, good and bad
    passed_over : what is no announcement of a known kind, or lies outside the horizon
    """

    entries: list[Announced | Withdrawn] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    passed_over: int = 0
