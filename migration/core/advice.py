"""What the planner answers: one advice per desktop, itemised in integer micro-units."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from migration.core.inputs import Tier


class Action(StrEnum):
    STAY = "stay"
    PREPARE = "prepare"
    RESIZE = "resize"


class SourceAfter(StrEnum):
    """What becomes of the source after the commit window, whichever prices lower."""

    SHADOW = "shadow"
    DELETE = "delete"


class StayReason(StrEnum):
    """Why nothing is advised."""

    NOTHING_TO_GAIN = "nothing_to_gain"
    NOT_ALLOWED = "not_allowed"
    COOLDOWN = "cooldown"
    NOT_READY = "not_ready"
    COSTS_MORE = "costs_more"
    BELOW_MIN_GAIN = "below_min_gain"
    NO_CAPACITY = "no_capacity"


class ItemName(StrEnum):
    """Stable keys of the items; the first four are also paid when staying."""

    LATENCY = "latency"
    SATURATION = "saturation"
    GRAVITY = "gravity"
    RUN = "run"
    SHADOW_SEED = "shadow_seed"
    SHADOW_STORAGE = "shadow_storage"
    SHADOW_SYNC = "shadow_sync"
    SHADOW_SERVER = "shadow_server"
    EGRESS = "egress"
    STALL = "stall"
    SESSION_LOSS = "session_loss"
    RISK = "risk"
    SOURCE_COMMIT = "source_commit"
    SOURCE_SHADOW = "source_shadow"
    WAY_HOME = "way_home"


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the bill: expected micro-units over the horizon, and what it is for."""

    name: ItemName
    micros: int
    note: str


@dataclass(frozen=True, slots=True)
class ConfirmTerms:
    """What a later observation and measurement are held against; plain values, to be stored.

    sites : names of the sites from which the target serves better (prepare)
    demand_vcpus, demand_memory_bytes : capacity that demand must be seen to exceed (resize)
    probability : the plan's own confidence in the condition
    active_hours : hours of work for which the target's round trip counts, given the condition
    other_saving : what the target saves apart from latency (saturation, gravity, run; kept source
        and way home deducted), given the condition, micro-units
    fixed_stall_s, memory_in_stall_bytes : what the user waits for beside the final delta
    memory_bytes : sent in all
    egress_price_per_gb, commit_cost : micro-units
    session_lost : open work is lost by this strategy
    delta_in_stall_ratio : share of the final delta that is sent while the user waits
    """

    source_region: int
    target_region: int
    sites: tuple[str, ...]
    demand_vcpus: float | None
    demand_memory_bytes: int | None
    probability: float
    active_hours: float
    other_saving: int
    fixed_stall_s: float
    memory_in_stall_bytes: int
    memory_bytes: int
    egress_price_per_gb: float
    commit_cost: int
    session_lost: bool
    delta_in_stall_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about one desktop now, and why.

    desktop : row in the `FleetInput`
    stay_items, action_items : sum exactly to stay_cost and action_cost; for `stay` both are alike
    gain : stay_cost - action_cost
    confidence : probability that the planned condition holds (1 for `stay`)
    prepare_by : the shadow must be whole at this time
    cutover_start, cutover_end : when a confirmed cutover is expected, end exclusive
    confirm_terms : what a later observation must meet; None for `stay` and for a smaller flavor
    expires_at : after this the shadow and the advice are worth nothing any more
    """

    desktop: int
    action: Action
    source_region: int
    target_region: int
    source_flavor: int
    target_flavor: int
    stay_items: tuple[Item, ...]
    action_items: tuple[Item, ...]
    stay_cost: int
    action_cost: int
    gain: int
    confidence: float
    expires_at: datetime
    reason: str
    stay_reason: StayReason | None = None
    tier: Tier | None = None
    strategy: str | None = None
    sync_interval_s: int | None = None
    prepare_by: datetime | None = None
    cutover_start: datetime | None = None
    cutover_end: datetime | None = None
    source_after: SourceAfter | None = None
    expected_stall_ms: int | None = None
    target_site: int | None = None
    confirm_terms: ConfirmTerms | None = None
