"""Numbers of a real Gnocchi, in the shape in which Ceilometer leaves them there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from desktops.models import Dataset, Desktop, Pool, Sample
from desktops.services.pulling import configured_sources, pull_source
from tests.support.gnocchi import STEP_S, Gnocchi, gnocchi

SERVERS = [f"11111111-1111-4111-8111-{n:012}" for n in range(5)]
POLLS = 6
WHEN_IN_STEP_S = 7


@pytest.fixture(scope="module")
def metered(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gnocchi, int]]:
    """Five servers polled six times, beginning an hour ago; returns the first second."""
    with django_db_blocker.unblock(), gnocchi(tmp_path_factory.mktemp("gnocchi")) as server:
        first_s = int(time.time()) // STEP_S * STEP_S - 3600
        for n, server_id in enumerate(SERVERS):
            half_a_core_more = 0.5 * (n + 1) * STEP_S * 1e9
            server.add(
                "instance",
                server_id,
                {
                    "cpu": _polls(first_s, lambda k, per=half_a_core_more: k * per),
                    "memory.usage": _polls(first_s, lambda k: 1024.0 + k),
                },
            )
            for card in range(2):
                server.add(
                    "instance_network_interface",
                    f"{server_id}-tap{card}",
                    {
                        "network.incoming.bytes": _polls(first_s, lambda k: 3000.0 * k),
                        "network.outgoing.bytes": _polls(first_s, lambda k: 300.0 * k),
                    },
                    instance_id=server_id,
                )
            # Its counter begins anew at the fourth poll.
            server.add(
                "instance_disk",
                f"{server_id}-vda",
                {
                    "disk.device.read.bytes": _polls(first_s, lambda k: 600.0 * (k % 3)),
                    "disk.device.write.bytes": _polls(first_s, lambda k: 600.0 * (k % 3)),
                },
                instance_id=server_id,
            )
        server.wait_until_processed()
        yield server, first_s


def _polls(first_s: int, value: Callable[[int], float]) -> list[tuple[float, float]]:
    return [(first_s + k * STEP_S + WHEN_IN_STEP_S, value(k)) for k in range(POLLS)]


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["basic", "cloud"])
def test_what_ceilometer_left_is_stored_per_desktop(
    metered: tuple[Gnocchi, int],
    way: str,
    tmp_path: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, first_s = metered
    Sample.objects.all().delete()  # what tests that commit may have left
    dataset = Dataset.objects.create(name="office", label="Office", kind=Dataset.Kind.LIVE)
    pool = Pool.objects.create(dataset=dataset, name="office", label="Office")
    desktops = {
        Desktop.objects.create(
            dataset=dataset, pool=pool, key=f"desk-{n}", label=f"desk-{n}", server_id=server_id
        ).pk: n
        for n, server_id in enumerate(SERVERS[:4])  # the fifth server is somebody else's
    }
    access = {
        "basic": f'url = "{server.url}"\nuser = "admin"',
        "cloud": 'cloud = "metered"',
    }
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text(
        "clouds:\n  metered:\n    auth_type: http_basic\n    region_name: here\n    auth:\n"
        f"      endpoint: {server.url}\n      username: admin\n      password: any\n"
        f"    metric_endpoint_override: {server.url}\n"
    )
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
    path = tmp_path / "sources.toml"
    path.write_text(
        f'[meters]\nkind = "gnocchi"\npool = "office"\nfirst_days = 1\npage = 2\n{access[way]}\n'
    )
    path.chmod(0o600)
    settings.SOURCES_FILE = path

    report = pull_source(entry=configured_sources()["meters"], clock=lambda: datetime.now(UTC))
    assert report.error == "" and report.rejected_rows == 0
    assert (report.rows, report.strangers) == (4 * POLLS, 1)
    for pk, n in desktops.items():
        rows = list(Sample.objects.filter(desktop_id=pk).order_by("at"))
        assert [row.at.timestamp() for row in rows] == [first_s + k * STEP_S for k in range(POLLS)]
        columns = {
            name: np.array([getattr(row, name) for row in rows])
            for name in (
                "cpu_cores",
                "memory_bytes",
                "network_bytes_per_s",
                "storage_bytes_per_s",
            )
        }
        # A rate needs the poll before it.
        assert np.isnan(columns["cpu_cores"][0])
        assert columns["cpu_cores"][1:] == pytest.approx(0.5 * (n + 1))
        assert columns["memory_bytes"] == pytest.approx([(1024 + k) * 2**20 for k in range(POLLS)])
        assert columns["network_bytes_per_s"][1:] == pytest.approx(2 * (3000 + 300) / STEP_S)
        assert columns["storage_bytes_per_s"] == pytest.approx(
            [np.nan, 4, 4, np.nan, 4, 4], nan_ok=True
        )
