"""What systems that see people come and go report: VPN, Wi-Fi, badge readers, sign-in services."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from desktops.core.networks import UNKNOWN, parse_address
from desktops.errors import Refused
from desktops.sources.checks import LONGEST_NAME

MOST_OBSERVATIONS = 1000
MOST_UNIX_S = 1e15
FIELDS = frozenset({"person", "at", "site", "address", "kind", "present"})
KINDS = ("vpn", "wifi", "badge", "idp", "other")


@dataclass(frozen=True, slots=True)
class Observation:
    """Somebody came to a place, or left it, as reported.

    index : in what was sent, from 0
    person : as they sign in
    site, address : one of them, in words of the sender; site "" is unknown
    """

    index: int
    person: str
    unix_s: int
    is_present: bool
    site: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """reason : a word for the program; detail : a sentence for its author"""

    index: int
    reason: str
    detail: str


class _Bad(ValueError):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_observations(body: object, *, now: datetime) -> tuple[list[Observation], list[Rejected]]:
    """What of one request is well formed, and what is not.

    body : parsed JSON; one observation or a list of them
    now : the time of those that name none

    Raises Refused for what is no list of observations at all.
    """
    items: Sequence[object] = body if isinstance(body, list) else [body]
    if not items:
        raise Refused(400, "nothing_sent", "The list is empty.")
    if len(items) > MOST_OBSERVATIONS:
        raise Refused(
            413,
            "too_many",
            f"{len(items):,} observations; send {MOST_OBSERVATIONS:,} at most at a time.",
        )
    if not isinstance(body, list | dict):
        raise Refused(400, "malformed", "An object or a list of objects is wanted.")
    read: list[Observation] = []
    rejected: list[Rejected] = []
    for index, item in enumerate(items):
        try:
            read.append(_observation(index, item, now))
        except _Bad as error:
            rejected.append(Rejected(index, error.reason, str(error)))
    return read, rejected


def _observation(index: int, item: object, now: datetime) -> Observation:
    if not isinstance(item, Mapping):
        raise _Bad("malformed", "an object is wanted")
    if unheard := sorted(str(name) for name in item.keys() - FIELDS):
        raise _Bad("unknown_field", f"{unheard[0][:40]!r} means nothing; {_listed(FIELDS)} do")
    if item.get("kind", "other") not in KINDS:
        raise _Bad("bad_kind", f"kind is one of {_listed(KINDS)}")
    is_present = item.get("present", True)
    if not isinstance(is_present, bool):
        raise _Bad("bad_present", "present is true or false")
    site, address = _place(item)
    return Observation(
        index=index,
        person=_person(item.get("person")),
        unix_s=_unix_s(item.get("at"), now),
        is_present=is_present,
        site=site,
        address=address,
    )


def _person(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Bad("no_person", "person is missing: who, as they sign in")
    if len(value) > LONGEST_NAME or not value.isprintable():
        raise _Bad("bad_person", f"person is longer than {LONGEST_NAME} or not printable")
    return value


def _place(item: Mapping[str, object]) -> tuple[str | None, str | None]:
    site, address = item.get("site"), item.get("address")
    if (site is None) == (address is None):
        raise _Bad("no_place", "one of site and address is wanted")
    if address is not None:
        try:
            parse_address(address if isinstance(address, str) else "")
        except ValueError:
            # The address itself is not repeated: answers end up in logs.
            raise _Bad("bad_address", "address is not an IP address") from None
        return None, str(address)
    if not isinstance(site, str):
        raise _Bad("unknown_site", "site is the code of a site")
    return "" if site == UNKNOWN else site, None


def _unix_s(value: object, now: datetime) -> int:
    if value is None:
        return int(now.timestamp())
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and abs(value) < MOST_UNIX_S:
            return math.floor(value)
    elif isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.strip())
        except ValueError:
            pass
        else:
            if at.tzinfo is None:
                raise _Bad("no_offset", "at has no offset from UTC: 2026-03-02T08:10:00Z has")
            return math.floor(at.timestamp())
    raise _Bad("bad_time", "at is ISO 8601 with its offset, or seconds since 1970 UTC")


def _listed(words: Sequence[str] | frozenset[str]) -> str:
    return ", ".join(sorted(words))
