"""What probes at sites report: how long a round trip to each region takes from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from desktops.errors import Refused

MOST_MEASURED = 500
LONGEST_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class Measured:
    """index : in what was sent, from 0; region : CLOUD/NAME"""

    index: int
    region: str
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """reason : a word for the program; detail : a sentence for its author"""

    index: int
    reason: str
    detail: str


def read_report(body: object) -> tuple[str, list[Measured], list[Rejected]]:
    """The site's code, what is well formed, and what is not.

    body : parsed JSON, {"site": CODE, "round_trips": [{"region": "CLOUD/NAME", "rtt_ms": 31.2}]}

    Raises Refused for what is no report at all.
    """
    if not isinstance(body, Mapping):
        raise Refused(400, "malformed", "An object with site and round_trips is wanted.")
    site, items = body.get("site"), body.get("round_trips")
    if not isinstance(site, str) or not site:
        raise Refused(400, "no_site", "site is missing: the code of the site measured from.")
    if not isinstance(items, Sequence) or isinstance(items, str) or not items:
        raise Refused(400, "nothing_sent", "round_trips is missing: a list of objects.")
    if len(items) > MOST_MEASURED:
        raise Refused(413, "too_many", f"{len(items):,} round trips; {MOST_MEASURED} at most.")
    read: list[Measured] = []
    rejected: list[Rejected] = []
    for index, item in enumerate(items):
        one = _measured(index, item)
        if isinstance(one, Measured):
            read.append(one)
        else:
            rejected.append(one)
    return site, read, rejected


def _measured(index: int, item: object) -> Measured | Rejected:
    if not isinstance(item, Mapping):
        return Rejected(index, "malformed", "an object is wanted")
    if unheard := sorted(str(name) for name in item.keys() - {"region", "rtt_ms"}):
        return Rejected(index, "unknown_field", f"{unheard[0][:40]!r} means nothing")
    region, rtt_ms = item.get("region"), item.get("rtt_ms")
    if not isinstance(region, str):
        return Rejected(index, "no_region", "region is missing: CLOUD/NAME, as targets has it")
    is_number = isinstance(rtt_ms, int | float) and not isinstance(rtt_ms, bool)
    if not is_number or not 0 < rtt_ms <= LONGEST_MS:
        return Rejected(index, "bad_rtt", f"rtt_ms is a number above 0 and up to {LONGEST_MS:g}")
    return Measured(index, region, float(rtt_ms))
