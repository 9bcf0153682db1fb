"""What comes in, as a viewer may see it: sources, agents, quarantine, and what clouds hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db.models import Count, F, IntegerField, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from desktops.core.health import Health, health_of
from desktops.models import Desktop, Drift, Pool, QuarantinedRow, RegionState, Source
from desktops.selectors import pools_for, regions_for

if TYPE_CHECKING:
    from desktops.selectors import Viewer

# An agent posts every minute; whoever was not heard of for so long is silent.
AGENT_PATIENCE = timedelta(minutes=15)
# How long after a success nothing need be heard of a source. Nobody badges in at night.
PATIENCE: Mapping[str, timedelta] = {
    Source.Kind.AGENT: AGENT_PATIENCE,
    Source.Kind.PROMETHEUS: timedelta(minutes=15),
    Source.Kind.GNOCCHI: timedelta(minutes=30),
    Source.Kind.GUACAMOLE: timedelta(minutes=15),
    Source.Kind.PRESENCE: timedelta(hours=24),
}


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source, and how it is doing now.

    source : with its pool, its dataset and `held`, the number of its rows in quarantine
    lag : from the newest observation to now, by the clock of its data
    """

    source: Source
    health: Health
    patience: timedelta
    lag: timedelta | None


@dataclass(frozen=True, slots=True)
class AgentCounts:
    """Desktops of a pool that have an agent.

    running : of those; reported : of the running ones, in the last AGENT_PATIENCE
    """

    enrolled: int
    running: int
    reported: int

    @property
    def silent(self) -> int:
        return self.running - self.reported


NO_AGENTS = AgentCounts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class PoolState:
    """pool : with its dataset, `inventory`, and its drifts counted by kind"""

    pool: Pool
    agents: AgentCounts


def sources_for(viewer: Viewer) -> QuerySet[Source]:
    """With the number of rows in quarantine as `held`."""
    held = (
        QuarantinedRow.objects.filter(source=OuterRef("pk"), state=QuarantinedRow.State.HELD)
        .order_by()
        .values("source")
        .annotate(n=Count("pk"))
        .values("n")
    )
    return (
        Source.objects.filter(pool__in=pools_for(viewer))
        .select_related("dataset", "pool")
        .annotate(held=Coalesce(Subquery(held, output_field=IntegerField()), 0))
    )


def source_state(source: Source, *, wall: datetime) -> SourceState:
    patience = PATIENCE[source.kind]
    health = health_of(
        last_success_at=source.last_success_at,
        last_error=source.last_error,
        wall=wall,
        patience=patience,
    )
    clock = source.dataset.clock(wall=wall)
    # A clock may be a little ahead of ours (desktops.sources.checks).
    lag = max(clock - source.newest_at, timedelta(0)) if source.newest_at else None
    return SourceState(source, health, patience, lag)


def pool_states(viewer: Viewer, *, wall: datetime) -> list[PoolState]:
    pools = pools_listed(viewer)
    agents = _agents(pools_for(viewer), wall=wall)
    return [PoolState(pool, agents.get(pool.pk, NO_AGENTS)) for pool in pools]


def pools_listed(viewer: Viewer) -> QuerySet[Pool]:
    """Pools with the newest comparison of each, and the number of drifts of each kind."""
    counts = {
        kind.value: Count("inventory__drifts", filter=Q(inventory__drifts__kind=kind))
        for kind in Drift.Kind
    }
    return pools_for(viewer).select_related("dataset", "inventory").annotate(**counts)


def agents_of(pool: Pool, *, wall: datetime) -> AgentCounts:
    return _agents(Pool.objects.filter(pk=pool.pk), wall=wall).get(pool.pk, NO_AGENTS)


def _agents(pools: QuerySet[Pool], *, wall: datetime) -> dict[int, AgentCounts]:
    """By pool."""
    running = Q(state=Desktop.State.RUNNING)
    rows = (
        Desktop.objects.filter(pool__in=pools)
        .filter(agent__isnull=False, agent__revoked_at=None)
        .order_by()
        .values("pool")
        .annotate(
            enrolled=Count("pk"),
            running=Count("pk", filter=running),
            reported=Count(
                "pk", filter=running & Q(agent__last_seen_at__gte=wall - AGENT_PATIENCE)
            ),
        )
    )
    return {
        row["pool"]: AgentCounts(row["enrolled"], row["running"], row["reported"]) for row in rows
    }


def silent_desktops(pool: Pool, *, wall: datetime) -> QuerySet[Desktop]:
    """Running desktops whose agent was not heard of lately, longest silent first."""
    heard = Q(agent__last_seen_at__gte=wall - AGENT_PATIENCE)
    return (
        Desktop.objects.filter(pool=pool, state=Desktop.State.RUNNING)
        .filter(agent__isnull=False, agent__revoked_at=None)
        .exclude(heard)
        .select_related("agent", "region")
        .order_by(F("agent__last_seen_at").asc(nulls_first=True), "key")
    )


def drifts_for(viewer: Viewer) -> QuerySet[Drift]:
    """What wants somebody's eyes first: vanished, unlisted, unknown, changed."""
    drifts = Drift.objects.filter(sync__pool__in=pools_for(viewer)).select_related("sync__pool")
    return drifts.order_by("-kind", "region", "name", "pk")


def drifts_of(pool: Pool, viewer: Viewer) -> QuerySet[Drift]:
    """A pool's drifts with `desktop_id`, where it is about one of its desktops."""
    desktop = Desktop.objects.filter(pool=pool, server_id=OuterRef("server_id")).exclude(
        server_id=""
    )
    return (
        drifts_for(viewer)
        .filter(sync=pool.pk)
        .annotate(desktop_id=Subquery(desktop.order_by("pk").values("pk")[:1]))
    )


def region_states(viewer: Viewer) -> QuerySet[RegionState]:
    """Quotas of the regions of the clouds that the viewer's pools are compared with."""
    clouds = pools_for(viewer).exclude(cloud="").values("cloud")
    return (
        RegionState.objects.filter(region__in=regions_for(viewer), region__cloud__in=clouds)
        .select_related("region")
        .order_by("region__cloud", "region__label")
    )


def quarantine_for(viewer: Viewer) -> QuerySet[QuarantinedRow]:
    return QuarantinedRow.objects.filter(source__pool__in=pools_for(viewer)).select_related(
        "source__pool", "desktop", "desktop_user"
    )


def held_rows(
    viewer: Viewer, *, source: str = "", reason: str = "", row_id: int | None = None
) -> QuerySet[QuarantinedRow]:
    """Rows in quarantine of a source (its name), of a reason, of both; or one row."""
    held = quarantine_for(viewer).filter(state=QuarantinedRow.State.HELD)
    if source:
        held = held.filter(source__name=source)
    if reason:
        held = held.filter(reason=reason)
    return held if row_id is None else held.filter(pk=row_id)


def held_by_reason(viewer: Viewer) -> QuerySet[QuarantinedRow, dict[str, object]]:
    """Rows of source (name), reason and n, most first."""
    return (
        QuarantinedRow.objects.filter(source__pool__in=pools_for(viewer))
        .filter(state=QuarantinedRow.State.HELD)
        .order_by()
        .values("reason", name=F("source__name"))
        .annotate(n=Count("pk"))
        .order_by("-n", "name", "reason")
    )
