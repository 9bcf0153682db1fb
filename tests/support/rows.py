"""Rows for tests of pages and REST that need no cloud behind them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.contrib.auth.models import Group

from desktops.models import (
    Activity,
    Dataset,
    Desktop,
    DesktopUser,
    Flavor,
    FlavorPrice,
    PersonName,
    Pool,
    Region,
    Site,
)
from forecasting.core.profiles import HORIZON_HOURS, LEVELS, RESOURCES
from forecasting.models import Generation, ResourceDemandProfile
from migration.models import Pass, Plan, Recommendation, Shadow, Step, Transition
from webapp.models import User

AS_OF = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Rows:
    """One data set: a pool, two regions, two sites, and n people with everything about them."""

    dataset: Dataset
    pool: Pool
    east: Region
    west: Region
    flavor: Flavor
    sites: tuple[Site, Site]
    generation: Generation
    plan: Plan

    def account(self, name: str, *roles: str) -> User:
        """A member of the pool with these roles, without a password."""
        user = User.objects.create_user(name)
        user.groups.set(Group.objects.filter(name__in=roles))
        self.pool.members.add(user)
        return user

    def add_people(self, n: int) -> list[Desktop]:
        """People with a desktop, a profile, a recommendation and a shadow, an hour ago at work."""
        return [self._add_person(i) for i in range(Desktop.objects.count(), n)]

    def _add_person(self, i: int) -> Desktop:
        key = f"{self.dataset.name}-{i:04}"
        person = DesktopUser.objects.create(
            dataset=self.dataset,
            pool=self.pool,
            pseudonym=f"{self.dataset.name}-person-{i:04}",
            home_site=self.sites[0],
            time_zone="Europe/Paris",
        )
        PersonName.objects.create(desktop_user=person, name=f"Name {i}")
        desktop = Desktop.objects.create(
            dataset=self.dataset,
            pool=self.pool,
            key=key,
            label=f"Desktop {key}",
            desktop_user=person,
            region=self.east,
            flavor=self.flavor,
            server_id=f"server-{i}",
            volume_id=f"volume-{i}",
            volume_bytes=40 * 10**9,
            state=Desktop.State.RUNNING,
        )
        Activity.objects.create(
            dataset=self.dataset,
            desktop_user=person,
            desktop=desktop,
            hour=AS_OF - HOUR,
            active_ratio=1,
            cpu_cores=1.5,
            site=self.sites[i % 2],
        )
        add_profile(self.generation, self.pool, person=person, desktop=desktop, site=self.sites[0])
        self._add_advice(desktop)
        Shadow.objects.create(
            desktop=desktop, region=self.west, tier=Shadow.Tier.WARM, created_at=AS_OF
        )
        return desktop

    def _add_advice(self, desktop: Desktop) -> Recommendation:
        return Recommendation.objects.create(
            plan=self.plan,
            pool=self.pool,
            desktop=desktop,
            action=Recommendation.Action.PREPARE,
            state=Recommendation.State.AWAITING_APPROVAL,
            strategy="stop",
            shadow_tier="warm",
            source_region=self.east,
            dest_region=self.west,
            currency="USD",
            stay_cost_micros=14_200_001,
            action_cost_micros=3_100_000,
            gain_micros=11_100_001,
            items=[{"name": "latency", "micros": 3_100_000, "note": "left over"}],
            confidence=0.83,
            reason="Expected in the west from 09:00.",
            stall_ms=90_000,
            cutover_from=AS_OF + HOUR,
            cutover_until=AS_OF + 2 * HOUR,
            expires_at=AS_OF + 12 * HOUR,
        )

    def add_machine(self, key: str = "machine") -> Desktop:
        """A machine without a person, as recorded history has them."""
        machine = Desktop.objects.create(
            dataset=self.dataset, pool=self.pool, key=key, label=key.title()
        )
        add_profile(self.generation, self.pool, desktop=machine)
        return machine

    def add_transition(self, desktop: Desktop) -> Transition:
        """In the middle of its first copy."""
        row = Transition.objects.create(
            key=f"t-{desktop.key}",
            pool=self.pool,
            desktop=desktop,
            strategy="stop",
            state="syncing",
            source_region=self.east,
            dest_region=self.west,
            source_server_id=desktop.server_id,
            approved_at=AS_OF,
            expires_at=AS_OF + 12 * HOUR,
            state_entered_at=AS_OF,
            created_at=AS_OF,
            due_at=AS_OF,
        )
        Step.objects.create(
            transition=row,
            number=1,
            state="syncing",
            command="sync_volume",
            key=f"{row.key}:sync_volume:1",
            intended_at=AS_OF,
            bytes_done=10**9,
            bytes_total=4 * 10**9,
        )
        return row


def add_profile(
    generation: Generation,
    pool: Pool,
    *,
    person: DesktopUser | None = None,
    desktop: Desktop | None = None,
    site: Site | None = None,
) -> ResourceDemandProfile:
    """A week of the same hour; of somebody mostly at `site`, or of a machine without a person."""
    quantiles = np.tile(np.linspace(0.5, 2, len(LEVELS)), (HORIZON_HOURS, 1)).tolist()
    location = (
        {site.code: [0.7] * HORIZON_HOURS, "elsewhere": [0.3] * HORIZON_HOURS} if site else {}
    )
    return ResourceDemandProfile.objects.create(
        generation=generation,
        pool=pool,
        desktop_user=person,
        desktop=desktop,
        starts_at=generation.as_of,
        levels=list(LEVELS),
        p_active=[0.5] * HORIZON_HOURS if person else None,
        location=location,
        engine="test",
        history_hours=1,
        **{resource: quantiles for resource in RESOURCES},
    )


def make_rows(name: str = "test") -> Rows:
    dataset = Dataset.objects.create(
        name=name, label=f"Fleet {name}", kind=Dataset.Kind.SIMULATED, as_of=AS_OF, source="a test"
    )
    east, west = (
        Region.objects.get_or_create(
            cloud="simulated",
            name=region,
            defaults={"label": region.title(), "latitude": 40, "longitude": longitude},
        )[0]
        for region, longitude in (("east", -75), ("west", -120))
    )
    flavor, _ = Flavor.objects.get_or_create(
        cloud="simulated", name="small", defaults={"vcpus": 2, "memory_bytes": 8 * 10**9}
    )
    FlavorPrice.objects.get_or_create(flavor=flavor, region=east, price_per_hour="0.1")
    sites = tuple(
        Site.objects.get_or_create(
            code=code,
            defaults={"label": code.title(), "latitude": latitude, "longitude": 2},
        )[0]
        for code, latitude in (("paris", 48.9), ("lyon", 45.8))
    )
    pool = Pool.objects.create(dataset=dataset, name=f"{name}-pool", label=f"Pool {name}")
    generation = Generation.objects.create(
        dataset=dataset,
        as_of=AS_OF,
        engine="test",
        state=Generation.State.COMPLETE,
        started_at=AS_OF,
    )
    plan = Plan.objects.create(dataset=dataset, generation=generation, as_of=AS_OF, made_at=AS_OF)
    return Rows(dataset, pool, east, west, flavor, sites, generation, plan)


def add_pass(shadow: Shadow, n: int, **changes: Any) -> Pass:
    """The n-th pass of a shadow, four minutes after the one before; finished unless it says so."""
    began = AS_OF + 4 * n * MINUTE
    values: dict[str, Any] = {
        "key": f"shadow-{shadow.pk}:sync:{n}",
        "state": Pass.State.DONE,
        "shadow": shadow,
        "source_region": shadow.desktop.region,
        "dest_region": shadow.region,
        "source_volume_id": shadow.desktop.volume_id,
        "dest_volume_id": shadow.volume_id,
        "created_at": began,
        "taken_at": began,
        "finished_at": began + timedelta(seconds=3 + n % 5),
        "to_scan_bytes": 40 * 10**9,
        "scanned_bytes": 10**9,
        "changed_bytes": (20 + 7 * (n % 6)) * 10**6,
        "sent_bytes": (7 + 3 * (n % 6)) * 10**6,
    }
    return Pass.objects.create(**(values | changes))
