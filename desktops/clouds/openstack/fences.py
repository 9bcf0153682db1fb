"""Ports: who can reach a server.

A fenced port is administratively down: no frame passes, whatever the guest does, and it stays
so through stop, start and reboot. A server that is *created* fenced cannot have its ports down
yet: Open vSwitch never reports such a port as plugged, and Nova waits for that report and then
gives the server up. Its port is up but quarantined instead: in no security group, so that
nothing is let in. Fencing it again later takes it down as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from desktops.clouds.openstack import marks
from desktops.clouds.openstack.api import RegionApi
from desktops.core.cloud import NotFound

Json = dict[str, Any]

QUARANTINE = "foredesk quarantine"  # a port's description
FIELDS = ["id", "name", "device_id", "admin_state_up", "description", "security_groups"]


def is_fenced(port: Json) -> bool:
    return not port["admin_state_up"] or _is_quarantined(port)


def _is_quarantined(port: Json) -> bool:
    return port.get("description") == QUARANTINE and not port.get("security_groups")


def are_fenced(ports: Iterable[Json], *, without: bool = True) -> bool:
    """Whether no port lets anybody in; `without` is the answer for a server without ports."""
    ports = list(ports)
    return all(is_fenced(port) for port in ports) if ports else without


def of_server(api: RegionApi, server_id: str) -> list[Json]:
    return list(api.pages("network", "/ports", "ports", device_id=server_id, fields=FIELDS))


def of_project(api: RegionApi) -> dict[str, list[Json]]:
    """Every port of the project, by the server it belongs to."""
    found: dict[str, list[Json]] = {}
    params = {"project_id": api.project_id, "fields": FIELDS}
    for port in api.pages("network", "/ports", "ports", **params):
        found.setdefault(port["device_id"], []).append(port)
    return found


def fence(api: RegionApi, server_id: str, *, is_building: bool) -> None:
    """Take down every port that lets somebody in (while building: see the module)."""
    for port in of_server(api, server_id):
        if port["admin_state_up"] and not (is_building and _is_quarantined(port)):
            _update(api, port, admin_state_up=False)


def unfence(api: RegionApi, server_id: str, *, groups: Sequence[str]) -> None:
    """Open every port; a quarantined one joins the named security groups."""
    for port in of_server(api, server_id):
        if _is_quarantined(port):
            joined = [_group_id(api, group) for group in groups]
            _update(api, port, admin_state_up=True, security_groups=joined, description="")
        elif not port["admin_state_up"]:
            _update(api, port, admin_state_up=True)


def quarantined_port(api: RegionApi, *, network_id: str, key: str) -> str:
    """The id of the quarantined port for the server with this key: found, or created."""
    found = [port for port in _own(api, key) if not port["device_id"]]
    if found:
        return str(found[0]["id"])
    wanted: Json = {
        "network_id": network_id,
        "name": marks.name(key),
        "description": QUARANTINE,
        "security_groups": [],
    }
    port = api.post("network", "/ports", {"port": wanted})["port"]
    if port.get("port_security_enabled") is False:
        # Nothing filters this network's traffic, so security groups cannot hold it back.
        _update(api, port, admin_state_up=False, description="")
    return str(port["id"])


def release(api: RegionApi, *, key: str, server_id: str = "") -> None:
    """Delete the ports made here for a server: Nova deletes only those that it made itself."""
    for port in _own(api, key):
        if port["device_id"] in ("", server_id):
            try:
                api.delete("network", f"/ports/{port['id']}")
            except NotFound:
                continue


def _own(api: RegionApi, key: str) -> list[Json]:
    params = {"name": marks.name(key), "project_id": api.project_id, "fields": FIELDS}
    return list(api.pages("network", "/ports", "ports", **params))


def _update(api: RegionApi, port: Json, **changes: Any) -> None:
    api.put("network", f"/ports/{port['id']}", {"port": changes})


def _group_id(api: RegionApi, group: str) -> str:
    params = {"name": group, "project_id": api.project_id, "fields": ["id", "name"]}
    for found in api.pages("network", "/security-groups", "security_groups", **params):
        return str(found["id"])
    for found in api.pages("network", "/security-groups", "security_groups", id=group):
        return str(found["id"])
    raise NotFound(f"No security group {group!r} to take a server out of quarantine.")
