"""Cinder and Glance of one region as far as a copy needs them, in memory, behind `RegionApi`.

Whatever is asynchronous there is here as well: a resource comes into its next status when it
has been looked at a few times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from desktops.clouds.openstack.api import RegionApi
from desktops.core.cloud import Conflict, NotFound

Json = dict[str, Any]


class Died(Exception):
    """The worker's process ended here."""


class Wire:
    """Counts the requests of a worker, which dies before or after one of them."""

    def __init__(self) -> None:
        self.sent = 0
        self.dies_before: int | None = None
        self.dies_after: int | None = None

    def carry(self, request: Callable[[], Any]) -> Any:
        self.sent += 1
        if self.sent == self.dies_before:
            raise Died
        answer = request()
        if self.sent == self.dies_after:
            raise Died
        return answer


class Region(RegionApi):
    """One region; `regions` lets its Glance fetch from the others.

    upload_fails, import_fails : how many are still to fail
    """

    _numbers = count(1)

    def __init__(self, name: str, wire: Wire, regions: dict[str, Region]) -> None:
        super().__init__("test", name)
        self.name, self.wire, self.regions = name, wire, regions
        regions[name] = self
        self.volumes: dict[str, Json] = {}
        self.snapshots: dict[str, Json] = {}
        self.images: dict[str, Json] = {}
        self.tasks: dict[str, list[Json]] = {}
        self.upload_fails = 0
        self.import_fails = 0
        self.imports = True
        self._later: list[tuple[int, Callable[[], None]]] = []

    @property
    def project_id(self) -> str:
        return "project"

    # RegionApi's requests.

    def get(self, service: str, path: str, **params: Any) -> Json:
        return self.wire.carry(lambda: self._get(service, path))

    def post(self, service: str, path: str, body: Json) -> Json:
        return self.wire.carry(lambda: self._post(service, path, body))

    def delete(self, service: str, path: str) -> None:
        self.wire.carry(lambda: self._delete(path))

    def pages(self, service: str, path: str, key: str, **params: Any) -> Iterator[Json]:
        yield from self.wire.carry(lambda: self._list(path, params))

    # What they do.

    def _list(self, path: str, params: Json) -> list[Json]:
        self._pass_time()
        if path == "/messages":
            return []
        found = self._all(path.split("/")[1])
        if "metadata" in params:
            wanted = json.loads(params["metadata"])
            return [one for one in found if wanted.items() <= one["metadata"].items()]
        name = params.get("name", "").removeprefix("eq:")
        return [one for one in found if one["name"] == name]

    def _get(self, service: str, path: str) -> Json:
        self._pass_time()
        if path == "/info/import":
            return {"import-methods": {"value": ["glance-download"] if self.imports else []}}
        if path.endswith("/tasks"):
            return {"tasks": self.tasks.get(path.split("/")[2], [])}
        body = self._one(path)
        return body if service == "image" else {path.split("/")[1][:-1]: body}

    def _post(self, service: str, path: str, body: Json) -> Json:
        parts = path.strip("/").split("/")
        if len(parts) == 1:
            return self._create(parts[0], body)
        one = self._one(f"/{parts[0]}/{parts[1]}")
        match parts[2]:
            case "metadata":
                if one["status"] == "uploading":
                    raise Conflict("no metadata while uploading")
                one["metadata"] |= body["metadata"]
            case "action":
                self._upload(one, body["os-volume_upload_image"])
            case "import":
                self._import(one, body["method"])
        return {}

    def _create(self, kind: str, body: Json) -> Json:
        if kind == "images":
            return self._add("images", {**body, "status": "queued", "size": None})
        wanted = body[kind[:-1]]
        if kind == "snapshots":
            self._one(f"/volumes/{wanted['volume_id']}")
            made = self._add(kind, {"size": 1, **wanted, "status": "creating"})
        else:
            if "imageRef" in wanted:
                assert self._one(f"/images/{wanted['imageRef']}")["status"] == "active"
            if "snapshot_id" in wanted:
                assert self._one(f"/snapshots/{wanted['snapshot_id']}")["status"] == "available"
            made = self._add(kind, {"size": 1, **wanted, "status": "creating"})
        self._soon(lambda: made.update(status="available"))
        return {kind[:-1]: dict(made)}

    def _upload(self, volume: Json, wanted: Json) -> None:
        if volume["status"] != "available":
            raise Conflict("status must be available")
        volume["status"] = "uploading"
        image = self._add("images", {"name": wanted["image_name"], "status": "queued"})

        def end() -> None:
            volume["status"] = "available"
            if self.upload_fails:
                self.upload_fails -= 1
                self.images.pop(image["id"], None)
            elif image["id"] in self.images:
                image.update(status="active", size=4096)

        self._soon(end)

    def _import(self, image: Json, method: Json) -> None:
        task = {"id": f"task-{next(self._numbers)}", "status": "processing", "message": ""}
        self.tasks.setdefault(image["id"], []).append(task | {"created_at": f"{self.wire.sent:09}"})
        task = self.tasks[image["id"]][-1]
        image["status"] = "importing"
        origin = self.regions[method["glance_region"]].images.get(method["glance_image_id"])

        def end() -> None:
            if self.import_fails or origin is None:
                self.import_fails = max(0, self.import_fails - 1)
                image["status"] = "queued"
                task.update(status="failure", message="the other Glance said no")
            else:
                image.update(status="active", size=origin["size"])
                task["status"] = "success"

        self._soon(end)

    def _delete(self, path: str) -> None:
        kind, resource_id = path.strip("/").split("/")
        one = self._one(path)
        if kind == "images":
            del self.images[resource_id]
            return
        if one["status"] not in ("available", "error"):
            raise Conflict(f"status must be available, not {one['status']}")
        if kind == "snapshots":
            made_of_it = [v for v in self.volumes.values() if v.get("snapshot_id") == resource_id]
            assert not made_of_it, "a snapshot goes after what was made of it"
        one["status"] = "deleting"
        self._soon(lambda: self._table(kind).pop(resource_id, None))

    # The store.

    def _table(self, kind: str) -> dict[str, Json]:
        table: dict[str, Json] = getattr(self, kind)
        return table

    def _all(self, kind: str) -> list[Json]:
        return [dict(one) for one in self._table(kind).values()]

    def _one(self, path: str) -> Json:
        kind, resource_id = path.strip("/").split("/")[:2]
        try:
            return self._table(kind)[resource_id]
        except KeyError:
            raise NotFound(path) from None

    def _add(self, kind: str, body: Json) -> Json:
        number = next(self._numbers)
        made = {"metadata": {}, **body, "id": f"{kind}-{number}", "created_at": f"{number:09}"}
        self._table(kind)[made["id"]] = made
        return made

    def _soon(self, change: Callable[[], object]) -> None:
        self._later.append((3, lambda: change() and None))

    def _pass_time(self) -> None:
        due = [change for looks, change in self._later if looks <= 1]
        self._later = [(looks - 1, change) for looks, change in self._later if looks > 1]
        for change in due:
            change()
