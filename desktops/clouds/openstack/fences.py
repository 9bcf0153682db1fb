"""Ports: who can reach a server.

A fenced port is administratively down: no frame passes, whatever the guest does, and it stays
so through stop, start and reboot. A server that is *created* fenced cannot have its ports down
yet: Open vSwitch never reports such a port as plugged, and Nova waits for that report and then
gives the server up. Its ports are quarantined instead: in a security group without rules, so
that nothing passes either way. Fencing it again later takes them down as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from desktops.clouds.openstack import marks
from desktops.clouds.openstack.api import RegionApi
from desktops.core.cloud import NotFound

Json = dict[str, Any]

GROUP = "foredesk-quarantine"
FIELDS = ["id", "device_id", "admin_state_up", "security_groups"]


def are_fenced(server: Json, ports: Iterable[Json]) -> bool:
    """Whether no port of the server lets anybody in.

    A server being built has no ports *yet*: what it was created as tells how they will be.
    """
    ports = list(ports)
    if not ports:
        return server["status"] != "BUILD" or bool(_quarantine_of(server))
    return all(not port["admin_state_up"] or _is_quarantined(port, server) for port in ports)


def of_project(api: RegionApi) -> dict[str, list[Json]]:
    """Every port of the project, by the server it belongs to."""
    found: dict[str, list[Json]] = {}
    params = {"project_id": api.project_id, "fields": FIELDS}
    for port in api.pages("network", "/ports", "ports", **params):
        found.setdefault(port["device_id"], []).append(port)
    return found


def of_server(api: RegionApi, server_id: str) -> list[Json]:
    return list(api.pages("network", "/ports", "ports", device_id=server_id, fields=FIELDS))


def fence(api: RegionApi, server: Json) -> None:
    """Take down every port; one in quarantine stays up for as long as its server is built."""
    for port in of_server(api, server["id"]):
        is_needed = server["status"] == "BUILD" and _is_quarantined(port, server)
        if port["admin_state_up"] and not is_needed:
            _update(api, port, admin_state_up=False)


def unfence(api: RegionApi, server: Json, *, groups: Sequence[str]) -> None:
    """Open every port; one in quarantine joins the named security groups."""
    for port in of_server(api, server["id"]):
        if _is_quarantined(port, server):
            joined = [_group_id(api, group) for group in groups]
            _update(api, port, admin_state_up=True, security_groups=joined)
        elif not port["admin_state_up"]:
            _update(api, port, admin_state_up=True)


def quarantine(api: RegionApi) -> str:
    """The id of the project's security group without rules: found, or created.

    A new group lets everything out, and somebody may have added rules: none stays.
    """
    group = marks.once(
        lambda: marks.oldest(_groups(api, name=GROUP)),
        lambda: _create_group(api),
        lambda made: api.delete("network", f"/security-groups/{made['id']}"),
    )
    for rule in group["security_group_rules"]:
        try:
            api.delete("network", f"/security-group-rules/{rule['id']}")
        except NotFound:
            continue
    return str(group["id"])


def _create_group(api: RegionApi) -> Json:
    wanted = {"name": GROUP, "description": "Servers that Foredesk created fenced. No rules."}
    made: Json = api.post("network", "/security-groups", {"security_group": wanted})
    group: Json = made["security_group"]
    return group


def _quarantine_of(server: Json) -> str:
    """The security group in which the server was created; "" when it was not fenced."""
    return str((server.get("metadata") or {}).get(marks.QUARANTINE, ""))


def _is_quarantined(port: Json, server: Json) -> bool:
    return bool(_quarantine_of(server)) and port["security_groups"] == [_quarantine_of(server)]


def _update(api: RegionApi, port: Json, **changes: Any) -> None:
    api.put("network", f"/ports/{port['id']}", {"port": changes})


def _group_id(api: RegionApi, group: str) -> str:
    for found in [*_groups(api, name=group), *_groups(api, id=group)]:
        return str(found["id"])
    raise NotFound(f"No security group {group!r} to take a server out of quarantine.")


def _groups(api: RegionApi, **wanted: str) -> list[Json]:
    params = {"project_id": api.project_id, **wanted}
    return list(api.pages("network", "/security-groups", "security_groups", **params))
