"""How numbers, money and times are written on pages: always with unit, zone or currency."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from desktops.core.money import amount
from desktops.core.zones import zone_named

register = template.Library()

NONE = "—"

# Bootstrap's contextual colours for the states of everything.
COLOURS = {
    "ready": "blue",
    "approved": "blue",
    "complete": "green",
    "done": "green",
    "running": "green",
    "promoted": "green",
    "awaiting_approval": "yellow",
    "pending": "yellow",
    "retry": "orange",
    "needs_operator": "red",
    "failed": "red",
    "missing": "red",
    "rolling_back": "orange",
    "cancelling": "orange",
    "freezing": "azure",
    "copying": "azure",
    "starting": "azure",
    "reconnecting": "azure",
    "verifying": "azure",
    "ok": "green",
    "late": "orange",
    "failing": "red",
    "vanished": "red",
    "unlisted": "orange",
    "unknown": "yellow",
    "changed": "azure",
    "held": "yellow",
    "replayed": "green",
}


@register.filter
def money(micros: int | None, currency: str) -> str:
    """Micro-units as an amount of `currency`: 1234567 → "1.23 USD"."""
    return NONE if micros is None else decimal_money(amount(micros), currency)


@register.filter
def decimal_money(value: Decimal | None, currency: str) -> str:
    """Two decimals, or four where two would hide the number."""
    if value is None:
        return NONE
    digits = 4 if 0 < abs(value) < Decimal("0.1") else 2
    rounded = round(value, digits)
    sign = "\N{MINUS SIGN}" if rounded < 0 else ""
    return f"{sign}{abs(rounded):,.{digits}f} {currency}"


@register.filter
def bytes_size(value: float | None) -> str:
    """Decimal units, as links and prices count them: 1500000 → "1.5 MB"."""
    if value is None:
        return NONE
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB" if size < 1000 else f"{size:,.0f} TB"


@register.filter
def memory_size(value: int | None) -> str:
    """Binary units, as memory is sold: 17179869184 → "16 GiB"."""
    if value is None:
        return NONE
    size = value / 2**30
    return f"{size:.3g} GiB" if size < 1000 else f"{size / 1024:,.3g} TiB"


@register.filter
def number(value: int | None) -> str:
    """12345 → "12,345"."""
    return NONE if value is None else f"{value:,}"


@register.filter
def percent(ratio: float | None) -> str:
    """Whole percents; certainty is not claimed by rounding: 0.998 → "> 99 %"."""
    if ratio is None:
        return NONE
    if 0 < ratio < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= ratio < 1 else f"{ratio * 100:.0f} %"


@register.filter
def milliseconds(value: float | None) -> str:
    """0 → "0 ms", 1500 → "1.5 s", longer ones as a duration."""
    if value is None:
        return NONE
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 60_000 else seconds(value / 1000)


@register.filter
def seconds(value: float | None) -> str:
    return NONE if value is None else duration(timedelta(seconds=value))


@register.filter
def duration(value: timedelta | None) -> str:
    """The two largest units: "1 d 4 h", "2 min 5 s", "340 ms"."""
    if value is None:
        return NONE
    total = value.total_seconds()
    if total < 1:
        return f"{total * 1000:.0f} ms"
    if total < 60:
        return f"{total:.1f} s" if total % 1 else f"{total:.0f} s"
    minutes, rest = divmod(round(total), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next(i for i, (number, _) in enumerate(parts) if number)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number)


@register.filter
def until(start: datetime | None, end: datetime | None) -> str:
    """The time from one moment to another: {{ shadow.recovery_point_at|until:now }} → "4 min 2 s";
    what lies behind already is "now"."""
    if start is None or end is None:
        return NONE
    return duration(end - start) if end > start else "now"


@register.filter
def utc(at: datetime | None) -> SafeString | str:
    """A <time> in UTC, to the minute."""
    return _time(at, "%a %-d %b %Y %H:%M UTC")


@register.filter
def utc_short(at: datetime | None) -> SafeString | str:
    """A <time> in UTC without the year: for tables whose heading says when they are of."""
    return _time(at, "%a %-d %b %H:%M UTC")


@register.filter
def utc_seconds(at: datetime | None) -> SafeString | str:
    """A <time> of day in UTC, to the second: for what happens now."""
    return _time(at, "%H:%M:%S UTC")


def _time(at: datetime | None, form: str) -> SafeString | str:
    if at is None:
        return NONE
    moment = at.astimezone(UTC)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(timespec="seconds"),
        moment.strftime("%a %-d %b %Y %H:%M:%S UTC"),
        moment.strftime(form),
    )


@register.filter
def wall_clock(at: datetime | None, zone: str) -> str:
    """The day and time somewhere, where the zone is named beside it: "Mon 2 Mar 09:55"."""
    return NONE if at is None else f"{at.astimezone(zone_named(zone)):%a %-d %b %H:%M}"


@register.filter
def weekday(at: datetime | None, zone: str) -> str:
    """The same of a day in the week ahead: "Mon 09:55"."""
    return NONE if at is None else f"{at.astimezone(zone_named(zone)):%a %H:%M}"


@register.filter
def in_zone(at: datetime | None, zone: str) -> str:
    """The time of day somewhere: "Mon 09:55 Europe/Paris". An unknown zone says nothing."""
    if at is None:
        return NONE
    try:
        there = at.astimezone(zoneinfo.ZoneInfo(zone))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return ""
    return f"{there:%a %H:%M} {zone.replace('_', ' ')}"


@register.filter
def colour(state: str) -> str:
    """The colour of a state's badge."""
    return COLOURS.get(state, "secondary")


@register.filter
def command(name: str) -> str:
    """A command to a cloud: "create_dest" → "Create destination"."""
    return words(f"{name}_".replace("_dest_", "_destination_")).strip()


@register.filter
def words(name: str) -> str:
    """A key as words: "stop_source" → "Stop source"."""
    return name.replace("_", " ").replace(".", " ").capitalize()


MEASURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("active_ratio", "Active", lambda ratio: f"{ratio * 100:.4g} %"),
    ("cpu_cores", "CPU", lambda cores: f"{cores:.4g} cores"),
    ("memory_bytes", "Memory", bytes_size),
    ("network_bytes_per_s", "Network", lambda rate: f"{bytes_size(rate)}/s"),
    ("storage_bytes_per_s", "Storage", lambda rate: f"{bytes_size(rate)}/s"),
)


@register.filter
def serving(hosts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a region's hosts that are up and take servers."""
    return [host for host in hosts if host["is_up"] and host["is_enabled"]]


@register.filter
def measures(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What a row in quarantine observed, in words: ("CPU", "1.5 cores"), ("Memory", "3 GB")."""
    return [(label, _measure(row[name], form)) for name, label, form in MEASURES if name in row]


def _measure(value: Any, form: Callable[[float], str]) -> str:
    """Whatever is no plain number is shown as it came."""
    return form(value) if isinstance(value, int | float) else str(value)


@register.filter
def observed_at(row: dict[str, Any]) -> datetime | None:
    """When a row in quarantine says it was observed; None when that is no time at all."""
    try:
        return datetime.fromtimestamp(row["at"], UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
