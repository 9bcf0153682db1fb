"""Volumes and snapshots that carry a key."""

from __future__ import annotations

import json
from typing import Any

from desktops.clouds.openstack import marks, values
from desktops.clouds.openstack.api import RegionApi
from desktops.core.cloud import CloudError, Conflict, NotFound

Json = dict[str, Any]


def marked(api: RegionApi, key: str, *, mark: str = marks.KEY) -> list[Json]:
    """Volumes that carry the mark."""
    # Cinder wants the filter as text; a cloud that ignores it sends everything.
    params = {"metadata": json.dumps({mark: key})}
    found = api.pages("block_storage", "/volumes/detail", "volumes", **params)
    return [body for body in found if marks.is_marked(body, key, mark=mark)]


def find(api: RegionApi, key: str, *, mark: str = marks.KEY) -> Json | None:
    """The oldest volume with the key that is not being deleted."""
    found = marked(api, key, mark=mark)
    return marks.oldest([body for body in found if not values.is_being_deleted(body)])


def create_once(api: RegionApi, wanted: Json, *, key: str, mark: str = marks.KEY) -> Json:
    """The volume with the key, found or created as `wanted` (of Cinder's API)."""
    wanted = {**wanted, "metadata": {**wanted.get("metadata", {}), mark: key}}

    def create() -> Json:
        made: Json = api.post("block_storage", "/volumes", {"volume": wanted})["volume"]
        return made

    return marks.once(
        lambda: find(api, key, mark=mark), create, lambda made: delete(api, made["id"])
    )


def delete(api: RegionApi, volume_id: str) -> None:
    """Begin to delete; deleting what is gone, or going, succeeds."""
    _delete(api, f"/volumes/{volume_id}", "volume")


def delete_snapshot(api: RegionApi, snapshot_id: str) -> None:
    _delete(api, f"/snapshots/{snapshot_id}", "snapshot")


def _delete(api: RegionApi, path: str, kind: str) -> None:
    try:
        try:
            api.delete("block_storage", path)
        except Conflict:
            # Cinder refuses to delete twice in the words it has for every other state.
            if api.get("block_storage", path)[kind]["status"] != "deleting":
                raise
    except NotFound:
        return


def snapshots_marked(api: RegionApi, name: str, key: str, *, mark: str = marks.KEY) -> list[Json]:
    found = api.pages("block_storage", "/snapshots/detail", "snapshots", name=name)
    return [body for body in found if marks.is_marked(body, key, mark=mark)]


def find_snapshot(api: RegionApi, *, name: str, key: str, mark: str) -> Json | None:
    """The oldest snapshot with the key that is not being deleted."""
    found = snapshots_marked(api, name, key, mark=mark)
    return marks.oldest([s for s in found if not values.is_being_deleted(s)])


def snapshot_once(api: RegionApi, volume_id: str, *, name: str, key: str, mark: str) -> Json:
    """The snapshot with the key, taken now when there is none.

    A volume in use is snapshotted too (`force`): crash-consistent, as after a power cut.
    """

    def take() -> Json:
        wanted = {"volume_id": volume_id, "name": name, "force": True, "metadata": {mark: key}}
        made: Json = api.post("block_storage", "/snapshots", {"snapshot": wanted})["snapshot"]
        return made

    def find() -> Json | None:
        return find_snapshot(api, name=name, key=key, mark=mark)

    return marks.once(find, take, lambda made: delete_snapshot(api, made["id"]))


def reason(api: RegionApi, resource_id: str) -> str:
    """Cinder's last message about a resource; "" when it left none or keeps none."""
    try:
        found = list(api.pages("block_storage", "/messages", "messages", resource_uuid=resource_id))
    except CloudError:
        return ""
    latest = max(found, key=lambda message: message["created_at"], default=None)
    return str(latest["user_message"]) if latest else ""
