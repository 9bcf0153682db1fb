"""From what sources deliver to what the forecaster reads, and nothing lost on the way.

Each figure is taken on a PostgreSQL of its own that is as durable as in production:

* ingest_vs_bulk_create: agents' compressed batches of an hour's work to stored samples: opened,
  checked and taken in durably one by one, in threads as the web server does, while a second process
  settles them as a worker does; from the first delivery until the last sample is stored. Against
  Django's bulk_create of the same rows from values that are parsed already, at the best of several
  batch sizes
* settle_vs_bulk_create: of that, the worker's part alone, with all deliveries there
* import_rows_per_s: samples of one CSV file, end to end
* fleet_read_s, fleet_read_gb: eight weeks of 10,000 people, as the forecaster reads them
* hourly_rollup_s: one more hour of these, a sample a minute
* soak_lost, soak_doubled: see benchmarks/soak.py; --soak 0 leaves these out

What was measured before the soak is also printed before it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figures, Goal, NotMeasured, report
from benchmarks.servers import own_servers

GOALS: dict[str, Goal] = {
    "ingest_vs_bulk_create": (">=", 20),
    "import_rows_per_s": (">=", 50_000),
    "fleet_read_s": ("<", 20),
    "fleet_read_gb": ("<", 3),
    "hourly_rollup_s": ("<", 5),
    "soak_lost": ("==", 0),
    "soak_doubled": ("==", 0),
}
SEED = 20260302
SOAK_MINUTES = 30.0

AGENTS = 500
SAMPLES_PER_BATCH = 240  # an hour, every 15 s
PEER_ROWS = 30_000
PEER_BATCH_SIZES = (500, 2000, 10_000)
REPEATS = 3
THREADS = 8

FILE_DESKTOPS, FILE_SAMPLES = 500, 2000

PEOPLE, WEEKS = 10_000, 8
SAMPLES_PER_HOUR = 60


def run(soak_minutes: float = SOAK_MINUTES) -> Figures:
    with own_servers() as servers:
        figures = _ingest() | _import() | _fleet()
        if soak_minutes:
            from benchmarks import soak

            print(json.dumps({"figures": figures}), flush=True)
            figures |= soak.soak(servers, minutes=soak_minutes)
    return figures


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _timed(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def _ingest() -> Figures:
    from django.utils import timezone

    from benchmarks.fleets import make_fleet
    from desktops.services.batches import settle
    from desktops.services.rollups import roll_up

    fleet = make_fleet("ingest", AGENTS)
    rng = np.random.default_rng(SEED)
    _peer(fleet, rng, rows=2000)  # everything is imported and planned once before it counts
    samples = AGENTS * SAMPLES_PER_BATCH
    whole, settling, peer = [], [], []
    for repeat in range(REPEATS + 1):
        with _worker() as is_settled:
            deliveries = _deliveries(fleet, rng, hours_ago=2 * (REPEATS - repeat) + 2)
            _accept(deliveries[:THREADS])
            _wait_until(is_settled)
            deliveries = deliveries[THREADS:]
            whole_s = _timed(lambda rest=deliveries: (_accept(rest), _wait_until(is_settled)))
        _accept(_deliveries(fleet, rng, hours_ago=2 * (REPEATS - repeat) + 1))
        settle_s = _timed(lambda: settle(clock=timezone.now))
        if not repeat:
            continue  # everything is imported and planned once before it counts
        whole.append((AGENTS - THREADS) * SAMPLES_PER_BATCH / whole_s)
        settling.append(samples / settle_s)
        peer.append(max(_peer(fleet, rng, rows=PEER_ROWS, size=n) for n in PEER_BATCH_SIZES))
        _say(
            f"{whole[-1]:,.0f} samples/s taken in and settled, {settling[-1]:,.0f} settled;"
            f" bulk_create {peer[-1]:,.0f} rows/s"
        )
    roll_up(until=timezone.now())
    return {
        "ingest_vs_bulk_create": float(np.median(np.array(whole) / np.array(peer))),
        "settle_vs_bulk_create": float(np.median(np.array(settling) / np.array(peer))),
    }


@contextmanager
def _worker() -> Iterator[Callable[[], bool]]:
    """A process that settles whatever comes; yields whether everything is."""
    from desktops.models import Batch

    command = [sys.executable, "-m", "benchmarks.settling"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        try:
            yield lambda: not Batch.objects.filter(settled_at=None).exists()
        finally:
            worker.terminate()


def _wait_until(is_true: Callable[[], bool]) -> None:
    while not is_true():
        time.sleep(0.005)


def _deliveries(fleet, rng: np.random.Generator, *, hours_ago: int) -> list[Any]:  # type: ignore[no-untyped-def]
    from benchmarks.fleets import batch_body

    now = datetime.now(UTC)
    first = int((now - timedelta(hours=hours_ago)).timestamp())
    at = list(range(first, first + 3600, 3600 // SAMPLES_PER_BATCH))
    bodies = (batch_body(desktop, at, rng, sent_at=now) for desktop in fleet.desktops)
    return list(zip(fleet.agents, bodies, strict=True))


def _accept(deliveries: Sequence[Any]) -> None:
    """deliveries : agents, and what they send"""
    from django.db import connection
    from django.utils import timezone

    from desktops.services.batches import accept

    def deliver(pairs: Sequence[Any]) -> None:
        for agent, body in pairs:
            accept(credential=agent, body=body, content_encoding="gzip", wall=timezone.now())
        connection.close()

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(deliver, deliveries[n::THREADS]) for n in range(THREADS)]:
            done.result()


def _peer(fleet, rng: np.random.Generator, *, rows: int, size: int = 2000) -> float:  # type: ignore[no-untyped-def]
    """Rows per second of the ordinary way, into the same table."""
    from desktops.models import Sample, Source

    source = Source.objects.first() or Source.objects.create(
        name="agent-ingest", kind="agent", dataset=fleet.dataset, pool=fleet.pool
    )
    at = datetime.now(UTC).replace(microsecond=0)
    _need_partition(fleet, source, at)
    values = [
        {
            "desktop_user_id": desktop.desktop_user_id,
            "desktop_id": desktop.pk,
            "at": at,
            "source_id": source.pk,
            "active_ratio": 1.0,
            "cpu_cores": float(rng.random()),
            "memory_bytes": 4e9,
            "network_bytes_per_s": 1e5,
            "storage_bytes_per_s": 1e5,
        }
        for desktop in (fleet.desktops * (rows // AGENTS + 1))[:rows]
    ]
    seconds = _timed(
        lambda: Sample.objects.bulk_create((Sample(**row) for row in values), batch_size=size)
    )
    Sample.objects.filter(at=at).delete()
    return rows / seconds


def _need_partition(fleet, source, at: datetime) -> None:  # type: ignore[no-untyped-def]
    """One sample through the product makes the day's partition."""
    from desktops.models import Sample
    from desktops.services.ingest import store
    from desktops.sources.samples import Labels, Samples

    if Sample.objects.filter(at__date=at.date()).exists():
        return
    one = Samples(
        np.zeros(1, dtype=np.int64),
        np.array([int(at.timestamp()) - 1]),
        Labels.none(1),
        Labels.constant(fleet.desktops[0].key, 1),
        Labels.none(1),
        {"cpu_cores": np.ones(1)},
    )
    store(source=source, samples=one, wall=datetime.now(UTC))


def _import() -> Figures:
    from django.utils import timezone

    from desktops.services.imports import import_file
    from desktops.sources.options import ReadOptions

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "activity.csv"
        _write_csv(path)
        rows = FILE_DESKTOPS * FILE_SAMPLES
        seconds = _timed(
            lambda: import_file(
                path=path,
                format_name="csv",
                dataset_name="import",
                pool_name="import",
                options=ReadOptions(),
                tolerance=0.0,
                wall=timezone.now(),
            )
        )
    _say(f"{rows:,} rows of CSV in {seconds:.1f} s")
    return {"import_rows_per_s": rows / seconds}


def _write_csv(path: Path) -> None:
    rng = np.random.default_rng(SEED)
    with path.open("w") as file:
        file.write("time,person,desktop,cpu_cores,memory_bytes,network_bytes_per_s,active_ratio\n")
        for n in range(FILE_DESKTOPS):
            cpu = rng.gamma(2, 0.4, FILE_SAMPLES)
            memory = rng.integers(1 << 30, 8 << 30, FILE_SAMPLES)
            network = rng.gamma(1, 4e4, FILE_SAMPLES)
            file.writelines(
                f"2026-03-0{2 + i // 288}T{i // 12 % 24:02}:{i % 12 * 5:02}:00Z,"
                f"person{n}@example.org,desktop-{n},{cpu[i]:.3f},{memory[i]},{network[i]:.1f},1\n"
                for i in range(FILE_SAMPLES)
            )


def _fleet() -> Figures:
    from django.db import connection
    from django.utils import timezone

    from benchmarks.fleets import make_fleet, without_constraints

    fleet = make_fleet("fleet", PEOPLE)
    _say(f"writing {WEEKS} weeks of {PEOPLE:,} people ...")
    this_hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    with connection.cursor() as cursor, without_constraints(cursor, "desktops_activity"):
        # Hour after hour, as roll-ups write them.
        cursor.execute(
            "INSERT INTO desktops_activity (dataset_id, desktop_user_id, desktop_id, hour,"
            " active_ratio, cpu_cores, memory_bytes, network_bytes_per_s, storage_bytes_per_s)"
            " SELECT d.dataset_id, d.desktop_user_id, d.id, hour, 1, random(), 4e9, 1e5, 1e5"
            " FROM generate_series(%s, %s, interval '1 hour') hour, desktops_desktop d"
            " WHERE d.dataset_id = %s",
            [
                this_hour - timedelta(weeks=WEEKS),
                this_hour - timedelta(hours=2),
                fleet.dataset.pk,
            ],
        )
    figures = _roll_up(fleet, this_hour - timedelta(hours=1))
    return figures | _read(fleet.dataset.name)


def _roll_up(fleet, hour: datetime) -> Figures:  # type: ignore[no-untyped-def]
    from django.utils import timezone

    from desktops.models import Activity, Source
    from desktops.services.ingest import ensure_source, store
    from desktops.services.rollups import roll_up
    from desktops.sources.samples import MEASURES, Labels, Samples

    source = ensure_source(pool=fleet.pool, kind=Source.Kind.AGENT)
    rng = np.random.default_rng(SEED)
    keys = tuple(desktop.key for desktop in fleet.desktops)
    step_s = 3600 // SAMPLES_PER_HOUR
    # As they arrive: a minute of the whole fleet after the other.
    for n in range(SAMPLES_PER_HOUR):
        samples = Samples(
            np.arange(PEOPLE),
            np.full(PEOPLE, int(hour.timestamp()) + n * step_s),
            Labels.none(PEOPLE),
            Labels(keys, np.arange(PEOPLE)),
            Labels.none(PEOPLE),
            {name: rng.random(PEOPLE) for name in MEASURES},
        )
        store(source=source, samples=samples, wall=timezone.now())
    seconds = _timed(lambda: roll_up(until=timezone.now()))
    made = Activity.objects.filter(dataset=fleet.dataset, hour=hour).count()
    if made != PEOPLE:
        raise NotMeasured(f"{made:,} hours were rolled up, not {PEOPLE:,}")
    _say(f"{PEOPLE * SAMPLES_PER_HOUR:,} samples rolled up in {seconds:.1f} s")
    return {"hourly_rollup_s": seconds}


def _read(dataset: str) -> Figures:
    command = [sys.executable, "-m", "benchmarks.fleet_read", dataset]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    read = json.loads(done.stdout)
    expected = PEOPLE * (WEEKS * 7 * 24 - 1) * 4
    if read["observed"] < expected:
        raise NotMeasured(f"{read['observed']:,} of {expected:,} values were read")
    _say(f"{read['shape']} in {read['seconds']:.1f} s, {read['resident_gb']:.2f} GB resident")
    return {"fleet_read_s": read["seconds"], "fleet_read_gb": read["resident_gb"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--soak", type=float, default=SOAK_MINUTES, metavar="MINUTES", help="default: 30"
    )
    options = parser.parse_args()
    figures = run(options.soak)
    print(report(figures, GOALS))
    if options.json:
        print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
