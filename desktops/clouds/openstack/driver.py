"""The cloud protocol over OpenStack."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from desktops.clouds.openstack import copies, fences, images, live, marks, values, volumes
from desktops.clouds.openstack.api import RegionApi
from desktops.core.cloud import (
    Capabilities,
    Cloud,
    CloudError,
    Host,
    Inventory,
    Job,
    MemoryMode,
    NotFound,
    Server,
    ServerSpec,
    Snapshot,
    Unsupported,
    Volume,
    VolumeCopy,
    VolumeSpec,
)

Json = dict[str, Any]

# What brings a server of this status to run; one that runs already is left alone.
_START = {
    "SHUTOFF": "os-start",
    "SUSPENDED": "resume",
    "PAUSED": "unpause",
    "SHELVED": "unshelve",
    "SHELVED_OFFLOADED": "unshelve",
}
_RUNNING = {"ACTIVE", "REBOOT", "HARD_REBOOT", "PASSWORD"}
_STOPPED = {"SHUTOFF", "SHELVED", "SHELVED_OFFLOADED"}
_STARTING = {"powering-on", "resuming", "unpausing", "unshelving", "spawning"}
_STOPPING = {"powering-off", "shelving", "shelving_image_pending_upload"}


def connect(
    name: str,
    *,
    cloud: str | None = None,
    admin_cloud: str | None = None,
    regions: Sequence[str] | None = None,
    network: str | None = None,
    security_groups: Sequence[str] = ("default",),
    live_migration: bool | None = None,
    copy_format: str = "qcow2",
) -> Cloud:
    """The cloud that clouds.yaml describes; nothing is asked of it yet.

    name : what Foredesk calls it
    cloud : its entry in clouds.yaml; None: OS_CLOUD, or the only one
    admin_cloud : an entry with the right to live-migrate the servers of `cloud`; None: `cloud`
    regions : the regions to use; None: every region with a compute service
    network : name or id of the network of new servers; None: the only one there is
    security_groups : what a server created fenced joins when it is unfenced
    live_migration : whether the credentials may live-migrate; None: as the roles suggest
    copy_format : disk format in which volumes travel between regions
    """
    return OpenStackCloud(
        name,
        cloud=cloud,
        admin_cloud=admin_cloud or cloud,
        regions=tuple(regions or ()),
        network=network,
        security_groups=tuple(security_groups),
        live_migration=live_migration,
        copy_format=copy_format,
    )


class OpenStackCloud:
    """See `connect`."""

    def __init__(
        self,
        name: str,
        *,
        cloud: str | None,
        admin_cloud: str | None,
        regions: tuple[str, ...],
        network: str | None,
        security_groups: tuple[str, ...],
        live_migration: bool | None,
        copy_format: str,
    ) -> None:
        self.name = name
        self._cloud = cloud
        self._admin_cloud = admin_cloud
        self._regions = regions
        self._network = network
        self._security_groups = security_groups
        self._live_migration = live_migration
        self._copy_format = copy_format
        self._apis: dict[tuple[str | None, str | None], RegionApi] = {}

    def capabilities(self) -> Capabilities:
        modes = {MemoryMode.NONE}
        if self._may_live_migrate():
            modes.add(MemoryMode.LIVE)
        return Capabilities(
            memory_modes=frozenset(modes),
            incremental_copy=False,
            copy_while_attached=True,
            is_simulated=False,
        )

    def now(self) -> datetime:
        return datetime.now(UTC)

    # Observations.

    def regions(self) -> tuple[str, ...]:
        """The catalogue's regions with a compute service, but for those that clouds.yaml,
        where it lists regions, leaves out."""
        if not self._regions:
            found = self.api(None).compute_regions()
            self._regions = tuple(region for region in found if self.api(region).is_configured())
        return self._regions

    def inventory(self, region: str) -> Inventory:
        """Six requests, a seventh where the hosts may be seen, and one more for every further
        thousand servers, volumes or ports."""
        api = self.api(region)
        # Before the ports: a server without any would pass for fenced.
        servers = list(api.pages("compute", "/servers/detail", "servers"))
        ports = fences.of_project(api)
        stored = api.pages("block_storage", "/volumes/detail", "volumes")
        flavors = api.pages("compute", "/flavors/detail", "flavors")
        return Inventory(
            region=region,
            observed_at=self.now(),
            flavors=tuple(values.flavor_from(body) for body in flavors),
            quota=values.quota_from(
                api.get("compute", "/limits")["limits"]["absolute"],
                api.get("block_storage", "/limits")["limits"]["absolute"],
            ),
            servers=tuple(
                values.server_from(body, ports.get(body["id"], ()), region=region)
                for body in servers
            ),
            volumes=tuple(values.volume_from(body, region=region) for body in stored),
            hosts=self._hosts(region),
        )

    def server(self, region: str, server_id: str) -> Server:
        api = self.api(region)
        return self._observed(region, api.get("compute", f"/servers/{server_id}")["server"])

    def find_server(self, region: str, *, key: str) -> Server | None:
        body = self._server_with(self.api(region), key)
        return None if body is None else self._observed(region, body)

    def volume(self, region: str, volume_id: str) -> Volume:
        body = self.api(region).get("block_storage", f"/volumes/{volume_id}")["volume"]
        return values.volume_from(body, region=region)

    def find_volume(self, region: str, *, key: str) -> Volume | None:
        body = volumes.find(self.api(region), marks.checked(key))
        return None if body is None else values.volume_from(body, region=region)

    # Servers.

    def create_server(self, region: str, spec: ServerSpec, *, key: str) -> Server:
        api = self.api(region)
        body = marks.once(
            lambda: self._server_with(api, key),
            lambda: self._boot(api, spec, key=key),
            lambda made: api.delete("compute", f"/servers/{made['id']}"),
        )
        return self.server(region, body["id"])

    def start_server(self, region: str, server_id: str) -> None:
        api = self.api(region)
        status, task = _state(api.get("compute", f"/servers/{server_id}")["server"])
        if task in _STARTING or (status in _RUNNING and not task):
            return
        self._act(api, server_id, _START.get(status, "os-start"))

    def stop_server(self, region: str, server_id: str) -> None:
        api = self.api(region)
        status, task = _state(api.get("compute", f"/servers/{server_id}")["server"])
        if task in _STOPPING or (status in _STOPPED and not task):
            return
        self._act(api, server_id, "os-stop")

    def delete_server(self, region: str, server_id: str) -> None:
        api = self.api(region)
        try:
            body = api.get("compute", f"/servers/{server_id}")["server"]
            if not values.is_being_deleted(body):
                _spare_volumes(api, body)
                api.delete("compute", f"/servers/{server_id}")
        except NotFound:
            return

    def fence_server(self, region: str, server_id: str) -> None:
        api = self.api(region)
        fences.fence(api, api.get("compute", f"/servers/{server_id}")["server"])

    def unfence_server(self, region: str, server_id: str) -> None:
        api = self.api(region)
        server = api.get("compute", f"/servers/{server_id}")["server"]
        fences.unfence(api, server, groups=self._security_groups)

    def live_migrate(self, region: str, server_id: str, *, key: str) -> Job:
        if not self._may_live_migrate():
            raise Unsupported(
                f"{self.name}: live migration wants the role admin or manager; name credentials "
                "that have it as admin_cloud, or set live_migration if the policy allows it."
            )
        admin = self.api(region, cloud=self._admin_cloud)
        return live.migrate(self.api(region), admin, server_id, key=marks.checked(key))

    # Volumes, snapshots, images.

    def create_volume(self, region: str, spec: VolumeSpec, *, key: str) -> Volume:
        api = self.api(region)
        found = volumes.find(api, marks.checked(key))
        body = found or volumes.create_once(api, _volume_body(api, spec), key=key)
        return values.volume_from(body, region=region)

    def delete_volume(self, region: str, volume_id: str) -> None:
        volumes.delete(self.api(region), volume_id)

    def snapshot_volume(self, region: str, volume_id: str, *, key: str) -> Snapshot:
        name = marks.name(marks.checked(key))
        body = volumes.snapshot_once(
            self.api(region), volume_id, name=name, key=key, mark=marks.KEY
        )
        return values.snapshot_from(body, region=region)

    def find_snapshot(self, region: str, *, key: str) -> Snapshot | None:
        name = marks.name(marks.checked(key))
        body = volumes.find_snapshot(self.api(region), name=name, key=key, mark=marks.KEY)
        return body and values.snapshot_from(body, region=region)

    def delete_snapshot(self, region: str, snapshot_id: str) -> None:
        volumes.delete_snapshot(self.api(region), snapshot_id)

    def copy_image(self, image: str, *, source_region: str, dest_region: str, key: str) -> Job:
        return images.copy(
            self.api(source_region),
            self.api(dest_region),
            image,
            source_region=source_region,
            key=marks.checked(key),
        )

    def copy_volume(
        self,
        source_region: str,
        volume_id: str,
        dest_region: str,
        *,
        key: str,
        base_volume_id: str | None = None,
    ) -> VolumeCopy:
        """Always a whole copy: Cinder has no way to send a volume's changes elsewhere."""
        return self._pass(source_region, dest_region, key).advance(volume_id)

    def abandon_copy(self, dest_region: str, *, source_region: str, key: str) -> None:
        """Conflict where the cloud must first finish something: ask again until it returns."""
        self._pass(source_region, dest_region, key).abandon()

    # Below: what these have in common.

    def api(self, region: str | None, *, cloud: str | None = None) -> RegionApi:
        """A region's services, connected to once."""
        place = (cloud or self._cloud, region)
        if place not in self._apis:
            self._apis[place] = RegionApi(*place)
        return self._apis[place]

    def _may_live_migrate(self) -> bool:
        """Nova's default policy lets an administrator, or the project's manager."""
        if self._live_migration is None:
            roles = self.api(None, cloud=self._admin_cloud).roles()
            self._live_migration = bool(roles & {"admin", "manager"})
        return self._live_migration

    def _hosts(self, region: str) -> tuple[Host, ...]:
        """Nova tells of its hosts only to an administrator; a region is listed without them too."""
        api = self.api(region, cloud=self._admin_cloud)
        try:
            if "admin" not in api.roles():
                return ()
            services = api.get("compute", "/os-services", binary="nova-compute")["services"]
        except CloudError:
            return ()
        return tuple(values.host_from(body) for body in services)

    def _observed(self, region: str, body: Json) -> Server:
        ports = fences.of_server(self.api(region), body["id"])
        return values.server_from(body, ports, region=region)

    def _server_with(self, api: RegionApi, key: str) -> Json | None:
        """The oldest server with the key that is not being deleted."""
        tag = marks.tag(marks.checked(key))
        found = api.pages("compute", "/servers/detail", "servers", tags=tag)
        return marks.oldest(
            [
                body
                for body in found
                if marks.is_marked(body, key) and not values.is_being_deleted(body)
            ]
        )

    def _boot(self, api: RegionApi, spec: ServerSpec, *, key: str) -> Json:
        wanted = _server_body(api, spec, key=key)
        wanted["networks"] = [{"uuid": self._network_id(api, spec.network)}]
        if spec.is_fenced:
            group_id = fences.quarantine(api)
            wanted["security_groups"] = [{"name": group_id}]
            wanted["metadata"][marks.QUARANTINE] = group_id
        made: Json = api.post("compute", "/servers", {"server": wanted})["server"]
        return made

    def _network_id(self, api: RegionApi, network: str | None) -> str:
        wanted = network or self._network
        params: Json = {"fields": ["id", "name"]}
        if wanted is None:
            params["router:external"] = "False"
        found = list(api.pages("network", "/networks", "networks", **params))
        if wanted is not None:
            found = [one for one in found if wanted in (one["id"], one["name"])]
        if len(found) != 1:
            what = "networks" if wanted is None else f"networks called {wanted!r}"
            raise NotFound(f"{self.name}: {len(found)} {what}; a new server needs exactly one.")
        return str(found[0]["id"])

    def _act(self, api: RegionApi, server_id: str, action: str) -> None:
        api.post("compute", f"/servers/{server_id}/action", {action: None})

    def _pass(self, source_region: str, dest_region: str, key: str) -> copies.VolumePass:
        if source_region == dest_region:
            raise Unsupported(f"{self.name}: a copy goes to another region, not to {dest_region}.")
        return copies.VolumePass(
            self.api(source_region),
            self.api(dest_region),
            source_region=source_region,
            key=marks.checked(key),
            disk_format=self._copy_format,
        )


def _state(body: Json) -> tuple[str, str]:
    return body["status"], body.get("OS-EXT-STS:task_state") or ""


def _server_body(api: RegionApi, spec: ServerSpec, *, key: str) -> Json:
    """A server as Nova wants it, but for its networks."""
    body: Json = {
        "name": spec.name,
        "flavorRef": _flavor_id(api, spec.flavor),
        "metadata": {**spec.metadata, marks.KEY: key},
        "tags": [marks.tag(key)],
    }
    if spec.boot_volume_id is not None:
        disk: Json = {
            "uuid": spec.boot_volume_id,
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": 0,
            "delete_on_termination": False,
        }
        return body | {"block_device_mapping_v2": [disk]}
    if spec.image is None:
        raise ValueError(f"Server {spec.name!r} has neither a volume nor an image to boot from.")
    return body | {"imageRef": images.find(api, spec.image)["id"]}


def _flavor_id(api: RegionApi, flavor: str) -> str:
    for found in api.pages("compute", "/flavors", "flavors"):
        if flavor in (found["name"], found["id"]):
            return str(found["id"])
    raise NotFound(f"No flavor {flavor!r}.")


def _volume_body(api: RegionApi, spec: VolumeSpec) -> Json:
    body: Json = {"name": spec.name, "size": values.gib(spec.size_bytes)}
    if spec.image is not None:
        body["imageRef"] = images.find(api, spec.image)["id"]
    if spec.snapshot_id is not None:
        body["snapshot_id"] = spec.snapshot_id
    return body


def _spare_volumes(api: RegionApi, body: Json) -> None:
    """Have Nova forget that it should delete any of the server's volumes with it."""
    for volume in body.get("os-extended-volumes:volumes_attached") or []:
        if volume.get("delete_on_termination"):
            attachment = {"volumeId": volume["id"], "delete_on_termination": False}
            api.put(
                "compute",
                f"/servers/{body['id']}/os-volume_attachments/{volume['id']}",
                {"volumeAttachment": attachment},
            )
