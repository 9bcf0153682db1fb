"""Whether a planned cutover is confirmed. A prediction cannot confirm itself.

Three things must hold: an observation newer than the plan speaks for the planned condition, it
lifts the plan's probability over the threshold, and the gain recomputed from fresh measurements
still pays for stall and risk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from migration.core.advice import ConfirmTerms
from migration.core.slo import Slo, latency_penalty, to_micros

GB = 1_000_000_000


class Evidence(StrEnum):
    """Kinds of observation."""

    SIGN_IN = "sign_in"
    PRESENCE = "presence"
    NOTICE = "notice"
    LOG_OFF = "log_off"
    DEMAND = "demand"


LIKELIHOOD_RATIOS: Mapping[Evidence, float] = MappingProxyType(
    {
        Evidence.SIGN_IN: 1000.0,
        Evidence.PRESENCE: 100.0,
        Evidence.NOTICE: 50.0,
        Evidence.LOG_OFF: 3.0,
        Evidence.DEMAND: 100.0,
    }
)
"""How much likelier each observation is when the condition holds than when it does not."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Something seen. `site` for the kinds that tell a place, demand for `DEMAND`."""

    kind: Evidence
    at: datetime
    site: str | None = None
    demand_vcpus: float | None = None
    demand_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FreshMeasurements:
    """Measured now, not planned.

    rtt_source_ms, rtt_target_ms : from where the user is to the two regions; for a resize alike
    bytes_behind : what the final delta has to send; for a resize 0
    p_active : probability that somebody is working during the stall, 1 when one is signed in
    """

    measured_at: datetime
    rtt_source_ms: float
    rtt_target_ms: float
    link_bytes_per_s: float
    bytes_behind: int
    p_active: float


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The answer, with what it was made of; `gain` in micro-units, None when not reached."""

    confirmed: bool
    reason: str
    probability: float
    gain: int | None = None
    stall_ms: int | None = None


def confirm(
    terms: ConfirmTerms,
    seen: Observation,
    fresh: FreshMeasurements,
    *,
    slo: Slo,
    fixed_risk: int,
    threshold: float,
    planned_at: datetime,
    expires_at: datetime,
    now: datetime,
    likelihood_ratios: Mapping[Evidence, float] = LIKELIHOOD_RATIOS,
) -> Confirmation:
    """Decide whether the cutover may start, with a plain reason either way.

    planned_at : when the forecast behind the plan was made; `seen.at` must be later
    threshold : probability in (0, 1] the observation must lift the plan's to
    """
    refusal = _refuse_stale(seen, fresh, planned_at=planned_at, expires_at=expires_at, now=now)
    if refusal is not None:
        return Confirmation(False, refusal, terms.probability)
    ratio, what = _speaks_for(terms, seen, likelihood_ratios)
    probability = lift(terms.probability, ratio)
    if ratio <= 1:
        return Confirmation(False, f"{what}: this does not confirm the plan.", probability)
    if probability < threshold:
        return Confirmation(
            False,
            f"{what}: the condition now holds with {probability:.0%}, "
            f"{threshold:.0%} is asked for.",
            probability,
        )
    if not fresh.link_bytes_per_s > 0:
        return Confirmation(False, "The link to the target does not carry data.", probability)
    in_stall = terms.delta_in_stall_ratio * fresh.bytes_behind + terms.memory_in_stall_bytes
    stall_s = terms.fixed_stall_s + in_stall / fresh.link_bytes_per_s
    gain = _fresh_gain(terms, fresh, slo=slo, fixed_risk=fixed_risk, stall_s=stall_s)
    verdict = "still pays" if gain > 0 else "no longer pays"
    return Confirmation(
        gain > 0,
        f"{what}: {probability:.0%} sure. Measured now, the round trip goes from "
        f"{fresh.rtt_source_ms:.0f} ms to {fresh.rtt_target_ms:.0f} ms and the cutover {verdict}.",
        probability,
        gain=gain,
        stall_ms=round(stall_s * 1000),
    )


def lift(probability: float, likelihood_ratio: float) -> float:
    """Bayes' rule on odds: the probability after evidence of this likelihood ratio."""
    for_it = probability * likelihood_ratio
    return for_it / (for_it + (1.0 - probability)) if for_it > 0 else 0.0


def _refuse_stale(
    seen: Observation,
    fresh: FreshMeasurements,
    *,
    planned_at: datetime,
    expires_at: datetime,
    now: datetime,
) -> str | None:
    if seen.at <= planned_at:
        return "The observation is not newer than the plan, and a prediction cannot confirm itself."
    if seen.at > now:
        return "The observation lies in the future: check the clock of its source."
    if now >= expires_at:
        return "The recommendation has expired."
    if fresh.measured_at <= planned_at:
        return "Round trip and link were last measured before the plan was made."
    return None


def _speaks_for(
    terms: ConfirmTerms, seen: Observation, ratios: Mapping[Evidence, float]
) -> tuple[float, str]:
    """Likelihood ratio of what was seen, and its words. Seen elsewhere counts against."""
    ratio = ratios[seen.kind]
    waits_for_demand = terms.demand_vcpus is not None
    if waits_for_demand != (seen.kind is Evidence.DEMAND):
        awaited = "demand above capacity" if waits_for_demand else "the user to be there"
        return 1.0, f"Seen, but the plan waits for {awaited}"
    if waits_for_demand:
        over = _exceeds(seen.demand_vcpus, terms.demand_vcpus) or _exceeds(
            seen.demand_memory_bytes, terms.demand_memory_bytes
        )
        return (ratio, "Demand above capacity seen") if over else (1 / ratio, "Demand is met")
    if seen.site is None:
        # Signing off leaves the place open: it makes the cutover cheap, and hardly likelier.
        return (ratio, "Signed off") if seen.kind is Evidence.LOG_OFF else (1.0, "Place unknown")
    here = seen.site in terms.sites
    verb = "Announced" if seen.kind is Evidence.NOTICE else "Seen"
    return (ratio if here else 1 / ratio), f"{verb} in {seen.site}"


def _exceeds(seen: float | None, capacity: float | None) -> bool:
    return seen is not None and capacity is not None and seen > capacity


def _fresh_gain(
    terms: ConfirmTerms, fresh: FreshMeasurements, *, slo: Slo, fixed_risk: int, stall_s: float
) -> int:
    per_hour = latency_penalty(fresh.rtt_source_ms, slo) - latency_penalty(fresh.rtt_target_ms, slo)
    felt = stall_s * slo.stall_price_per_s + slo.session_loss_price * terms.session_lost
    egress = (fresh.bytes_behind + terms.memory_bytes) / GB * terms.egress_price_per_gb
    saving = int(to_micros(terms.active_hours * float(per_hour))) + terms.other_saving
    cost = int(to_micros(felt * fresh.p_active + egress)) + fixed_risk + terms.commit_cost
    return saving - cost
