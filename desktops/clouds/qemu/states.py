"""The state of a machine: frozen, saved, loaded elsewhere, gone on from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from desktops.clouds.qemu import servers, volumes
from desktops.clouds.qemu.monitor import Monitor, NotRunning
from desktops.clouds.qemu.options import CloudOptions
from desktops.clouds.qemu.presence import is_alive
from desktops.clouds.qemu.servers import FROZEN
from desktops.clouds.qemu.store import Region, ServerRecord
from desktops.core.cloud import CloudFault, Conflict
from desktops.core.hypervisor import VirtualDesktopState

PROCESSOR_STATE = "processor_state"
TRANSFER_TIMEOUT_S = 60.0
ENDED = {"completed", "failed", "cancelled"}


def of_server(region: Region, record: ServerRecord) -> VirtualDesktopState:
    return VirtualDesktopState(
        definition=record.definition,
        memory_snapshot=region.memory_of(record.id),
        processor_state=region.servers.folder(record.id) / PROCESSOR_STATE,
        data_volume=volumes.disk_of(region, record.volume_id),
    )


def freeze(region: Region, server_id: str, cloud: CloudOptions) -> None:
    with _session(region, server_id, cloud) as (_, monitor, said):
        if said == "running":
            monitor.ask("stop")
        elif said not in FROZEN:
            raise _conflict(region, server_id, said, "frozen")


def save(region: Region, server_id: str, cloud: CloudOptions) -> None:
    with _session(region, server_id, cloud) as (record, monitor, said):
        path = of_server(region, record).processor_state
        if said == "postmigrate" and path.exists():
            return
        if said not in FROZEN:
            raise _conflict(region, server_id, said, "saved")
        part = path.with_name(f"{path.name}.part")
        _shared_memory_stays(monitor)
        monitor.ask("migrate", {"uri": f"exec:exec cat > {shlex.quote(str(part))}"})
        _completed(monitor, server_id)
        part.replace(path)


def load(region: Region, server_id: str, cloud: CloudOptions) -> None:
    with _session(region, server_id, cloud) as (record, monitor, said):
        if said in FROZEN:
            return
        path = of_server(region, record).processor_state
        if said != "inmigrate" or not path.exists():
            raise _conflict(region, server_id, said, "given a state")
        _shared_memory_stays(monitor)
        monitor.ask("migrate-incoming", {"uri": f"exec:exec cat {shlex.quote(str(path))}"})
        _completed(monitor, server_id)


def thaw(region: Region, server_id: str, cloud: CloudOptions) -> None:
    with _session(region, server_id, cloud) as (record, monitor, said):
        if said in FROZEN:
            # Once it runs the saved state is of the past. The user waits: a power cut would end
            # the machine anyhow, so nothing is waited for that outlives one.
            of_server(region, record).processor_state.unlink(missing_ok=True)
            region.servers.put(replace(record, is_received=False), is_lasting=False)
            servers.run_on(monitor, record)
        elif said != "running":
            raise _conflict(region, server_id, said, "thawed")


@contextmanager
def _session(
    region: Region, server_id: str, cloud: CloudOptions
) -> Iterator[tuple[ServerRecord, Monitor, str]]:
    """The record, the monitor, and what it says of the machine."""
    with region.server_locked(server_id) as record:
        folder = region.servers.folder(server_id)
        if not is_alive(folder):
            raise Conflict(f"{region.name}: server {server_id} is switched off.")
        try:
            with Monitor(folder, timeout_s=cloud.answer_timeout_s) as monitor:
                yield record, monitor, monitor.status()
        except NotRunning as error:
            raise CloudFault(f"{region.name}: server {server_id} ended: {error}") from error


def _conflict(region: Region, server_id: str, said: str, wanted: str) -> Conflict:
    return Conflict(f"{region.name}: server {server_id} is {said}; it cannot be {wanted} now.")


def _shared_memory_stays(monitor: Monitor) -> None:
    """Memory lies in a file that whoever carries the state copies: QEMU leaves it out."""
    monitor.ask(
        "migrate-set-capabilities",
        {"capabilities": [{"capability": "x-ignore-shared", "state": True}]},
    )


def _completed(monitor: Monitor, server_id: str) -> None:
    said = monitor.wait_for(
        "query-migrate",
        lambda answer: answer.get("status") in ENDED,
        timeout_s=TRANSFER_TIMEOUT_S,
    )
    if said["status"] != "completed":
        raise CloudFault(f"Server {server_id}: {said['status']}: {said.get('error-desc', '')}")
