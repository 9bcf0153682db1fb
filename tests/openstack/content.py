"""Bytes to put on a volume, and to find again on its copy."""

from __future__ import annotations

import random
from typing import Any

from desktops.clouds.openstack.api import RegionApi

CONTENT = random.Random(9537938).randbytes(8 << 20)


def upload_image(api: RegionApi, name: str, content: bytes) -> str:
    """A raw image of these bytes; its id."""
    body: dict[str, Any] = {
        "name": name,
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "private",
    }
    image_id = str(api.post("image", "/images", body)["id"])
    answer = api.connection.image.put(
        f"/images/{image_id}/file",
        data=content,
        headers={"Content-Type": "application/octet-stream"},
    )
    assert answer.status_code == 204, answer.text
    return image_id


def first_bytes(api: RegionApi, image_id: str, length: int) -> bytes:
    """The beginning of an image's data; the rest stays where it is."""
    answer = api.connection.image.get(f"/images/{image_id}/file", stream=True)
    assert answer.status_code == 200, answer.status_code
    found = bytearray()
    for chunk in answer.iter_content(1 << 20):
        found += chunk
        if len(found) >= length:
            break
    answer.close()
    return bytes(found[:length])
