"""Faults to order: what the next requests or resources shall suffer.

Request faults strike calls of an operation ("*": any) before or after they take effect:

unavailable   503, nothing done
timeout       no answer, nothing done
lost_answer   no answer, but done: what a caller must find again by its key
conflict, quota, forbidden   refused with that error

Effect faults strike what was accepted:

copy_fails            the next pass or image copy ends in failure at `value` of its bytes (0-1)
boot_error            the next boot or start ends in ERROR
slow_boot             the next boot or start takes `value` seconds longer
live_migration_fails  the next live migration ends where it began

`region_unreachable` answers 503 to everything about `region` for `value` simulated seconds;
`background` lets every request, boot, copy and live migration fail with probability `value`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from desktops.clouds.simulator.errors import BadRequest
from desktops.clouds.simulator.moment import Moment
from desktops.core.cloud import (
    CloudError,
    CloudUnavailable,
    Conflict,
    Forbidden,
    QuotaExceeded,
)


class NoAnswer(CloudUnavailable):
    """The connection is to be closed without an answer."""


REFUSALS: dict[str, type[CloudError]] = {
    "unavailable": CloudUnavailable,
    "timeout": NoAnswer,
    "conflict": Conflict,
    "quota": QuotaExceeded,
    "forbidden": Forbidden,
}
REQUEST_FAULTS = frozenset(REFUSALS) | {"lost_answer"}
EFFECT_FAULTS = frozenset({"copy_fails", "boot_error", "slow_boot", "live_migration_fails"})
STANDING_FAULTS = frozenset({"region_unreachable", "background"})
BACKGROUND_REQUEST_FAULTS = ("unavailable", "unavailable", "unavailable", "timeout", "lost_answer")
BACKGROUND_RATIO = 0.5  # how far a copy gets that fails by itself


def inject_fault(
    m: Moment,
    *,
    kind: str,
    operation: str = "*",
    region: str | None = None,
    times: int = 1,
    value: float | int | None = None,
) -> Any:
    """Order a fault; see the module's docstring."""
    if kind not in REQUEST_FAULTS | EFFECT_FAULTS | STANDING_FAULTS:
        known = ", ".join(sorted(REQUEST_FAULTS | EFFECT_FAULTS | STANDING_FAULTS))
        raise BadRequest(f"kind: {kind!r} is none of {known}")
    if times < 1:
        raise BadRequest("times: at least 1 is wanted")
    if region is not None:
        m.region(region)
    _check_value(kind, value, region)
    until_ms = None
    if kind == "region_unreachable":
        until_ms = m.at_ms + round(1000 * (value or 0))
    if kind == "background":
        m.do("DELETE FROM faults WHERE kind = 'background'")
    m.insert(
        "faults",
        kind=kind,
        operation=operation,
        region=region,
        remaining=times,
        until_ms=until_ms,
        value=value,
    )
    m.record("fault.ordered", region=region or "", fault=kind, operation=operation, value=value)
    return standing_faults(m)


def _check_value(kind: str, value: float | None, region: str | None) -> None:
    if kind in ("copy_fails", "background") and not (value is not None and 0 <= value <= 1):
        raise BadRequest(f"value: {kind} wants a ratio from 0 to 1")
    if kind in ("slow_boot", "region_unreachable") and not (value is not None and value >= 0):
        raise BadRequest(f"value: {kind} wants seconds")
    if kind == "region_unreachable" and region is None:
        raise BadRequest("region: region_unreachable wants one")


def standing_faults(m: Moment) -> list[dict[str, Any]]:
    m.do("DELETE FROM faults WHERE until_ms <= ?", m.at_ms)
    return [dict(row) for row in m.rows("SELECT * FROM faults ORDER BY id")]


def clear_faults(m: Moment) -> Any:
    m.do("DELETE FROM faults")
    m.record("fault.cleared")
    return []


def request_fault(m: Moment, operation: str, regions: Collection[str]) -> str | None:
    """The fault this request shall suffer, used up by asking."""
    for fault in m.rows("SELECT * FROM faults WHERE kind = 'region_unreachable'"):
        if fault["region"] in regions and m.at_ms < fault["until_ms"]:
            _struck(m, "region_unreachable", operation, fault["region"])
            return "unavailable"
    for fault in m.rows("SELECT * FROM faults ORDER BY id"):
        if (
            fault["kind"] in REQUEST_FAULTS
            and fault["operation"] in ("*", operation)
            and (fault["region"] is None or fault["region"] in regions)
        ):
            _use_up(m, fault["id"])
            _struck(m, fault["kind"], operation, fault["region"] or "")
            kind: str = fault["kind"]
            return kind
    if _background_strikes(m):
        kind = m.random().choice(BACKGROUND_REQUEST_FAULTS)
        _struck(m, kind, operation, "")
        return kind
    return None


def effect_fault(m: Moment, kind: str, region: str) -> float | None:
    """The value of an effect fault that is due here, used up by asking; None: all goes well."""
    fault = m.row(
        "SELECT * FROM faults WHERE kind = ? AND (region IS NULL OR region = ?) ORDER BY id",
        kind,
        region,
    )
    if fault is not None:
        _use_up(m, fault["id"])
        _struck(m, kind, "", region)
        return float(fault["value"] or 0)
    if kind != "slow_boot" and _background_strikes(m):
        _struck(m, kind, "", region)
        return BACKGROUND_RATIO
    return None


def _background_strikes(m: Moment) -> bool:
    fault = m.row("SELECT value FROM faults WHERE kind = 'background'")
    return fault is not None and m.random().random() < fault["value"]


def _use_up(m: Moment, fault_id: int) -> None:
    m.do("UPDATE faults SET remaining = remaining - 1 WHERE id = ?", fault_id)
    m.do("DELETE FROM faults WHERE id = ? AND remaining <= 0", fault_id)


def _struck(m: Moment, kind: str, operation: str, region: str) -> None:
    m.record("fault.struck", region=region, fault=kind, operation=operation)
