from __future__ import annotations

from collections.abc import Callable
from typing import Any

from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import Server, ServerSpec, VolumeStatus
from tests.openstack.conftest import Hands


def ports(hands: Hands, server: Server) -> list[dict[str, Any]]:
    pages = hands.api(server.region).pages("network", "/ports", "ports", device_id=server.id)
    return list(pages)


def test_another_worker_adopts_what_the_first_created(
    hands: Hands, connect_again: Callable[[], OpenStackCloud], east: str
) -> None:
    volume, key = hands.volume(), hands.key("adopted")
    spec = ServerSpec(name=key, flavor=hands.flavor, boot_volume_id=volume.id)
    first = hands.cloud.create_server(east, spec, key=key)
    second = connect_again().create_server(east, spec, key=key)
    assert second.id == first.id
    found = connect_again().find_server(east, key=key)
    assert found is not None and (found.id, found.key) == (first.id, key)
    assert [s.id for s in hands.cloud.inventory(east).servers if s.key == key] == [first.id]


def test_stop_start_and_delete_until_only_the_volume_is_left(
    hands: Hands, desktop: Server, east: str
) -> None:
    stopped = hands.stopped(desktop)
    assert not stopped.accepts_sessions
    hands.cloud.stop_server(east, desktop.id)
    hands.cloud.start_server(east, desktop.id)
    hands.until(desktop, lambda seen: seen.is_running)
    hands.deleted(desktop)
    hands.cloud.delete_server(east, desktop.id)
    volume = hands.until_available(hands.cloud.volume(east, desktop.volume_ids[0]))
    assert volume.status is VolumeStatus.AVAILABLE


def test_a_volume_that_nova_would_delete_with_its_server_is_kept(hands: Hands, east: str) -> None:
    """A desktop made by somebody else may say so."""
    volume, name = hands.volume(), hands.key("foreign")
    api = hands.api(east)
    network = next(iter(api.pages("network", "/networks", "networks", name="desktops")), None)
    flavor = next(
        f for f in api.pages("compute", "/flavors", "flavors") if f["name"] == hands.flavor
    )
    body = {
        "name": name,
        "flavorRef": flavor["id"],
        "networks": [{"uuid": network["id"]}] if network else "none",
        "block_device_mapping_v2": [
            {
                "uuid": volume.id,
                "source_type": "volume",
                "destination_type": "volume",
                "boot_index": 0,
                "delete_on_termination": True,
            }
        ],
    }
    made = api.post("compute", "/servers", {"server": body})["server"]
    server = hands.until(hands.cloud.server(east, made["id"]), lambda seen: seen.is_running)
    assert server.key == ""
    hands.deleted(server)
    hands.until_available(volume)


def test_a_fence_takes_every_port_down_and_holds_through_a_restart(
    hands: Hands, desktop: Server, east: str
) -> None:
    assert [port["admin_state_up"] for port in ports(hands, desktop)] == [True]
    hands.cloud.fence_server(east, desktop.id)
    assert [port["admin_state_up"] for port in ports(hands, desktop)] == [False]
    assert hands.cloud.server(east, desktop.id).is_fenced
    hands.stopped(desktop)
    hands.cloud.start_server(east, desktop.id)
    started = hands.until(desktop, lambda seen: seen.is_running)
    assert started.is_fenced and not started.accepts_sessions
    hands.cloud.unfence_server(east, desktop.id)
    assert hands.cloud.server(east, desktop.id).accepts_sessions


def test_a_server_created_fenced_lets_nobody_in_until_it_is_unfenced(
    hands: Hands, east: str
) -> None:
    server = hands.desktop(is_fenced=True)
    assert server.is_fenced
    (port,) = ports(hands, server)
    (group_id,) = port["security_groups"]
    group = hands.api(east).get("network", f"/security-groups/{group_id}")["security_group"]
    assert group["security_group_rules"] == [] and port["port_security_enabled"]

    hands.cloud.unfence_server(east, server.id)
    (port,) = ports(hands, server)
    assert port["admin_state_up"] and group_id not in port["security_groups"]
    assert hands.cloud.server(east, server.id).accepts_sessions

    hands.cloud.fence_server(east, server.id)
    assert [port["admin_state_up"] for port in ports(hands, server)] == [False]

    hands.deleted(server)
    left = hands.api(east).pages("network", "/ports", "ports", id=port["id"])
    assert list(left) == []
