"""Images, and their import from another region by Glance itself (`glance-download`).

The import is asynchronous, and needs one Keystone for both regions.
One that fails leaves the image `queued`, as if nothing had been sent: only its task says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from desktops.clouds.openstack.api import RegionApi
from desktops.clouds.openstack.chain import Link, Phase
from desktops.core.cloud import CloudError, Conflict, Job, JobState, NotFound, Unsupported

Json = dict[str, Any]

METHOD = "glance-download"
# Properties of an image that was imported: from which one, and on whose behalf.
ORIGIN, FOR_KEY = "foredesk_origin", "foredesk_key"


def find(api: RegionApi, image: str) -> Json:
    """The image with this id or, when there is just one, with this name."""
    try:
        return api.get("image", f"/images/{quote(image, safe='')}")
    except NotFound:
        found = list(_called(api, image, status="active"))
    if not found:
        raise NotFound(f"No active image {image!r}.")
    if len(found) > 1:
        ids = ", ".join(sorted(one["id"] for one in found))
        raise CloudError(f"{len(found)} images are called {image!r}: name one by its id ({ids}).")
    return found[0]


def named(api: RegionApi, name: str) -> Iterator[Json]:
    """The project's own images with this name (an administrator would see everybody's)."""
    return _called(api, name, owner=api.project_id)


def _called(api: RegionApi, name: str, **wanted: str) -> Iterator[Json]:
    # Without its operator, Glance takes what stands before a colon for one.
    return api.pages("image", "/images", "images", name=f"eq:{name}", **wanted)


def register(api: RegionApi, *, name: str, disk_format: str, properties: dict[str, str]) -> Json:
    """Create an image without any data, to import into."""
    body = {
        "name": name,
        "disk_format": disk_format,
        "container_format": "bare",
        "visibility": "private",
        **properties,
    }
    return api.post("image", "/images", body)


def delete(api: RegionApi, image_id: str) -> None:
    """Deleting what is gone succeeds."""
    try:
        api.delete("image", f"/images/{image_id}")
    except NotFound:
        return


def require_import(api: RegionApi) -> None:
    """Raise Unsupported where Glance may not fetch images from another region."""
    methods = api.get("image", "/info/import").get("import-methods", {}).get("value", [])
    if METHOD not in methods:
        raise Unsupported(
            f"The destination's Glance does not import from other regions: add {METHOD} to "
            f"enabled_import_methods (it has {', '.join(methods) or 'none'})."
        )


def start_import(api: RegionApi, image_id: str, *, origin_id: str, region: str) -> None:
    """Have Glance fetch `origin_id` from another region's Glance."""
    method = {
        "name": METHOD,
        "glance_image_id": origin_id,
        "glance_region": region,
        "glance_service_interface": "public",
    }
    api.post("image", f"/images/{image_id}/import", {"method": method})


def imported(api: RegionApi, image: Json) -> Link:
    """How far an image is that was registered for an import."""
    status, size = image["status"], image.get("size")
    if status == "active":
        return Link(Phase.READY, image["id"], size_bytes=size)
    if status in ("killed", "deactivated"):
        return Link(Phase.FAILED, image["id"], detail=f"image {image['id']} is {status}")
    if status in ("deleted", "pending_delete"):
        return Link(Phase.LEAVING, image["id"])
    if status != "queued":
        return Link(Phase.WAITING, image["id"])
    return _queued(api, image)


def _queued(api: RegionApi, image: Json) -> Link:
    tasks = api.get("image", f"/images/{image['id']}/tasks")["tasks"]
    if not tasks:
        return Link(Phase.EMPTY, image["id"])
    latest = max(tasks, key=lambda task: (task["created_at"], task["id"]))
    if latest["status"] != "failure":
        return Link(Phase.WAITING, image["id"])
    reason = (latest.get("message") or "").strip() or "no reason given"
    return Link(Phase.FAILED, image["id"], detail=f"import into {image['id']} failed: {reason}")


def copy(source: RegionApi, dest: RegionApi, image: str, *, source_region: str, key: str) -> Job:
    """Start or observe the copy of an image into another region.

    The copy of one image is one thing whoever asks: an equal image under the same name is the
    copy, and one on its way is waited for. A failed attempt stays failed for its own key and
    gives way to the next.
    """
    origin = find(source, image)
    if origin["status"] != "active":
        raise Conflict(f"Image {image!r} is {origin['status']}, not active.")
    for found in _called(dest, origin["name"]):
        if _is_equal(found, origin):
            return Job(key, JobState.DONE, f"image {found['id']}")
    for found in named(dest, origin["name"]):
        if found.get(ORIGIN) == origin["id"]:
            job = _drive(dest, found, origin, source_region=source_region, key=key)
            if job:
                return job
    require_import(dest)
    made = register(
        dest,
        name=origin["name"],
        disk_format=origin["disk_format"],
        properties={ORIGIN: origin["id"], FOR_KEY: key},
    )
    start_import(dest, made["id"], origin_id=origin["id"], region=source_region)
    return Job(key, JobState.RUNNING, f"importing into image {made['id']}")


def _is_equal(one: Json, other: Json) -> bool:
    return (
        one["status"] == "active"
        and bool(one.get("os_hash_value"))
        and one["os_hash_value"] == other.get("os_hash_value")
    )


def _drive(
    dest: RegionApi, copy: Json, origin: Json, *, source_region: str, key: str
) -> Job | None:
    """What became of an import begun earlier; None when it was cleared away."""
    link = imported(dest, copy)
    match link.phase:
        case Phase.READY:
            return Job(key, JobState.DONE, f"image {link.id}")
        case Phase.EMPTY:
            start_import(dest, link.id, origin_id=origin["id"], region=source_region)
        case Phase.FAILED if copy.get(FOR_KEY) == key:
            return Job(key, JobState.FAILED, link.detail)
        case Phase.FAILED:
            delete(dest, link.id)
            return None
    return Job(key, JobState.RUNNING, f"importing into image {link.id}")
