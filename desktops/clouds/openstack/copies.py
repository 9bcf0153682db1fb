"""A volume's way into another region, done: `chain` decides, this observes and acts.

Every resource on the way carries the pass's key, and whatever a later step needs to know rides
on an earlier resource. So a worker that dies between two calls loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from desktops.clouds.openstack import images, marks, volumes
from desktops.clouds.openstack.api import RegionApi
from desktops.clouds.openstack.chain import Link, Phase, Piece, Seen, next_piece, spent
from desktops.core.cloud import CloudError, CloudFault, Conflict, JobState, VolumeCopy

Json = dict[str, Any]

# What a later step needs to know, on the resource before it.
UPLOADS = "foredesk:uploads"  # staging volume: how many uploads of it were begun
SIZE_GIB, VOLUME_NAME = "foredesk_size_gib", "foredesk_volume_name"  # destination image

ABANDONED = "foredesk:abandoned"  # snapshot

STUCK = "error_deleting"  # the status of what Cinder would not delete, and will not again

MAX_UPLOADS = 2  # one that fails, or whose request is lost, is tried once more

_WORDS = {
    "snapshot": "the snapshot",
    "staging": "the volume made of the snapshot",
    "source_image": "the upload to Glance",
    "dest_image": "the destination's Glance to fetch the image",
    "volume": "the volume at the destination",
}
_STATES = {Piece.DONE: JobState.DONE, Piece.FAIL: JobState.FAILED}


class VolumePass:
    """One pass of a volume between regions, known by its key.

    disk_format : what the volume travels as; qcow2 leaves out what was never written
    """

    def __init__(
        self,
        source: RegionApi,
        dest: RegionApi,
        *,
        source_region: str,
        key: str,
        disk_format: str = "qcow2",
    ) -> None:
        self.source, self.dest = source, dest
        self.source_region = source_region
        self.key = key
        self.name = marks.copy_name(key)
        self.disk_format = disk_format

    def advance(self, volume_id: str) -> VolumeCopy:
        """Do the next short piece and say where the pass is."""
        seen = self.observe()
        piece = next_piece(seen)
        self._do(piece, volume_id, seen)
        left = self._tidy(seen)
        if piece is Piece.TIDY and left:
            piece = Piece.DONE  # no copy waits for what will not go
        return _report(self.key, piece, seen, left)

    def abandon(self) -> None:
        """Begin to remove everything there is of the pass.

        Raises Conflict where Cinder or Glance must first finish something, CloudFault where
        Cinder gave up; everything else is being removed even so.
        """
        self._mark_abandoned()
        refused: list[str] = []
        for api, what, bodies in self._remains():
            refused += _discard(api, what, bodies)
        if refused:
            kind = CloudFault if all(STUCK in one for one in refused) else Conflict
            raise kind(f"The copy {self.key!r} is not all removed: {'; '.join(refused)}.")

    def _mark_abandoned(self) -> None:
        """On the snapshot, which goes last: until then nobody may take the copy up again."""
        for snapshot in self._snapshots():
            if ABANDONED not in snapshot["metadata"] and snapshot["status"] != "deleting":
                self.source.post(
                    "block_storage",
                    f"/snapshots/{snapshot['id']}/metadata",
                    {"metadata": {ABANDONED: "yes"}},
                )

    def _remains(self) -> Iterator[tuple[RegionApi, str, list[Json]]]:
        """Images first: without its image an upload or a download ends."""
        yield self.source, "image", self._images(self.source)
        yield self.dest, "image", self._images(self.dest)
        yield self.dest, "volume", volumes.marked(self.dest, self.key)
        staging = self._staging_volumes()
        yield self.source, "volume", staging
        yield self.source, "waiting snapshot" if staging else "snapshot", self._snapshots()

    # What there is.

    def observe(self) -> Seen:
        """Looks from the near end to the far one, so that a copy which moves on meanwhile is
        seen twice rather than not at all."""
        snapshot = marks.oldest(self._snapshots())
        staging = marks.oldest(self._staging_volumes())
        source_image = self._uploaded(staging, marks.oldest(self._images(self.source)))
        dest_image = marks.oldest(self._images(self.dest))
        volume = marks.oldest(volumes.marked(self.dest, self.key))
        return Seen(
            snapshot=_storage_link(self.source, "snapshot", snapshot),
            staging=_storage_link(self.source, "volume", staging),
            source_image=source_image,
            dest_image=images.imported(self.dest, dest_image) if dest_image else Link(),
            volume=_storage_link(self.dest, "volume", volume),
            is_abandoned=snapshot is not None and ABANDONED in snapshot["metadata"],
        )

    def _snapshots(self) -> list[Json]:
        return volumes.snapshots_marked(self.source, self.name, self.key, mark=marks.COPY)

    def _staging_volumes(self) -> list[Json]:
        return volumes.marked(self.source, self.key, mark=marks.COPY)

    def _images(self, api: RegionApi) -> list[Json]:
        return list(images.named(api, self.name))

    def _uploaded(self, staging: Json | None, image: Json | None) -> Link:
        """The image of the upload. One that fails leaves the volume available, and no image or
        one that never becomes active."""
        if image is not None and image["status"] == "active":
            return Link(Phase.READY, image["id"], size_bytes=image["size"])
        if staging is None or staging["status"] != "available":
            return Link(Phase.WAITING, image["id"]) if image is not None else Link()
        if image is None and _uploads(staging) < MAX_UPLOADS:
            return Link()
        why = volumes.reason(self.source, staging["id"]) or "Cinder gave no reason"
        return Link(Phase.FAILED, detail=f"upload of volume {staging['id']} failed: {why}")

    # What to do.

    def _do(self, piece: Piece, volume_id: str, seen: Seen) -> None:
        match piece:
            case Piece.TAKE_SNAPSHOT:
                images.require_import(self.dest)  # before anything is made in vain
                volumes.snapshot_once(
                    self.source, volume_id, name=self.name, key=self.key, mark=marks.COPY
                )
            case Piece.MAKE_STAGING:
                wanted = {"name": self.name, "snapshot_id": seen.snapshot.id}
                volumes.create_once(self.source, wanted, key=self.key, mark=marks.COPY)
            case Piece.UPLOAD:
                self._upload(seen.staging.id)
            case Piece.REGISTER:
                self._import(self._register(volume_id, seen.source_image.id))
            case Piece.IMPORT:
                self._import(self.dest.get("image", f"/images/{seen.dest_image.id}"))
            case Piece.MAKE_VOLUME:
                self._make_volume(seen.dest_image.id)

    def _upload(self, staging_id: str) -> None:
        path = f"/volumes/{staging_id}"
        staging = self.source.get("block_storage", path)["volume"]
        # Before, because Cinder changes no metadata while it uploads.
        count = {UPLOADS: str(_uploads(staging) + 1)}
        self.source.post("block_storage", f"{path}/metadata", {"metadata": count})
        upload = {
            "image_name": self.name,
            "disk_format": self.disk_format,
            "container_format": "bare",
            "visibility": "private",
        }
        self.source.post("block_storage", f"{path}/action", {"os-volume_upload_image": upload})

    def _register(self, volume_id: str, source_image_id: str) -> Json:
        volume = self.source.get("block_storage", f"/volumes/{volume_id}")["volume"]
        properties = {
            images.ORIGIN: source_image_id,
            images.FOR_KEY: self.key,
            SIZE_GIB: str(volume["size"]),
            VOLUME_NAME: volume.get("name") or self.name,
        }
        return marks.once(
            lambda: marks.oldest(self._images(self.dest)),
            lambda: images.register(
                self.dest, name=self.name, disk_format=self.disk_format, properties=properties
            ),
            lambda made: images.delete(self.dest, made["id"]),
        )

    def _import(self, image: Json) -> None:
        images.start_import(
            self.dest, image["id"], origin_id=image[images.ORIGIN], region=self.source_region
        )

    def _make_volume(self, image_id: str) -> None:
        image = self.dest.get("image", f"/images/{image_id}")
        wanted = {
            "name": image[VOLUME_NAME],
            "size": int(image[SIZE_GIB]),
            "imageRef": image_id,
            "metadata": {marks.BYTES: str(image["size"])},
        }
        volumes.create_once(self.dest, wanted, key=self.key)

    # What can go.

    def _tidy(self, seen: Seen) -> list[str]:
        """Begin to delete what has served; says what would not go."""
        remove: dict[str, Callable[[str], None]] = {
            "snapshot": lambda one: volumes.delete_snapshot(self.source, one),
            "staging": lambda one: volumes.delete(self.source, one),
            "source_image": lambda one: images.delete(self.source, one),
            "dest_image": lambda one: images.delete(self.dest, one),
        }
        left = []
        for name in spent(seen):
            try:
                remove[name](getattr(seen, name).id)
            except CloudError as error:  # the copy does not hang on it; the next call tries again
                left.append(str(error))
        return left


_DELETE: dict[str, Callable[[RegionApi, str], None]] = {
    "image": images.delete,
    "volume": volumes.delete,
    "snapshot": volumes.delete_snapshot,
}


def _discard(api: RegionApi, what: str, bodies: list[Json]) -> list[str]:
    """Begin to delete each; what was refused, in words."""
    refused = []
    for body in bodies:
        if body["status"] == STUCK:
            refused.append(f"{what} {body['id']} is {STUCK}: an administrator must reset its state")
        elif what not in _DELETE:  # some back ends refuse while a volume made from it is there
            refused.append(f"{what} {body['id']}")
        else:
            try:
                _DELETE[what](api, body["id"])
            except Conflict as error:
                refused.append(str(error))
    return refused


def _uploads(staging: Json) -> int:
    return int((staging.get("metadata") or {}).get(UPLOADS, 0))


def _storage_link(api: RegionApi, what: str, body: Json | None) -> Link:
    """A volume or snapshot as a link of the chain."""
    if body is None:
        return Link()
    status = body["status"]
    if status.startswith("error"):
        why = volumes.reason(api, body["id"]) or "Cinder gave no reason"
        return Link(Phase.FAILED, body["id"], f"{what} {body['id']} is {status}: {why}")
    phases = {"available": Phase.READY, "in-use": Phase.READY, "deleting": Phase.LEAVING}
    sent = (body.get("metadata") or {}).get(marks.BYTES)
    return Link(
        phases.get(status, Phase.WAITING), body["id"], size_bytes=int(sent) if sent else None
    )


def _report(key: str, piece: Piece, seen: Seen, left: list[str]) -> VolumeCopy:
    known = (seen.volume, seen.dest_image, seen.source_image)
    total = next((link.size_bytes for link in known if link.size_bytes is not None), None)
    has_arrived = seen.dest_image.phase is Phase.READY or seen.volume.is_there
    return VolumeCopy(
        key=key,
        state=_STATES.get(piece, JobState.RUNNING),
        bytes_done=(total or 0) if has_arrived else 0,
        bytes_total=total,
        volume_id=seen.volume.id or None,
        detail=_detail(piece, seen, left),
    )


def _detail(piece: Piece, seen: Seen, left: list[str]) -> str:
    if seen.is_abandoned:
        return "abandoned, and not all of it removed yet"
    if piece is Piece.FAIL:
        return str(getattr(seen, seen.furthest).detail)
    words = f"wait for {_WORDS[seen.furthest]}" if piece is Piece.WAIT else str(piece)
    return words + (f"; not removed yet: {'; '.join(left)}" if left else "")
