"""The simulated cloud's desktops through the engine: a relay's process carries real bytes between
files that simulated users change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from django.utils import timezone

from desktops.clouds.simulator.journal import doubles
from migration.core.machine import State
from migration.models import Pass, Shadow
from migration.services.decisions import approve_recommendation
from migration.services.keeping_shadows import keep_shadows
from tests.support.driving import drive_to
from tests.support.fleet import make_fleet
from tests.support.relays import relay
from tests.support.simulator import SimulatorProcess

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]
BUSY = {"dirty_bytes_per_s": 1_000_000, "dirty_saturation_bytes": 2 * 10**9}


def keep_until(is_so: Callable[[], object], *, timeout_s: float = 60) -> None:
    deadline = monotonic() + timeout_s
    while not is_so():
        assert monotonic() < deadline, list(Pass.objects.values())
        keep_shadows(now=timezone.now())
        sleep(0.1)


def test_a_move_there_and_back_loses_nothing_and_sends_real_bytes(
    simulated: SimulatorProcess, tmp_path: Path, settings: Any
) -> None:
    settings.RELAYED_CLOUDS = frozenset({"simulated"})
    fleet = make_fleet(simulated)
    desktop = fleet.desktop(simulated, **BUSY)
    env = {"SIMULATOR_URL": simulated.url, "SIMULATOR_TOKEN": simulated.options["token"]}
    with relay(fleet.east, fleet.west, folder=tmp_path, env=env) as carrier:
        out = drive_to(
            approve_recommendation(
                recommendation_id=fleet.recommendation(desktop, keeps_source_as_shadow=True).pk,
                actor=fleet.alice,
                at=timezone.now(),
                confirm_now=True,
            ),
            timeout_s=90,
        )
        assert out.state == State.DONE, (out.failure, carrier.log.read_text())
        assert_nothing_lost(simulated, out.source_volume_id, out.dest_volume_id)
        shadow = Shadow.objects.get(desktop=desktop, region=fleet.east)
        Shadow.objects.update(sync_asked_at=timezone.now())
        keep_until(lambda: shadow.passes.filter(state=Pass.State.DONE, transition=None).exists())
    seed, final = Pass.objects.filter(transition=out).order_by("created_at")
    back = shadow.passes.get(transition=None)
    assert 5_000_000 < seed.sent_bytes < 20 * 10**9 / 1000
    assert final.is_final and final.sent_bytes < seed.sent_bytes / 4
    assert 0 < back.sent_bytes < seed.sent_bytes / 4, "only what changed over there"
    kept = simulated.admin.content("east", shadow.volume_id)
    now = simulated.admin.content("west", out.dest_volume_id)
    assert kept.ancestors == now.ancestors, "the same work, up to an earlier moment"
    assert not doubles(simulated.admin.log(desktop_key=desktop.key))


def assert_nothing_lost(simulated: SimulatorProcess, source_id: str, dest_id: str) -> None:
    """What the destination runs on began as what the source was stopped with."""
    left = simulated.admin.content("east", source_id)
    assert simulated.admin.content("west", dest_id).descends_from(left.version)
