"""Finds and removes what these tests made in a cloud, by the keys and names they give it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from desktops.clouds.openstack import images, marks
from desktops.clouds.openstack.api import RegionApi
from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import CloudError, Conflict

Json = dict[str, Any]

PREFIX = "foredesk-test"
ABORTED_AFTER = timedelta(hours=1)  # what is older was left behind by a run that never ended
PATIENCE_S = 180


class Sweeper:
    """Removes servers, images, volumes and snapshots of this run, by their key or name.

    What a transition makes carries the transition's key: `also` takes further prefixes.
    """

    def __init__(self, cloud: OpenStackCloud, regions: tuple[str, ...]) -> None:
        self.cloud, self.regions = cloud, regions
        self.prefix = f"{PREFIX}-{uuid4().hex[:8]}"
        self._prefixes = [self.prefix]

    def also(self, prefix: str) -> None:
        self._prefixes.append(prefix)

    def sweep(self, *, keep: str | None = None) -> None:
        """Remove until nothing is left, but for what is called `keep`."""
        deadline = monotonic() + PATIENCE_S
        while left := list(self._found(keep)):
            refused = []
            for what, remove in left:
                try:
                    remove()
                except Conflict as error:
                    refused.append(f"{what}: {error}")
            if monotonic() > deadline:
                raise AssertionError(f"could not be removed: {refused or [w for w, _ in left]}")
            sleep(1)

    def left(self, *, keep: str | None = None) -> list[str]:
        """What there is of this run, but for what is called `keep`."""
        return [what for what, _ in self._found(keep, is_aborted_too=False)]

    def _found(
        self, keep: str | None, *, is_aborted_too: bool = True
    ) -> Iterator[tuple[str, Callable[[], object]]]:
        for region in self.regions:
            for what, body, remove in self._in_region(region):
                is_kept = keep is not None and body.get("name") == keep
                if is_kept or not (is_aborted_too or self._is_of_run(body)):
                    continue
                yield f"{region} {what} {body['id']} {body['name']!r} {body['status']}", remove

    def _in_region(self, region: str) -> Iterator[tuple[str, Json, Callable[[], object]]]:
        cloud, api, storage = self.cloud, self.cloud.api(region), "block_storage"
        for body in self._ours(api.pages("compute", "/servers/detail", "servers")):
            yield "server", body, partial(cloud.delete_server, region, body["id"])
        for body in self._ours(api.pages("image", "/images", "images", owner=api.project_id)):
            yield "image", body, partial(images.delete, api, body["id"])
        for body in self._ours(api.pages(storage, "/snapshots/detail", "snapshots")):
            yield "snapshot", body, partial(_delete_snapshot, cloud, region, body)
        for body in self._ours(api.pages(storage, "/volumes/detail", "volumes")):
            yield "volume", body, partial(cloud.delete_volume, region, body["id"])

    def _ours(self, bodies: Iterator[Json]) -> list[Json]:
        return [body for body in bodies if self._is_ours(body)]

    def _is_ours(self, body: Json) -> bool:
        return self._is_of_run(body) or (
            any(name.startswith(PREFIX) for name in _names(body)) and _age(body) > ABORTED_AFTER
        )

    def _is_of_run(self, body: Json) -> bool:
        return any(name.startswith(tuple(self._prefixes)) for name in _names(body))


def _age(body: Json) -> timedelta:
    """The services write UTC, with a Z or without."""
    made = (body.get("created_at") or body["created"]).rstrip("Z")
    return datetime.now(UTC) - datetime.fromisoformat(made).replace(tzinfo=UTC)


def _names(body: Json) -> list[str]:
    """The names and keys it goes by, without what the driver puts before a key."""
    metadata = body.get("metadata") or {}
    marked = [metadata.get(mark, "") for mark in (marks.KEY, marks.COPY, "foredesk:desktop")]
    name = (body.get("name") or "").removeprefix("foredesk ").removeprefix("copy ")
    return [name, *marked]


def _delete_snapshot(cloud: OpenStackCloud, region: str, snapshot: Json) -> None:
    """A snapshot whose server went while Cinder deleted it is stuck, for good."""
    if snapshot["status"] == "error_deleting":
        admin = RegionApi(cloud._admin_cloud, region)
        action = {"os-reset_status": {"status": "error"}}
        path = f"/snapshots/{snapshot['id']}/action"
        try:
            admin.post("block_storage", path, action)
        except CloudError as error:
            raise Conflict(str(error)) from error
    cloud.delete_snapshot(region, snapshot["id"])
