"""A fleet that was there before: desktops placed at once, without waiting for boots.

Each desktop of the list: {
  "desktop_key": "ana-01", "region": "eu-west", "flavor": "desktop.medium",
  "image": "desktop-2026", "volume_bytes": 60000000000,
  "used_bytes": 25000000000,              # optional, of the volume, image included; half of it
  "dirty_bytes_per_s": 500000,            # optional, see content.unique_dirty_bytes
  "dirty_saturation_bytes": 3000000000,   # optional
  "name": "ana-01",                       # optional, of server and volume
  "is_running": true,                     # optional: ACTIVE, else SHUTOFF
  "is_user_present": false                # optional: at work, so connected when it runs
}

Adopting a desktop again gives the ids it was first given, wherever it may be by now. Quotas are
not asked: the fleet is there.
"""

from __future__ import annotations

from typing import Any

from desktops.clouds.simulator import servers, sessions, volumes
from desktops.clouds.simulator.content import begin_run, new_content
from desktops.clouds.simulator.fields import Fields, InvalidInput
from desktops.clouds.simulator.moment import Moment
from desktops.core.cloud import ServerStatus, VolumeStatus


def adopt(m: Moment, *, desktops: list) -> Any:  # type: ignore[type-arg]  # checked one by one
    """Place every desktop or, when one is wrong, none."""
    return [_adopt(m, Fields(item, f"desktops[{n}]")) for n, item in enumerate(desktops)]


def _adopt(m: Moment, fields: Fields) -> dict[str, Any]:
    desktop_key = fields.text("desktop_key")
    known = m.row("SELECT * FROM adoptions WHERE desktop_key = ?", desktop_key)
    if known is not None:
        return dict(known)
    region, flavor = fields.text("region"), fields.text("flavor")
    fields.need_region(region, m.world.regions)
    size = m.world.flavors.get(flavor)
    if size is None or region not in size.price_per_hour_micros:
        raise InvalidInput(f"{fields.path}.flavor: no flavor {flavor!r} in {region}")
    name = fields.text("name", desktop_key)
    is_running = fields.flag("is_running", True)
    is_user_present = fields.flag("is_user_present", False)
    volume_id = _place_volume(m, fields, region, name)
    fields.refuse_others()
    server_id = servers.insert_server(
        m,
        region=region,
        key="",
        name=name,
        flavor=flavor,
        is_fenced=False,
        metadata={servers.DESKTOP: desktop_key},
    )
    servers.attach(m, volume_id, server_id, VolumeStatus.IN_USE)
    m.do(
        "UPDATE servers SET status = ?, task = '' WHERE id = ?",
        ServerStatus.ACTIVE if is_running else ServerStatus.SHUTOFF,
        server_id,
    )
    if is_running:
        begin_run(m, volumes.get_volume(m, region, volume_id))
    servers.note(m, server_id, "server.active" if is_running else "server.shutoff")
    sessions.point(m, desktop_key=desktop_key, region=region, server_id=server_id, token=0)
    if is_user_present:
        sessions.set_presence(m, desktop_key=desktop_key, is_present=True)
        sessions.connect_at_once(m, desktop_key)
    placed = {
        "desktop_key": desktop_key,
        "region": region,
        "server_id": server_id,
        "volume_id": volume_id,
    }
    m.insert("adoptions", **placed)
    return placed


def _place_volume(m: Moment, fields: Fields, region: str, name: str) -> str:
    image = fields.text("image")
    size_bytes = fields.whole("volume_bytes", low=1)
    image_bytes = volumes.image_size(m, region, image)
    used_bytes = fields.whole("used_bytes", max(size_bytes // 2, image_bytes))
    if not image_bytes <= used_bytes <= size_bytes:
        raise InvalidInput(
            f"{fields.path}.used_bytes: {used_bytes} is not between the image's {image_bytes}"
            f" and the volume's {size_bytes}"
        )
    return volumes.insert_volume(
        m,
        region=region,
        key="",
        name=name,
        size_bytes=size_bytes,
        used_bytes=used_bytes,
        image=image,
        is_bootable=1,
        dirty_bytes_per_s=fields.whole("dirty_bytes_per_s", volumes.DIRTY_BYTES_PER_S),
        dirty_saturation_bytes=fields.whole(
            "dirty_saturation_bytes", volumes.DIRTY_SATURATION_BYTES
        ),
        # A desktop that has been worked on holds more than its image.
        content=new_content(m, f"desktop/{fields.text('desktop_key')}"),
    )
