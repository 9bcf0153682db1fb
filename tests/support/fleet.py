"""Rows for tests: one pool on the simulated cloud's two regions, with its people and desktops."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group
from django.utils import timezone

from desktops.models import Dataset, Desktop, DesktopUser, Flavor, FlavorPrice, Pool, Region
from forecasting.models import Generation
from migration.models import Plan, Recommendation
from tests.support.simulator import GB, SimulatorProcess, two_regions
from tests.support.simulator import desktop as described
from webapp.models import User

AS_OF = datetime(2026, 3, 2, 8, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Fleet:
    """east, west : the regions; alice approves, vera only views; both are members of the pool"""

    dataset: Dataset
    pool: Pool
    east: Region
    west: Region
    flavor: Flavor
    alice: User
    vera: User

    def desktop(self, simulated: SimulatorProcess, key: str = "ana", **changes: Any) -> Desktop:
        """A desktop in east that exists in the simulated cloud too."""
        placed = simulated.admin.adopt([described(key, **changes)])[0]
        person = DesktopUser.objects.create(dataset=self.dataset, pool=self.pool, pseudonym=key)
        return Desktop.objects.create(
            dataset=self.dataset,
            pool=self.pool,
            key=key,
            label=key,
            desktop_user=person,
            region=self.east,
            flavor=self.flavor,
            server_id=placed.server_id,
            volume_id=placed.volume_id,
            volume_bytes=40 * GB,
            state=Desktop.State.RUNNING,
        )

    def plan(self) -> Plan:
        """The current plan, made when there is none."""
        current = Plan.objects.filter(dataset=self.dataset, superseded_at__isnull=True).first()
        if current:
            return current
        generation = Generation.objects.create(
            dataset=self.dataset,
            as_of=AS_OF,
            engine="test",
            state=Generation.State.COMPLETE,
            started_at=timezone.now(),
        )
        return Plan.objects.create(
            dataset=self.dataset, generation=generation, as_of=AS_OF, made_at=timezone.now()
        )

    def recommendation(self, desktop: Desktop, **changes: Any) -> Recommendation:
        """Move it to west, awaiting approval."""
        values: dict[str, Any] = {
            "plan": self.plan(),
            "pool": self.pool,
            "desktop": desktop,
            "action": Recommendation.Action.PREPARE,
            "state": Recommendation.State.AWAITING_APPROVAL,
            "strategy": "stop",
            "shadow_tier": "warm",
            "source_region": self.east,
            "dest_region": self.west,
            "currency": "USD",
            "stay_cost_micros": 14_200_000,
            "action_cost_micros": 3_100_000,
            "gain_micros": 11_100_000,
            "items": [{"name": "latency", "micros": 3_100_000, "note": "left over"}],
            "confidence": 0.83,
            "reason": "Expected in the west from 09:00.",
            "expires_at": AS_OF + timedelta(hours=12),
        }
        return Recommendation.objects.create(**(values | changes))


def make_fleet(simulated: SimulatorProcess, **pool: Any) -> Fleet:
    """Load the two-region world and write the rows that describe it."""
    simulated.admin.load_world(two_regions())
    dataset = Dataset.objects.create(
        name="test", label="Test fleet", kind=Dataset.Kind.SIMULATED, as_of=AS_OF
    )
    east, west = (
        Region.objects.create(cloud="simulated", name=name, label=name.title())
        for name in ("east", "west")
    )
    flavor = Flavor.objects.create(
        cloud="simulated", name="desktop.small", vcpus=2, memory_bytes=8 * GB
    )
    for region in (east, west):
        FlavorPrice.objects.create(flavor=flavor, region=region, price_per_hour="0.1")
    made = Pool.objects.create(
        dataset=dataset,
        name="office",
        label="Office",
        **{"gateway": "simulator", "commit_window_s": 0} | pool,
    )
    alice, vera = (
        _member(name, group, made) for name, group in (("alice", "approver"), ("vera", "viewer"))
    )
    return Fleet(dataset, made, east, west, flavor, alice, vera)


def _member(name: str, group: str, pool: Pool) -> User:
    user = User.objects.create_user(name, password=f"{name}-password")
    user.groups.add(Group.objects.get(name=group))
    pool.members.add(user)
    return user
