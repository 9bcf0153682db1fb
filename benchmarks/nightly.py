"""A fleet's nightly forecast and its hourly refresh, database to database.

10,000 people, 4 resources, 8 weeks of every hour in three time zones, on a PostgreSQL of the
benchmark's own, which is as durable as in production, forecast by two processes like those of a
bulk worker:

* nightly_minutes: from the start to the moment at which the profiles are shown
* nightly_gb: the most memory that was resident in the two processes, added up
* hourly_refresh_s: the same six hours later, with three nights' forecasts to learn from
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.figures import Figures, Goal, report
from benchmarks.servers import own_servers

GOALS: dict[str, Goal] = {
    "nightly_minutes": ("<", 10),
    "nightly_gb": ("<", 4),
    "hourly_refresh_s": ("<", 60),
}
PEOPLE, WEEKS = 10_000, 8
PROCESSES = 2
NIGHT = datetime(2026, 3, 3, 2, tzinfo=UTC)
REFRESHED = NIGHT + timedelta(hours=6, minutes=5)
ZONES = ("Europe/Paris", "America/New_York", "Asia/Tokyo")
SITES = 12

# Desktops that run day and night and are worked at by day, mostly from home: demand is
# log-normal about a level of the person, and an hour is like the one before.
WRITE = """
WITH clock AS MATERIALIZED (
    SELECT hour, zone, extract(hour FROM hour AT TIME ZONE zone)::int AS of_day,
        extract(isodow FROM hour AT TIME ZONE zone) < 6 AS is_weekday
    FROM generate_series(%s, %s, interval '1 hour') hour, unnest(%s::text[]) zone
)
INSERT INTO desktops_activity (dataset_id, desktop_user_id, desktop_id, hour, active_ratio,
    cpu_cores, memory_bytes, network_bytes_per_s, storage_bytes_per_s, site_id)
SELECT dataset_id, desktop_user_id, id, hour, is_at_work::int,
    level * (0.05 + is_at_work::int * exp(0.5 * chance)),
    2e9 + 4e9 * level * is_at_work::int * (1 + 0.1 * chance),
    1e4 + 2e5 * is_at_work::int * exp(chance),
    CASE WHEN is_at_work OR chance > 0.5 THEN 1e5 * exp(chance) ELSE 0 END,
    CASE WHEN is_at_work THEN
        CASE WHEN chance < 1.3 THEN home_site_id ELSE first_site + id %% 12 END
    END
FROM (
    SELECT d.dataset_id, d.desktop_user_id, d.id, hour, p.home_site_id, s.first_site,
        0.2 + (d.id %% 97) / 60.0 AS level, random_normal() AS chance,
        is_weekday AND of_day BETWEEN 7 + d.id %% 3 AND 16 AND random() < 0.93 AS is_at_work
    FROM clock
    JOIN desktops_desktopuser p ON p.time_zone = clock.zone
    JOIN desktops_desktop d ON p.id = d.desktop_user_id,
        (SELECT min(id) AS first_site FROM desktops_site) s
    WHERE d.dataset_id = %s
) each
"""


def run(people: int = PEOPLE) -> Figures:
    with own_servers():
        dataset = _make_fleet(people)
        minutes, resident_gb = _nightly(dataset)
        _add_earlier_nights(dataset)
        return {
            "nightly_minutes": minutes,
            "nightly_gb": resident_gb,
            "hourly_refresh_s": _refresh(dataset),
        }


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _make_fleet(people: int) -> Any:
    from django.db import connection

    from benchmarks.fleets import make_fleet, without_constraints
    from desktops.models import DesktopUser, Site

    _say(f"writing {WEEKS} weeks of {people:,} people ...")
    fleet = make_fleet("fleet", people)
    sites = Site.objects.bulk_create(
        Site(code=f"site-{i}", label=f"Site {i}", latitude=i, longitude=i, time_zone="UTC")
        for i in range(SITES)
    )
    for number, zone in enumerate(ZONES):
        theirs = DesktopUser.objects.extra(where=["id %% %s = %s"], params=[len(ZONES), number])
        theirs.update(time_zone=zone, home_site=sites[number])
    with connection.cursor() as cursor, without_constraints(cursor, "desktops_activity"):
        cursor.execute(
            WRITE,
            [
                NIGHT - timedelta(weeks=WEEKS),
                REFRESHED - timedelta(hours=1),
                list(ZONES),
                fleet.dataset.pk,
            ],
        )
    return fleet.dataset


def _nightly(dataset: Any) -> tuple[float, float]:
    from forecasting.services.forecasts import begin_forecast

    started = time.perf_counter()
    generation = begin_forecast(dataset_id=dataset.pk, clock=lambda: NIGHT)
    resident_gb = _work(generation, NIGHT)
    seconds = time.perf_counter() - started
    _say(f"nightly: {seconds:.0f} s, {resident_gb:.2f} GB")
    return seconds / 60, resident_gb


def _refresh(dataset: Any) -> float:
    from forecasting.services.refreshing import begin_refresh

    started = time.perf_counter()
    generation = begin_refresh(dataset=dataset, clock=lambda: REFRESHED)
    resident_gb = _work(generation, REFRESHED)
    seconds = time.perf_counter() - started
    _say(f"refresh: {seconds:.1f} s, {resident_gb:.2f} GB")
    return seconds


def _work(generation: Any, now: datetime) -> float:
    """Have it done by processes of their own; returns the memory they took, added up."""
    command = [sys.executable, "-m", "benchmarks.chunk_work", str(generation.pk), now.isoformat()]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    told = [worker.communicate()[0] for worker in workers]
    for worker in workers:
        if worker.returncode:
            raise RuntimeError(f"a worker ended with exit status {worker.returncode}")
    return sum(float(json.loads(line)["resident_gb"]) for line in told)


def _add_earlier_nights(dataset: Any) -> None:
    """As if the two nights before had said the same."""
    from django.db import connection

    from forecasting.models import Generation, ResourceDemandProfile

    columns = ", ".join(
        field.column
        for field in ResourceDemandProfile._meta.concrete_fields
        if field.name not in ("id", "generation", "starts_at")
    )
    newest = Generation.objects.get(dataset=dataset)
    for nights in (1, 2):
        earlier = Generation.objects.create(
            dataset=dataset,
            engine=newest.engine,
            state=Generation.State.COMPLETE,
            as_of=NIGHT - timedelta(days=nights),
            started_at=NIGHT - timedelta(days=nights),
        )
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {ResourceDemandProfile._meta.db_table}"
                f" (generation_id, starts_at, {columns})"
                f" SELECT %s, %s, {columns} FROM {ResourceDemandProfile._meta.db_table}"
                " WHERE generation_id = %s",
                [earlier.pk, earlier.as_of, newest.pk],
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--people", type=int, default=PEOPLE, metavar="N", help="default: 10000")
    options = parser.parse_args()
    figures = run(options.people)
    print(report(figures, GOALS))
    if options.json:
        print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
