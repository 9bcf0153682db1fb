"""Everything the planner needs, read from the tables and the clouds into its arrays.

One query per kind of row; nothing is read per desktop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import numpy as np

from desktops.core.cloud import Cloud, MemoryMode, Quota
from desktops.models import (
    Dataset,
    Desktop,
    Flavor,
    FlavorPrice,
    Pool,
    Region,
    RegionLink,
    Site,
)
from desktops.round_trips import round_trips_between
from forecasting.models import Generation
from forecasting.selectors import forecast_of
from migration.core.inputs import (
    NOT_OFFERED,
    FleetInput,
    PoolPolicy,
    Strategy,
    Tier,
    WorldTables,
)
from migration.core.machine import TERMINAL
from migration.core.machine import Strategy as Way
from migration.core.slo import BoolArray, FloatArray, IntArray, Slo
from migration.errors import NotPossible
from migration.models import Shadow, Transition
from migration.services.passes import is_relayed

MICROS = 1_000_000
HOURS_PER_MONTH = 730
QUOTAS = ("servers", "vcpus", "memory")

# What a user waits for beside the bytes: guest shutdown, detach, boot and sign-in. Measured on
# the simulated cloud and the two-region lab it is 40 to 90 s; priced at the upper end.
STOP_STALL_S = 90.0
# A machine that is carried while it runs: measured on two QEMU hosts it stands still for half a
# second to one, of which the bytes of the last pass are a part (benchmarks/cutover.py). Of memory
# and volume, what changes during one pass is all that is left for the freeze.
CARRIED_STALL_S = 0.6
LAST_PASS_RATIO = 0.005
# Until a desktop's own rate has been measured: what an office desktop dirties in an hour of work,
# and the share of its volume that is rewritten over and over.
ASSUMED_DIRTY_BYTES_PER_HOUR = 400_000_000
ASSUMED_WORKING_SET_RATIO = 0.08
# A round trip nobody measured or entered, to a region without coordinates: as far as it gets.
FARTHEST_RTT_MS = 300.0


@dataclass(frozen=True, slots=True)
class PlanInput:
    """The planner's arrays, and the rows that their indices stand for."""

    desktops: Sequence[Desktop]
    pools: Sequence[Pool]
    regions: Sequence[Region]
    flavors: Sequence[Flavor]
    sites: Sequence[Site]
    fleet: FleetInput
    tables: WorldTables
    policies: Sequence[PoolPolicy]
    currency: str


def read_plan_input(
    dataset: Dataset,
    generation: Generation,
    *,
    wall: datetime,
    clouds: Callable[[str], Cloud],
    sample_paths: Callable[[Sequence[Desktop], Sequence[Site]], np.ndarray | None],
) -> PlanInput:
    """The desktops of the data set that can be moved now, as the planner's input.

    sample_paths : joint paths (n, K, T) of site indices for these desktops' people, or None
    Raises NotPossible when prices are not all in one currency, CloudError when quota is unknown.
    """
    desktops = _plannable(dataset)
    pools = list(Pool.objects.filter(dataset=dataset).prefetch_related("residency").order_by("pk"))
    cloud_names = {d.region.cloud for d in desktops if d.region}
    regions = list(Region.objects.filter(cloud__in=cloud_names).order_by("pk"))
    flavors = list(Flavor.objects.filter(cloud__in=cloud_names).order_by("pk"))
    sites = list(Site.objects.order_by("code"))
    currency = _one_currency(pools, regions)
    tables = _tables(pools, regions, flavors, sites, clouds=clouds)
    fleet = _fleet(desktops, generation, pools, regions, flavors, sites, tables, wall=wall)
    paths = sample_paths(desktops, sites) if desktops else None
    if paths is not None:
        fleet = FleetInput(
            **{name: getattr(fleet, name) for name in FleetInput.__slots__ if name != "paths"},
            paths=paths[:, :, : fleet.hours],
        )
    policies = [policy_of(pool) for pool in pools]
    return PlanInput(desktops, pools, regions, flavors, sites, fleet, tables, policies, currency)


def micros(amount: Decimal) -> int:
    return int((amount * MICROS).to_integral_value())


def _plannable(dataset: Dataset) -> list[Desktop]:
    """Desktops that exist in a cloud, are of somebody who may be predicted, and stand still."""
    moving = Transition.objects.exclude(state__in=sorted(TERMINAL)).values("desktop_id")
    return list(
        Desktop.objects.filter(
            dataset=dataset,
            region__isnull=False,
            flavor__isnull=False,
            desktop_user__is_predicted=True,
            state__in=(Desktop.State.RUNNING, Desktop.State.STOPPED),
        )
        .exclude(server_id="")
        .exclude(pk__in=moving)
        .select_related("region", "flavor", "desktop_user__home_site")
        .order_by("pk")
    )


def _one_currency(pools: Sequence[Pool], regions: Sequence[Region]) -> str:
    currencies = {p.currency for p in pools} | {r.currency for r in regions}
    if len(currencies) != 1:
        raise NotPossible(
            f"Prices are in {', '.join(sorted(currencies))}; a plan needs them in one currency."
        )
    return currencies.pop()


def policy_of(pool: Pool) -> PoolPolicy:
    """The pool's prices and limits, as the core counts them."""
    latency = micros(pool.latency_penalty_per_hour)
    return PoolPolicy(
        slo=Slo(
            rtt_ms=pool.slo_rtt_ms,
            latency_price_per_ms_hour=round(latency / max(pool.slo_rtt_ms, 1.0)),
            latency_cap_per_hour=3 * latency,
            saturation_price_per_hour=micros(pool.saturation_penalty_per_hour),
            stall_price_per_s=round(micros(pool.stall_penalty_per_minute) / 60),
            session_loss_price=micros(pool.session_loss_penalty),
            gravity_price_per_ms_hour=round(micros(pool.gravity_penalty_per_hour) / 100),
            gravity_cap_per_hour=micros(pool.gravity_penalty_per_hour),
        ),
        fixed_risk=micros(pool.move_risk),
        commit_window_hours=pool.commit_window_s / 3600,
        min_gain=micros(pool.min_gain),
        tiers=(Tier.SEED, Tier.WARM),
    )


def _tables(
    pools: Sequence[Pool],
    regions: Sequence[Region],
    flavors: Sequence[Flavor],
    sites: Sequence[Site],
    *,
    clouds: Callable[[str], Cloud],
) -> WorldTables:
    region_row = {r.pk: i for i, r in enumerate(regions)}
    flavor_row = {f.pk: i for i, f in enumerate(flavors)}
    n = len(regions)
    rtt = round_trips_between(sites, regions).rtt_ms
    between = np.zeros((n, n))
    egress = np.zeros((n, n))
    link = np.zeros((n, n))
    for row in RegionLink.objects.filter(source__in=regions, dest__in=regions):
        at = region_row[row.source_id], region_row[row.dest_id]
        between[at] = row.rtt_ms or 0.0
        egress[at] = micros(row.egress_price_per_gb)
        link[at] = row.bytes_per_s
    price = np.full((len(flavors), n), NOT_OFFERED, dtype=np.int64)
    for offer in FlavorPrice.objects.filter(region__in=regions):
        price[flavor_row[offer.flavor_id], region_row[offer.region_id]] = micros(
            offer.price_per_hour
        )
    vcpus = np.array([f.vcpus for f in flavors], dtype=float)
    memory = np.array([f.memory_bytes for f in flavors], dtype=np.int64)
    headroom = _headroom(regions, clouds)
    # A move between regions needs a link; inside one, nothing is sent.
    can_travel = (link > 0) | np.eye(n, dtype=bool)
    return WorldTables(
        regions=[r.label for r in regions],
        sites=[s.label for s in sites],
        flavors=[f.name for f in flavors],
        quotas=QUOTAS,
        rtt_ms=np.nan_to_num(rtt, nan=FARTHEST_RTT_MS),
        app_rtt_ms=_app_rtt(pools, region_row, between),
        flavor_price_per_hour=price,
        flavor_vcpus=vcpus,
        flavor_memory_bytes=memory,
        storage_price_per_gb_hour=np.array(
            [micros(r.volume_price_per_gb_month) / HOURS_PER_MONTH for r in regions]
        ),
        egress_price_per_gb=egress,
        link_bytes_per_s=link,
        quota_headroom=headroom[: len(QUOTAS)],
        quota_use=np.array([np.ones(len(flavors)), vcpus, memory]),
        volume_headroom_bytes=headroom[len(QUOTAS)],
        strategies=_strategies(regions, can_travel, clouds=clouds),
        site_zones=[s.time_zone for s in sites],
    )


def _strategies(
    regions: Sequence[Region], can_travel: BoolArray, *, clouds: Callable[[str], Cloud]
) -> list[Strategy]:
    """Stopped, between any two regions; while it runs, where relays reach into hypervisors."""
    stopped = Strategy(
        name=Way.STOP.value,
        allowed=can_travel,
        fixed_stall_s=dict.fromkeys(Tier, STOP_STALL_S),
    )
    reached = np.array([_are_machines_carried(clouds(r.cloud)) for r in regions], dtype=bool)
    cloud = np.array([r.cloud for r in regions])
    same_cloud = (cloud[:, None] == cloud) & ~np.eye(len(regions), dtype=bool)
    carried = Strategy(
        name=Way.HYPERVISOR.value,
        allowed=can_travel & same_cloud & reached[:, None] & reached,
        fixed_stall_s=dict.fromkeys(Tier, CARRIED_STALL_S),
        delta_in_stall_ratio=LAST_PASS_RATIO,
        memory_in_stall_ratio=LAST_PASS_RATIO,
        carries_memory=True,
        needs_same_flavor=True,
    )
    return [stopped, carried] if carried.allowed.any() else [stopped]


def _are_machines_carried(cloud: Cloud) -> bool:
    return is_relayed(cloud) and MemoryMode.HYPERVISOR in cloud.capabilities().memory_modes


def _app_rtt(pools: Sequence[Pool], region_row: dict[int, int], between: FloatArray) -> FloatArray:
    """Round trip from each region to where the pool's applications are; 0 where it has none."""
    rtt = np.zeros((len(pools), len(region_row)))
    for row, pool in enumerate(pools):
        if pool.gravity_region_id in region_row:
            rtt[row] = between[:, region_row[pool.gravity_region_id]]
    return rtt


def _headroom(regions: Sequence[Region], clouds: Callable[[str], Cloud]) -> FloatArray:
    """(len(QUOTAS) + 1, R): what is left of each kind of quota, bytes of volumes last."""
    quotas = [clouds(r.cloud).inventory(r.name).quota for r in regions]
    return np.array([_left(q) for q in quotas]).reshape(len(regions), len(QUOTAS) + 1).T


def _left(quota: Quota) -> list[float]:
    totals = (quota.servers, quota.vcpus, quota.memory_bytes, quota.volume_bytes)
    used = (
        quota.servers_used,
        quota.vcpus_used,
        quota.memory_bytes_used,
        quota.volume_bytes_used,
    )
    return [np.inf if t is None else max(t - u, 0) for t, u in zip(totals, used, strict=True)]


def _fleet(
    desktops: Sequence[Desktop],
    generation: Generation,
    pools: Sequence[Pool],
    regions: Sequence[Region],
    flavors: Sequence[Flavor],
    sites: Sequence[Site],
    tables: WorldTables,
    *,
    wall: datetime,
) -> FleetInput:
    n = len(desktops)
    region_row = {r.pk: i for i, r in enumerate(regions)}
    flavor_row = {f.pk: i for i, f in enumerate(flavors)}
    pool_row = {p.pk: i for i, p in enumerate(pools)}
    pool = np.array([pool_row[d.pool_id] for d in desktops], dtype=np.int64)
    region = np.array([region_row[d.region_id or 0] for d in desktops], dtype=np.int64)
    volume = np.array([d.volume_bytes for d in desktops], dtype=np.int64)
    used = np.array([d.used_bytes or d.volume_bytes for d in desktops], dtype=np.int64)
    allowed = _allowed_regions(pools, region_row)[pool]
    profiles = forecast_of(
        generation,
        people=[d.desktop_user_id for d in desktops],
        sites=[s.code for s in sites],
        resources=("cpu_cores", "memory_bytes"),
    )
    return FleetInput(
        start=generation.as_of,
        region=region,
        home_region=_home_regions(desktops, sites, region, allowed, tables.rtt_ms),
        flavor=np.array([flavor_row[d.flavor_id or 0] for d in desktops], dtype=np.int64),
        pool=pool,
        volume_bytes=volume,
        used_bytes=used,
        seed_bytes=_seed_bytes(desktops, used, region_row, wall=wall),
        memory_bytes=np.zeros(n, dtype=np.int64),
        dirty_bytes_per_hour=np.array(
            [float(d.dirty_bytes_per_hour or ASSUMED_DIRTY_BYTES_PER_HOUR) for d in desktops]
        ),
        dirty_limit_bytes=volume * ASSUMED_WORKING_SET_RATIO,
        p_active=profiles.p_active,
        p_site=profiles.p_site,
        allowed_regions=allowed,
        # Resizing is not carried out yet, so only the present flavor may be advised.
        allowed_flavors=np.array(
            [[f.pk == d.flavor_id for f in flavors] for d in desktops], dtype=bool
        ).reshape(n, len(flavors)),
        cooldown_hours=_cooldown_hours(desktops, pools, pool, wall=wall),
        levels=profiles.levels,
        cpu_quantiles=profiles.demand["cpu_cores"],
        memory_quantiles=profiles.demand["memory_bytes"],
    )


def _allowed_regions(pools: Sequence[Pool], region_row: dict[int, int]) -> np.ndarray:
    allowed = np.ones((len(pools), len(region_row)), dtype=bool)
    for row, pool in enumerate(pools):
        if residency := [r.pk for r in pool.residency.all()]:
            allowed[row] = [pk in residency for pk in region_row]
    return allowed


def _home_regions(
    desktops: Sequence[Desktop],
    sites: Sequence[Site],
    region: IntArray,
    allowed: np.ndarray,
    rtt_ms: FloatArray,
) -> IntArray:
    """Where a trip comes back to: the allowed region nearest to the person's home site."""
    site_row = {s.pk: i for i, s in enumerate(sites)}
    home = region.copy()
    for row, desktop in enumerate(desktops):
        user = desktop.desktop_user
        if user and user.home_site_id:
            rtt = np.where(allowed[row], rtt_ms[site_row[user.home_site_id]], np.inf)
            home[row] = int(np.argmin(rtt))
    return home


def _seed_bytes(
    desktops: Sequence[Desktop], used: IntArray, region_row: dict[int, int], *, wall: datetime
) -> IntArray:
    """Everything in use; where a ready shadow stands, what was dirtied since its last sync."""
    seed = np.repeat(used[:, None], len(region_row), axis=1)
    row_of = {d.pk: i for i, d in enumerate(desktops)}
    for shadow in Shadow.objects.filter(
        desktop__in=desktops, region__in=region_row, state=Shadow.State.READY
    ):
        row = row_of[shadow.desktop_id]
        since = wall - (shadow.recovery_point_at or shadow.created_at)
        rate = desktops[row].dirty_bytes_per_hour or ASSUMED_DIRTY_BYTES_PER_HOUR
        dirty = int(rate * since.total_seconds() / 3600)
        seed[row, region_row[shadow.region_id]] = min(max(dirty, 0), int(used[row]))
    return seed


def _cooldown_hours(
    desktops: Sequence[Desktop], pools: Sequence[Pool], pool: IntArray, *, wall: datetime
) -> IntArray:
    left = [
        pools[p].cooldown_s - (wall - d.moved_at).total_seconds() if d.moved_at else 0
        for d, p in zip(desktops, pool, strict=True)
    ]
    return np.ceil(np.maximum(left, 0) / 3600).astype(np.int64)
