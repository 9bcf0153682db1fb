"""What a pulled source is: something that can be asked for what was observed since.

SourceFailed            it could not be asked, or its answer is none; asking again later helps
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from desktops.sources.samples import Samples


@dataclass(frozen=True, slots=True)
class Pulled:
    """until : everything before this moment has been handed over with this batch"""

    samples: Samples
    until: datetime


class PullSource(Protocol):
    """A connected source; its module's `connect(options)` makes one from its settings."""

    def pull(self, since: datetime, until: datetime) -> Iterator[Pulled]:
        """Observations from `since` (inclusive) to `until` (exclusive), oldest batch first.

        Each batch is small enough for memory. Raises SourceFailed; what was handed over before
        stays handed over, and the next call begins there.
        """

    def close(self) -> None: ...
