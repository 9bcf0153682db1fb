"""Time zones by name."""

from __future__ import annotations

import logging
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

log = logging.getLogger(__name__)


def is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


@cache
def zone_named(name: str) -> ZoneInfo:
    """The zone, or UTC for one nobody knows: whoever has it is forecast by the wrong clock, which
    is better than nobody being forecast."""
    if is_zone(name):
        return ZoneInfo(name)
    log.warning("there is no time zone %r; UTC is used in its place", name)
    return ZoneInfo("UTC")
