"""Fleets of invented people for benchmarks, written straight into the tables."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from django.utils import timezone

from desktops.models import AgentCredential, Dataset, Desktop, DesktopUser, Pool
from desktops.tokens import new_token


@dataclass(frozen=True, slots=True)
class Fleet:
    """n people, each with a desktop whose agent is enrolled; tokens : what these show"""

    dataset: Dataset
    pool: Pool
    desktops: list[Desktop]
    agents: list[AgentCredential]
    tokens: list[str]


def make_fleet(name: str, n: int) -> Fleet:
    dataset = Dataset.objects.create(name=name, label=name, kind=Dataset.Kind.LIVE)
    pool = Pool.objects.create(dataset=dataset, name=name, label=name)
    people = DesktopUser.objects.bulk_create(
        DesktopUser(dataset=dataset, pool=pool, pseudonym=f"{name}-person-{i}") for i in range(n)
    )
    desktops = Desktop.objects.bulk_create(
        Desktop(
            dataset=dataset,
            pool=pool,
            key=f"{name}-{i}",
            label=f"{name}-{i}",
            desktop_user=person,
            server_id=str(uuid.uuid4()),
            state=Desktop.State.RUNNING,
        )
        for i, person in enumerate(people)
    )
    tokens = [new_token("fda") for _ in desktops]
    agents = AgentCredential.objects.bulk_create(
        AgentCredential(
            desktop=desktop,
            digest=digest,
            enrolled_server_id=desktop.server_id,
            enrolled_at=timezone.now(),
        )
        for desktop, (_, digest) in zip(desktops, tokens, strict=True)
    )
    return Fleet(dataset, pool, desktops, agents, [token for token, _ in tokens])


def batch_body(
    desktop: Desktop, at: Sequence[int], rng: np.random.Generator, *, sent_at: datetime
) -> bytes:
    """A delivery as the agent makes it, compressed."""
    n = len(at)
    batch = {
        "batch_id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
        "server_id": desktop.server_id,
        "agent": "1.0",
        "sent_at": int(sent_at.timestamp()),
        "samples": {
            "at": list(at),
            "cpu_cores": rng.gamma(2, 0.4, n).round(3).tolist(),
            "memory_bytes": rng.integers(1 << 30, 8 << 30, n).tolist(),
            "network_bytes_per_s": rng.gamma(1, 4e4, n).round(1).tolist(),
            "storage_bytes_per_s": rng.gamma(1, 9e4, n).round(1).tolist(),
            "active_ratio": rng.integers(0, 2, n).tolist(),
        },
    }
    return gzip.compress(json.dumps(batch).encode(), 6)


@contextmanager
def without_constraints(cursor: Any, table: str) -> Iterator[None]:
    """Filling millions of rows goes faster when keys are made afterwards, at once."""
    cursor.execute(
        "SELECT conname, pg_get_constraintdef(oid), contype = 'f' FROM pg_constraint"
        " WHERE conrelid = %s::regclass AND contype IN ('f', 'u')",
        [table],
    )
    constraints = cursor.fetchall()
    for name, _, _ in constraints:
        cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    yield
    for name, definition, is_reference in constraints:
        checked = "NOT VALID" if is_reference else ""
        cursor.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition} {checked}')
    cursor.execute(f"VACUUM ANALYZE {table}")
