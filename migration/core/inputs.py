"""What the planner is given: the fleet, the world's tables, the pools' policies.

Indices everywhere: a region, site, flavor or pool is its position in the tables' name lists.
T hours, n desktops, R regions, S sites, F flavors, L quantile levels, K sampled paths, P pools,
Q kinds of quota. Money is micro-units; a GB is 1e9 bytes. Wrong shapes and values raise
`PlanInputError` naming the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migration.core.slo import BoolArray, FloatArray, IntArray, Slo

NOT_OFFERED = -1
UNKNOWN_SITE = -1


class PlanInputError(ValueError):
    """The planner's input has a wrong shape or value; the message names the field."""


class Tier(StrEnum):
    """How ready a shadow is kept."""

    SEED = "seed"
    WARM = "warm"
    HOT = "hot"


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way a desktop's state can travel between two regions.

    allowed : shape (R, R), from x to
    fixed_stall_s : what the user waits for whatever the size (stop, detach, start), per tier
    scan_bytes_per_s : reading the volume for changes inside the stall; inf with a change map
    delta_in_stall_ratio : share of what changed since the last sync that is sent then
    memory_in_stall_ratio : the same of the memory in use
    carries_memory : memory is sent and the session goes on; else open work is lost
    needs_same_flavor : cannot change the flavor on the way
    """

    name: str
    allowed: BoolArray
    fixed_stall_s: Mapping[Tier, float]
    scan_bytes_per_s: float = float("inf")
    delta_in_stall_ratio: float = 1.0
    memory_in_stall_ratio: float = 0.0
    carries_memory: bool = False
    needs_same_flavor: bool = False


@dataclass(frozen=True, slots=True)
class WorldTables:
    """Prices, distances and headroom, the same for every desktop.

    rtt_ms : (S, R), site to region
    app_rtt_ms : (P, R), each pool's applications and file shares to region
    flavor_price_per_hour : (F, R) micro-units, `NOT_OFFERED` where the region lacks the flavor
    flavor_vcpus, flavor_memory_bytes : (F,), capacity
    storage_price_per_gb_hour : (R,) micro-units, fractions allowed
    egress_price_per_gb : (R, R) micro-units, from x to
    link_bytes_per_s : (R, R), what the product may use of the link; 0 where there is none
    quota_headroom : (Q, R), what is left of each kind of quota
    quota_use : (Q, F), what one server of the flavor takes of it
    volume_headroom_bytes : (R,) what is left for the volumes of new shadows; None is no limit
    site_zones : IANA names for the times in sentences; UTC where left out
    """

    regions: Sequence[str]
    sites: Sequence[str]
    flavors: Sequence[str]
    quotas: Sequence[str]
    rtt_ms: FloatArray
    app_rtt_ms: FloatArray
    flavor_price_per_hour: IntArray
    flavor_vcpus: FloatArray
    flavor_memory_bytes: IntArray
    storage_price_per_gb_hour: FloatArray
    egress_price_per_gb: FloatArray
    link_bytes_per_s: FloatArray
    quota_headroom: FloatArray
    quota_use: FloatArray
    strategies: Sequence[Strategy]
    site_zones: Sequence[str] | None = None
    volume_headroom_bytes: FloatArray | None = None

    def __post_init__(self) -> None:
        sites, regions, flavors = len(self.sites), len(self.regions), len(self.flavors)
        _has_shape("rtt_ms", self.rtt_ms, (sites, regions))
        _has_shape("app_rtt_ms", self.app_rtt_ms, (None, regions))
        _has_shape("flavor_price_per_hour", self.flavor_price_per_hour, (flavors, regions))
        _has_shape("flavor_vcpus", self.flavor_vcpus, (flavors,))
        _has_shape("flavor_memory_bytes", self.flavor_memory_bytes, (flavors,))
        _has_shape("storage_price_per_gb_hour", self.storage_price_per_gb_hour, (regions,))
        _has_shape("egress_price_per_gb", self.egress_price_per_gb, (regions, regions))
        _has_shape("link_bytes_per_s", self.link_bytes_per_s, (regions, regions))
        _has_shape("quota_headroom", self.quota_headroom, (len(self.quotas), regions))
        _has_shape("quota_use", self.quota_use, (len(self.quotas), flavors))
        for name in (
            "rtt_ms",
            "app_rtt_ms",
            "flavor_vcpus",
            "flavor_memory_bytes",
            "storage_price_per_gb_hour",
            "egress_price_per_gb",
            "link_bytes_per_s",
            "quota_use",
        ):
            _is_non_negative(name, getattr(self, name))
        if self.volume_headroom_bytes is not None:
            _has_shape("volume_headroom_bytes", self.volume_headroom_bytes, (regions,))
        if self.flavor_price_per_hour.dtype.kind != "i":
            raise PlanInputError("flavor_price_per_hour must be whole micro-units (int64)")
        if not self.strategies:
            raise PlanInputError("strategies is empty: a desktop needs one way to travel")
        for strategy in self.strategies:
            _has_shape(f"strategy {strategy.name}.allowed", strategy.allowed, (regions, regions))
        if self.site_zones is not None and len(self.site_zones) != sites:
            raise PlanInputError(f"site_zones has {len(self.site_zones)} names, sites {sites}")


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """What an admin set for one pool; money in micro-units.

    fixed_risk : price put on any cutover going wrong
    commit_window_hours : the source is kept, stopped, this long after a cutover
    min_gain : advice that gains less is not given
    hysteresis_ratio : the gain must also exceed this share of the price of preparing and moving
    tiers : shadows this pool may have
    hot_flavor : index of the small flavor of a hot shadow, needed when `tiers` has it
    min_probability : a chance below this neither makes nor holds a shadow
    confirm_lead_hours : how long before the user arrives the confirming observation comes
    prepare_margin_hours : a shadow is whole this long before it is first needed
    resize_stall_s : stop and start on another flavor in the same region
    allow_downsize : whether a smaller flavor may be advised
    fixed_sync_bytes : what a sync sends even when nothing changed
    min_sync_hours, max_sync_hours : bounds of the replication interval
    """

    slo: Slo = field(default_factory=Slo)
    fixed_risk: int = 200_000
    commit_window_hours: float = 2.0
    min_gain: int = 500_000
    hysteresis_ratio: float = 0.1
    tiers: tuple[Tier, ...] = (Tier.SEED, Tier.WARM)
    hot_flavor: int | None = None
    min_probability: float = 0.02
    confirm_lead_hours: int = 0
    prepare_margin_hours: int = 1
    resize_stall_s: float = 90.0
    allow_downsize: bool = False
    fixed_sync_bytes: int = 4_000_000
    min_sync_hours: float = 0.25
    max_sync_hours: float = 24.0

    def __post_init__(self) -> None:
        if not self.tiers:
            raise PlanInputError("PoolPolicy.tiers is empty: use allowed_regions to keep a pool")
        if Tier.HOT in self.tiers and self.hot_flavor is None:
            raise PlanInputError("PoolPolicy.tiers has hot, but hot_flavor is not set")
        if not 0 < self.min_sync_hours <= self.max_sync_hours:
            raise PlanInputError("PoolPolicy needs 0 < min_sync_hours <= max_sync_hours")
        if self.confirm_lead_hours < 0 or self.prepare_margin_hours < 0:
            raise PlanInputError("PoolPolicy lead and margin must be at least 0 hours")
        if self.min_gain < 0 or self.fixed_risk < 0 or self.hysteresis_ratio < 0:
            raise PlanInputError("PoolPolicy min_gain, fixed_risk, hysteresis_ratio must be >= 0")


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """What every desktop shares beside quota and links.

    max_moves_per_hour : expected cutovers, there and back, in any hour of the horizon
    """

    max_moves_per_hour: float = float("inf")

    def __post_init__(self) -> None:
        if not self.max_moves_per_hour >= 0:
            raise PlanInputError("FleetLimits.max_moves_per_hour must be at least 0")


@dataclass(frozen=True, slots=True)
class FleetInput:
    """One row per desktop, T hours from `start` (aware, on the hour).

    region, home_region, flavor, pool : (n,) indices; home is where a trip returns to
    volume_bytes : (n,) provisioned, what storage is billed for
    used_bytes : (n,) what a whole copy sends
    seed_bytes : (n, R) bytes still to send until a shadow there is whole; 0 where one is in step
    memory_bytes : (n,) memory in use, for strategies that carry it
    dirty_bytes_per_hour, dirty_limit_bytes : (n,) unique changed bytes after h hours are
        limit x (1 - exp(-rate x h / limit))
    p_active : (n, T) probability of a session in the hour
    p_site : (n, T, S) where the user is, given a session; what is missing to 1 is unknown
    paths : (n, K, T) joint samples of the site index, `UNKNOWN_SITE` allowed, or None
    levels : (L,) increasing in (0, 1)
    cpu_quantiles, memory_quantiles : (n, T, L) demand given a session, in vCPUs and bytes;
        NaN or None where no forecast exists (no saturation is then claimed)
    allowed_regions, allowed_flavors : (n, R), (n, F) residency, pins, the pool's flavors
    cooldown_hours : (n,) hours from now before which no cutover may start
    powered_ratio : (n, T) share of the hour the server is on; None means always
    """

    start: datetime
    region: IntArray
    home_region: IntArray
    flavor: IntArray
    pool: IntArray
    volume_bytes: IntArray
    used_bytes: IntArray
    seed_bytes: IntArray
    memory_bytes: IntArray
    dirty_bytes_per_hour: FloatArray
    dirty_limit_bytes: FloatArray
    p_active: FloatArray
    p_site: FloatArray
    allowed_regions: BoolArray
    allowed_flavors: BoolArray
    cooldown_hours: IntArray
    levels: FloatArray
    cpu_quantiles: FloatArray | None = None
    memory_quantiles: FloatArray | None = None
    paths: NDArray[np.integer[Any]] | None = None
    powered_ratio: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.region)

    @property
    def hours(self) -> int:
        return int(self.p_active.shape[1])

    def rows(self, part: slice) -> FleetInput:
        """Some of the desktops, as views."""
        values = {name: getattr(self, name) for name in _PER_DESKTOP}
        return replace(self, **{name: _cut(value, part) for name, value in values.items()})

    def from_hour(self, first: int) -> FleetInput:
        """The same fleet with the hours before `first` cut off."""
        return replace(
            self,
            start=self.start + timedelta(hours=first),
            p_active=self.p_active[:, first:],
            p_site=self.p_site[:, first:],
            cpu_quantiles=_cut(self.cpu_quantiles, np.s_[:, first:]),
            memory_quantiles=_cut(self.memory_quantiles, np.s_[:, first:]),
            paths=_cut(self.paths, np.s_[:, :, first:]),
            powered_ratio=_cut(self.powered_ratio, np.s_[:, first:]),
        )


def check_fleet(fleet: FleetInput, tables: WorldTables, policies: Sequence[PoolPolicy]) -> None:
    """Raise `PlanInputError` where the fleet does not fit the tables and policies."""
    n, hours, levels = len(fleet), fleet.hours, len(fleet.levels)
    regions, sites, flavors = len(tables.regions), len(tables.sites), len(tables.flavors)
    if fleet.start.tzinfo is None:
        raise PlanInputError("start must be an aware datetime")
    one_per_desktop = (
        "region",
        "home_region",
        "flavor",
        "pool",
        "volume_bytes",
        "used_bytes",
        "memory_bytes",
        "dirty_bytes_per_hour",
        "dirty_limit_bytes",
        "cooldown_hours",
    )
    shapes: dict[str, tuple[int | None, ...]] = {name: (n,) for name in one_per_desktop}
    shapes |= {
        "seed_bytes": (n, regions),
        "p_active": (n, hours),
        "p_site": (n, hours, sites),
        "allowed_regions": (n, regions),
        "allowed_flavors": (n, flavors),
        "cpu_quantiles": (n, hours, levels),
        "memory_quantiles": (n, hours, levels),
        "paths": (n, None, hours),
        "powered_ratio": (n, hours),
    }
    for name, shape in shapes.items():
        value = getattr(fleet, name)
        if value is not None:
            _has_shape(name, value, shape)
    _is_index("region", fleet.region, regions)
    _is_index("home_region", fleet.home_region, regions)
    _is_index("flavor", fleet.flavor, flavors)
    _is_index("pool", fleet.pool, len(policies))
    if len(tables.app_rtt_ms) != len(policies):
        raise PlanInputError(f"app_rtt_ms has {len(tables.app_rtt_ms)} pools, not {len(policies)}")
    for name in ("volume_bytes", "used_bytes", "seed_bytes", "memory_bytes"):
        _is_non_negative(name, getattr(fleet, name))
    _is_non_negative("dirty_bytes_per_hour", fleet.dirty_bytes_per_hour)
    _is_non_negative("dirty_limit_bytes", fleet.dirty_limit_bytes)
    _is_probability("p_active", fleet.p_active)
    _is_probability("p_site", fleet.p_site)
    if fleet.p_site.size and float(fleet.p_site.sum(axis=2).max()) > 1 + 1e-4:
        raise PlanInputError("p_site sums to more than 1 in some hour")
    if fleet.powered_ratio is not None:
        _is_probability("powered_ratio", fleet.powered_ratio)
    if levels and not (np.all(np.diff(fleet.levels) > 0) and 0 < fleet.levels[0] < 1):
        raise PlanInputError("levels must increase strictly inside (0, 1)")
    if levels and fleet.levels[-1] >= 1:
        raise PlanInputError("levels must increase strictly inside (0, 1)")
    if fleet.paths is not None:
        if fleet.paths.shape[1] == 0:
            raise PlanInputError("paths has no sample; pass None to plan on the marginal map")
        _is_index("paths", fleet.paths, sites, lowest=UNKNOWN_SITE)
    if n and np.any(tables.flavor_price_per_hour[fleet.flavor, fleet.region] == NOT_OFFERED):
        raise PlanInputError("a desktop runs a flavor its region has no price for")
    for policy in policies:
        if policy.hot_flavor is not None and not 0 <= policy.hot_flavor < flavors:
            raise PlanInputError(f"hot_flavor {policy.hot_flavor} is not one of {flavors} flavors")


_PER_DESKTOP = tuple(f.name for f in fields(FleetInput) if f.name not in ("start", "levels"))


def _cut(value: Any, index: Any) -> Any:
    return None if value is None else value[index]


def _has_shape(name: str, value: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    same = value.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, value.shape, strict=True)
    )
    if not same:
        raise PlanInputError(f"{name} has shape {value.shape}, expected {shape}")


def _is_non_negative(name: str, value: NDArray[Any]) -> None:
    if value.size and not (np.all(np.isfinite(value)) and value.min() >= 0):
        raise PlanInputError(f"{name} must be finite and at least 0")


def _is_probability(name: str, value: NDArray[Any]) -> None:
    if value.size and not (value.min() >= 0 and value.max() <= 1 + 1e-6):
        raise PlanInputError(f"{name} must lie in [0, 1] everywhere")


def _is_index(name: str, value: NDArray[Any], size: int, lowest: int = 0) -> None:
    if value.dtype.kind not in "iu":
        raise PlanInputError(f"{name} must be integers, got {value.dtype}")
    if value.size and not (value.min() >= lowest and value.max() < size):
        raise PlanInputError(f"{name} holds an index outside {lowest}..{size - 1}")
