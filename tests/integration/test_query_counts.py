"""A list asks the database as often for many rows as for few."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from desktops.models import (
    AgentCredential,
    Desktop,
    Drift,
    InventorySync,
    Pool,
    QuarantinedRow,
    Region,
    RegionState,
    Source,
)
from forecasting.models import BacktestExample, BacktestRun, BacktestScore
from tests.support.rows import AS_OF, Rows, make_rows

# Address → queries, reviewed like code: of each, four are the session, the account and its role.
BASELINE = {
    "/": 19,
    "/people/": 9,
    "/desktops/": 9,
    "/plan/": 11,
    "/transitions/": 9,
    "/shadows/": 9,
    "/accuracy/": 8,
    "/whereabouts/": 9,
    "/sources/": 10,
    "/sources/quarantine/": 9,
    "/api/v1/datasets/": 6,
    "/api/v1/desktops/": 6,
    "/api/v1/drifts/": 6,
    "/api/v1/events/": 5,
    "/api/v1/generations/": 6,
    "/api/v1/people/": 6,
    "/api/v1/plans/": 6,
    "/api/v1/pools/": 7,
    "/api/v1/profiles/": 6,
    "/api/v1/quarantine/": 6,
    "/api/v1/recommendations/": 6,
    "/api/v1/regions/": 7,
    "/api/v1/shadows/": 6,
    "/api/v1/sites/": 6,
    "/api/v1/sources/": 6,
    "/api/v1/transitions/": 6,
}


@pytest.mark.django_db
def test_the_number_of_queries_does_not_follow_the_number_of_rows() -> None:
    rows, client = make_rows(), Client()
    client.force_login(rows.account("vera", "viewer"))
    for n in (10, 60):
        for desktop in rows.add_people(n):
            rows.add_transition(desktop)
            add_inflow(rows, desktop)
            add_backtest(rows, desktop)
        assert {address: queries(client, address) for address in BASELINE} == BASELINE, f"{n} rows"


def add_inflow(rows: Rows, desktop: Desktop) -> None:
    """A source with a row in quarantine, a drift, a silent agent and a quota, for each desktop."""
    pool, key = rows.pool, desktop.key
    Pool.objects.filter(pk=pool.pk).update(cloud="simulated")
    source = Source.objects.create(
        name=key, kind=Source.Kind.PROMETHEUS, dataset=rows.dataset, pool=pool
    )
    QuarantinedRow.objects.create(
        source=source,
        desktop=desktop,
        desktop_user=desktop.desktop_user,
        received_at=AS_OF,
        reason="negative",
        detail="cpu_cores -1 is negative",
        row={"at": int(AS_OF.timestamp()), "desktop": key, "cpu_cores": -1},
    )
    sync, _ = InventorySync.objects.get_or_create(
        pool=pool, defaults={"cloud": "simulated", "attempted_at": AS_OF}
    )
    Drift.objects.create(
        sync=sync, kind="vanished", region="east", server_id=key, name=key, first_seen_at=AS_OF
    )
    AgentCredential.objects.create(desktop=desktop, digest=key, enrolled_at=AS_OF)
    region = Region.objects.create(cloud="simulated", name=key, label=key)
    used = {f"{name}_used": 1 for name in ("servers", "vcpus", "memory_bytes", "volume_bytes")}
    RegionState.objects.create(region=region, observed_at=AS_OF, **used)


def add_backtest(rows: Rows, desktop: Desktop) -> None:
    """One run for all, with an example and an engine for each desktop."""
    run, _ = BacktestRun.objects.get_or_create(
        dataset=rows.dataset,
        as_of=AS_OF,
        started_at=AS_OF,
        finished_at=AS_OF,
        origins=[AS_OF],
        horizon_hours=24,
        history_days=42,
        subjects=2,
    )
    BacktestScore.objects.create(run=run, engine=desktop.key, version="1", wql=0.8)
    BacktestExample.objects.create(
        run=run,
        pool=rows.pool,
        desktop_user=desktop.desktop_user,
        desktop=desktop,
        starts_at=AS_OF,
        levels=[0.5],
        quantiles={"cpu_cores": [[1.0]] * 24},
    )


def queries(client: Client, address: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(address).status_code == 200
    return len(asked)
