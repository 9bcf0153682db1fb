"""Plain sentences built from the numbers of an advice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from types import MappingProxyType

from migration.core.advice import ItemName, SourceAfter, StayReason
from migration.core.inputs import Tier

NOTES: Mapping[ItemName, str] = MappingProxyType(
    {
        ItemName.LATENCY: "work at a round trip above the SLO",
        ItemName.SATURATION: "work with demand above the flavor's capacity",
        ItemName.GRAVITY: "work far from the pool's applications and file shares",
        ItemName.RUN: "the server itself",
        ItemName.SHADOW_SEED: "sending the shadow its first copy",
        ItemName.SHADOW_STORAGE: "the shadow's volume until the cutover",
        ItemName.SHADOW_SYNC: "keeping the shadow in step",
        ItemName.SHADOW_SERVER: "the small server of a hot shadow",
        ItemName.EGRESS: "sending what is left at the cutover",
        ItemName.STALL: "seconds without a session while somebody works",
        ItemName.SESSION_LOSS: "open work lost because memory is not carried",
        ItemName.RISK: "price put on a cutover going wrong",
        ItemName.SOURCE_COMMIT: "keeping the source through the commit window",
        ItemName.SOURCE_SHADOW: "keeping the source as a shadow",
        ItemName.WAY_HOME: "the way back",
    }
)


def money(micros: int, currency: str) -> str:
    """Whole cents, half to even: `14.20 EUR`."""
    cents = (Decimal(micros) / 1_000_000).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
    return f"{abs(cents) if cents == 0 else cents} {currency}"


def percent(probability: float) -> str:
    """Whole percent; never 0 or 100 for what is neither impossible nor certain."""
    if 0 < probability < 0.01:
        return "<1 %"
    if 0.99 < probability < 1:
        return ">99 %"
    return f"{probability * 100:.0f} %"


def duration(hours: float) -> str:
    """About how long, in the unit people would use."""
    if hours < 1.5:
        return f"about {max(round(hours * 60), 1)} minutes" if hours < 0.95 else "about an hour"
    if hours < 36:
        return f"about {hours:.0f} hours"
    return f"about {hours / 24:.0f} days"


def clock(at: datetime, zone: tzinfo) -> str:
    """`Tue 09:00` where the reader of it is."""
    return f"{at.astimezone(zone):%a %H:%M}"


def seconds(stall_s: float) -> str:
    if stall_s < 1:
        return f"{stall_s * 1000:.0f} ms"
    return f"{stall_s:.0f} s" if stall_s < 120 else f"{stall_s / 60:.0f} min"


def prepare_sentences(
    *,
    site: str,
    region: str,
    arrives: str,
    away_hours: float,
    confidence: float,
    rtt_ms: tuple[float, float],
    stay_degradation: int,
    left_degradation: int,
    extra_run: int,
    action: int,
    currency: str,
    tier: Tier,
    whole_by: str,
    strategy: str,
    stall_s: float,
    source_after: SourceAfter,
    flavor: str | None,
) -> str:
    """Why a shadow should be prepared. `flavor` where it changes on the way."""
    kept = "is kept as a shadow" if source_after is SourceAfter.SHADOW else "is deleted"
    bigger = f" on flavor {flavor}" if flavor else ""
    return (
        f"Expected in {site} from {arrives} for {duration(away_hours)} ({percent(confidence)}). "
        f"Round trip {rtt_ms[0]:.0f} ms to {rtt_ms[1]:.0f} ms; staying would cost "
        f"{money(stay_degradation, currency)} in missed SLO, preparing and moving costs "
        f"{money(action, currency)} and leaves {money(left_degradation, currency)}"
        f"{_run_difference(extra_run, currency)}. "
        f"A {tier} shadow in {region}{bigger}, whole by {whole_by}; "
        f"cutover by {strategy}, {seconds(stall_s)} without a session; "
        f"afterwards the source {kept}."
    )


def resize_sentences(
    *,
    old: str,
    new: str,
    confidence: float,
    at: str,
    stay_saturation: int,
    left_saturation: int,
    extra_run: int,
    action: int,
    currency: str,
    stall_s: float,
) -> str:
    """Why the flavor should change where the desktop is."""
    if left_saturation >= stay_saturation:
        return (
            f"Demand fits {new}: changing from {old} saves {money(-extra_run, currency)} of "
            f"running cost and costs {money(action, currency)}; restart {at}, when the user is "
            f"most likely away ({seconds(stall_s)})."
        )
    return (
        f"Demand is expected above what {old} can do ({percent(confidence)} in the worst hour). "
        f"Staying would cost {money(stay_saturation, currency)} in missed SLO; {new} leaves "
        f"{money(left_saturation, currency)}, changing costs {money(action, currency)}"
        f"{_run_difference(extra_run, currency)}. "
        f"Restart {at}, when the user is most likely away ({seconds(stall_s)})."
    )


def stay_sentence(
    why: StayReason,
    *,
    region: str,
    degradation: int,
    currency: str,
    best_gain: int = 0,
    best_region: str = "",
    min_gain: int = 0,
    short: str = "",
) -> str:
    """Why nothing is advised. The best_ values belong to the best alternative that was priced."""
    missed = money(degradation, currency)
    match why:
        case StayReason.NOTHING_TO_GAIN:
            return f"No region serves better than {region}: {missed} of missed SLO is expected."
        case StayReason.NOT_ALLOWED:
            return (
                f"{missed} of missed SLO is expected in {region}, but no region that would serve "
                "better is allowed (residency or a pin)."
            )
        case StayReason.COOLDOWN:
            return f"Moved lately: no cutover before the cooldown ends. {missed} is expected."
        case StayReason.NOT_READY:
            return (
                f"A shadow could not be whole before it would be needed; {missed} of missed SLO "
                "is expected."
            )
        case StayReason.COSTS_MORE:
            return (
                f"{missed} of missed SLO is expected in {region}; preparing and moving would cost "
                "more than it saves."
            )
        case StayReason.BELOW_MIN_GAIN:
            return (
                f"{best_region} would gain {money(best_gain, currency)}: less than the "
                f"{money(min_gain, currency)} asked for, or too little for what it costs."
            )
        case StayReason.NO_CAPACITY:
            return (
                f"{best_region} would gain {money(best_gain, currency)}, but others gain more "
                f"from what is short: {short}."
            )


def _run_difference(extra_run: int, currency: str) -> str:
    if abs(extra_run) < 5_000:  # less than half a cent
        return ""
    more = "more" if extra_run > 0 else "less"
    return f", and running costs {money(abs(extra_run), currency)} {more}"
