"""Agents of 2,000 desktops post every minute while PostgreSQL and Redis are ended and restarted.

The web server, worker and beat are those of production; the agents are as stubborn as the real
one: a batch that was not answered goes again under its id. In between, PostgreSQL is ended three
times and Redis three times, each once as `kill -9`. Afterwards the table is held against what was
accepted, sample by sample:

* soak_lost: accepted samples that are not in the table
* soak_doubled: samples in the table that were not accepted, or are there more than once

Run by `python -m benchmarks.ingest`; `python -m benchmarks.soak --minutes 2` for a short one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.figures import Figures, NotMeasured
from benchmarks.servers import own_servers
from webapp.child import Child
from webapp.embedded import Embedded, free_port

ROOT = Path(__file__).resolve().parent.parent
DESKTOPS = 2000
PERIOD_S = 60.0
SAMPLE_S = 15
RESTARTS = 3
CONNECTIONS = 32
PATIENCE_S = 30.0  # of an agent for one answer
SETTLE_S = 300.0
READY_S = 60.0


def soak(servers: Embedded, *, minutes: float) -> Figures:
    from django.db import connections

    from benchmarks.fleets import make_fleet

    fleet = make_fleet("soak", DESKTOPS)
    with _product(servers) as address:
        agents = [
            _Agent(desktop, token, offset)
            for desktop, token, offset in zip(
                fleet.desktops,
                fleet.tokens,
                np.linspace(0, PERIOD_S, DESKTOPS, endpoint=False).tolist(),
                strict=True,
            )
        ]
        tally = asyncio.run(_run(agents, address, servers, minutes=minutes))
        connections.close_all()  # ours did not survive either
        _settle()
        return _compare(fleet.pool, tally)


@contextmanager
def _product(servers: Embedded) -> Iterator[str]:
    """The web server and a worker with its beat, restarted by nobody: they have to cope."""
    port = free_port()
    log = servers.log_dir
    python = [sys.executable, "-m"]
    children = [
        Child(
            "web",
            [*python, "uvicorn", "webapp.asgi:application", f"--port={port}", "--lifespan=off",
             "--no-access-log"],
            cwd=ROOT,
            log=log / "web.log",
        ),
        Child(
            "worker",
            [*python, "celery", "-A", "webapp", "--quiet", "worker", "--concurrency=1", "--beat",
             f"--schedule={servers.data_dir / 'beat'}", "--queues=default"],
            cwd=ROOT,
            log=log / "worker.log",
        ),
    ]  # fmt: skip
    for child in children:
        child.start()
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address)
        yield address
        for child in children:
            if not child.is_running():
                raise NotMeasured(f"{child.name} ended on the way: {child.log}")
    finally:
        for child in children:
            child.stop()


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{address}/healthz", trust_env=False).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise NotMeasured("the web server does not answer")
        time.sleep(0.2)


@dataclass
class _Tally:
    """accepted : (desktop, second) of every sample in an accepted batch"""

    accepted: Counter[tuple[int, int]] = field(default_factory=Counter)
    batches: int = 0
    repeated: int = 0
    failures: int = 0


@dataclass
class _Agent:
    """One desktop's agent: a minute of samples in each batch."""

    desktop: Any
    token: str
    offset_s: float
    last_s: int = 0

    def batch(self, rng: np.random.Generator) -> tuple[bytes, list[int]]:
        from django.utils import timezone

        from benchmarks.fleets import batch_body

        now = timezone.now()
        newest = int(now.timestamp())
        first = max(self.last_s + 1, newest - int(PERIOD_S) + 1)
        at = list(range(first, newest + 1, SAMPLE_S)) or [max(newest, self.last_s + 1)]
        self.last_s = at[-1]
        return batch_body(self.desktop, at, rng, sent_at=now), at


async def _run(agents: list[_Agent], address: str, servers: Embedded, *, minutes: float) -> _Tally:
    tally = _Tally()
    rng = np.random.default_rng()
    ends_at = time.monotonic() + minutes * 60
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(
        base_url=address, limits=limits, timeout=httpx.Timeout(PATIENCE_S), trust_env=False
    ) as client:
        tasks = [
            asyncio.create_task(_post_every_minute(agent, client, tally, rng, ends_at))
            for agent in agents
        ]
        await asyncio.gather(
            *tasks, _restart(servers, minutes * 60, ends_at), _tell(tally, ends_at)
        )
    return tally


async def _post_every_minute(
    agent: _Agent,
    client: httpx.AsyncClient,
    tally: _Tally,
    rng: np.random.Generator,
    ends_at: float,
) -> None:
    """Until the end; then what is under way is posted until it is accepted."""
    due = time.monotonic() + agent.offset_s
    while due < ends_at:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += PERIOD_S
        body, at = agent.batch(rng)
        await _post(agent, client, body, tally)
        tally.accepted.update((agent.desktop.pk, second) for second in at)


async def _post(agent: _Agent, client: httpx.AsyncClient, body: bytes, tally: _Tally) -> None:
    headers = {
        "Authorization": f"Bearer {agent.token}",
        "Content-Type": "application/json",
        "Content-Encoding": "gzip",
    }
    wait_s = 1.0
    while True:
        try:
            answer = await client.post("/api/v1/agent/batches/", content=body, headers=headers)
        except httpx.HTTPError:
            answer = None
        if answer is not None and answer.status_code in (200, 202):
            tally.batches += 1
            tally.repeated += answer.status_code == 200
            return
        if answer is not None and answer.status_code < 500:
            raise NotMeasured(f"a batch was refused: {answer.status_code} {answer.text[:200]}")
        tally.failures += 1
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s = min(2 * wait_s, 30.0)


async def _restart(servers: Embedded, seconds: float, ends_at: float) -> None:
    """End and start each server three times, spread over the soak; one of each as kill -9."""
    began = ends_at - seconds
    plan = [
        (
            began + seconds * (n + 0.5) / (2 * RESTARTS + 1),
            servers.redis if n % 2 else servers.postgres,
            n,
        )
        for n in range(2 * RESTARTS)
    ]
    for at, child, n in plan:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        how = signal.SIGKILL if n in (2, 3) else signal.SIGINT
        _say(f"{child.name} gets {how.name}")
        await asyncio.to_thread(_end, child, how)
        await asyncio.sleep(3.0)
        child.start()  # from the main thread, as the kernel takes its death for the parent's
        await asyncio.to_thread(servers.wait_until_ready)


def _end(child: Child, how: signal.Signals) -> None:
    child.signal(how)
    if not child.wait(30):
        child.signal(signal.SIGKILL)
        child.wait()
    child.reap()


async def _tell(tally: _Tally, ends_at: float) -> None:
    while (left := ends_at - time.monotonic()) > 0:
        _say(
            f"{left / 60:.0f} min left: {tally.batches:,} batches accepted, {tally.repeated} of"
            f" them again, {tally.failures:,} failed posts"
        )
        await asyncio.sleep(min(60.0, left))


def _settle() -> None:
    """Wait until the worker has brought everything that was accepted into the table."""
    from desktops.models import Batch

    deadline = time.monotonic() + SETTLE_S
    while Batch.objects.filter(settled_at=None).exists():
        if time.monotonic() > deadline:
            raise NotMeasured(f"batches are not settled after {SETTLE_S:.0f} s")
        time.sleep(1)


def _compare(pool: Any, tally: _Tally) -> Figures:
    from django.db import connection

    from desktops.models import Source

    sources = Source.objects.filter(pool=pool).values_list("pk", flat=True)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT desktop_id, extract(epoch FROM at)::bigint FROM desktops_sample"
            " WHERE source_id = ANY(%s)",
            [list(sources)],
        )
        stored = Counter(cursor.fetchall())
    lost = (tally.accepted - stored).total()
    doubled = (stored - tally.accepted).total()
    _say(
        f"{tally.accepted.total():,} samples in {tally.batches:,} batches accepted,"
        f" {tally.repeated} of them again, {tally.failures:,} failed posts; {lost} lost,"
        f" {doubled} doubled"
    )
    return {"soak_lost": lost, "soak_doubled": doubled}


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    with own_servers() as servers:
        print(json.dumps({"figures": soak(servers, minutes=options.minutes)}))


if __name__ == "__main__":
    main()
