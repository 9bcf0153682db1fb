"""Live migration inside a region, followed by its migration record.

A server is ACTIVE on its new host before Nova's record of the migration says `completed`, so
the record decides. Nova lets no caller name a migration: the server's metadata remembers for
which key one was asked, and the newest record there was before; the next newer one is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from desktops.clouds.openstack.api import RegionApi
from desktops.core.cloud import CloudError, Job, JobState

Json = dict[str, Any]

FOR_KEY, AFTER = "foredesk:live-key", "foredesk:live-after"  # in the server's metadata

_FAILED = {"error", "failed", "cancelled"}


class Move(StrEnum):
    START = "start"
    WAIT = "wait"
    DONE = "done"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a migration is judged by.

    asked_for : the key in the server's metadata, "" when none
    after : the newest migration record when it was asked for
    records : id → status of the server's live migrations
    """

    asked_for: str
    after: int
    status: str
    task: str
    records: dict[int, str]


def judge(seen: Seen, *, key: str) -> tuple[Move, int | None]:
    """What to do about the migration with this key, and its record. Pure and total."""
    if seen.asked_for != key:
        return Move.START, None
    record = min((one for one in seen.records if one > seen.after), default=None)
    if record is None:
        # Accepted, and not yet recorded; or the request never arrived.
        return (Move.WAIT if seen.task == "migrating" else Move.START), None
    status = seen.records[record]
    if status in _FAILED or seen.status == "ERROR":
        return Move.FAIL, record
    if status == "completed" and seen.status == "ACTIVE" and not seen.task:
        return Move.DONE, record
    return Move.WAIT, record


def migrate(api: RegionApi, admin: RegionApi, server_id: str, *, key: str) -> Job:
    """Start or observe the migration with this key.

    admin : the same region with credentials that may migrate and read the records
    """
    server = api.get("compute", f"/servers/{server_id}")["server"]
    records = _records(admin, server_id)
    move, record = judge(_seen(server, records), key=key)
    match move:
        case Move.START:
            _start(api, admin, server_id, key=key, after=max(records, default=0))
            return Job(key, JobState.RUNNING, "asked for")
        case Move.DONE:
            return Job(key, JobState.DONE, _describe(records, record))
        case Move.FAIL:
            why = (server.get("fault") or {}).get("message") or _last_event(admin, server_id)
            return Job(key, JobState.FAILED, _describe(records, record, why=why))
    return Job(key, JobState.RUNNING, _describe(records, record))


def _seen(server: Json, records: dict[int, Json]) -> Seen:
    metadata = server.get("metadata") or {}
    return Seen(
        asked_for=metadata.get(FOR_KEY, ""),
        after=int(metadata.get(AFTER, 0)),
        status=server["status"],
        task=server.get("OS-EXT-STS:task_state") or "",
        records={number: record["status"] for number, record in records.items()},
    )


def _records(admin: RegionApi, server_id: str) -> dict[int, Json]:
    # Paged by uuid, not id: a server with a thousand migrations can do without the rest.
    params = {"instance_uuid": server_id, "migration_type": "live-migration"}
    found: Sequence[Json] = admin.get("compute", "/os-migrations", **params)["migrations"]
    return {record["id"]: record for record in found}


def _start(api: RegionApi, admin: RegionApi, server_id: str, *, key: str, after: int) -> None:
    path = f"/servers/{server_id}"
    mark = {FOR_KEY: key, AFTER: str(after)}
    api.post("compute", f"{path}/metadata", {"metadata": mark})
    admin.post(
        "compute", f"{path}/action", {"os-migrateLive": {"host": None, "block_migration": "auto"}}
    )


def _describe(records: dict[int, Json], number: int | None, *, why: str = "") -> str:
    if number is None:
        return "accepted"
    record = records[number]
    hosts = f"{record['source_compute']} to {record['dest_compute'] or 'a host to be chosen'}"
    return f"migration {number} from {hosts}: {record['status']}" + (f" ({why})" if why else "")


def _last_event(admin: RegionApi, server_id: str) -> str:
    """Why the last live migration failed, as the server's action log has it; often nothing."""
    path = f"/servers/{server_id}/os-instance-actions"
    try:
        actions = admin.get("compute", path)["instanceActions"]
        requests = [one["request_id"] for one in actions if one["action"] == "live-migration"]
        action = admin.get("compute", f"{path}/{requests[0]}") if requests else {}
    except CloudError:
        return ""
    events = action.get("instanceAction", {}).get("events") or []
    failed = [one for one in events if one.get("result") == "Error"]
    return str(failed[-1].get("details") or "") if failed else ""
