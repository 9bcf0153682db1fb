"""One region's services: the only place that sends a request.

Answers are the services' JSON. Whatever fails arrives as one of the protocol's errors, naming
the cloud, the region and the request, never a credential.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from desktops.clouds.openstack import faults
from desktops.core.cloud import CloudError, NotFound

if TYPE_CHECKING:
    from openstack.config.cloud_region import CloudRegion
    from openstack.connection import Connection

Json = dict[str, Any]

PAGE = 1000  # what Nova and Cinder give at most
TIMEOUT_S = 60.0  # of one request, unless clouds.yaml says otherwise

# Nova of Ussuri and Cinder of Train, or newer: 2.85 lets a server forget that it should
# delete its volumes with it.
MICROVERSIONS = {"compute": "2.85", "block_storage": "3.59"}


class RegionApi:
    """The services of one region, connected to when first asked.

    region : None asks for whatever region clouds.yaml names first (for the catalogue)
    """

    def __init__(self, cloud: str | None, region: str | None) -> None:
        self._cloud = cloud
        self._region = region
        self._opened: tuple[int, Connection] | None = None
        self._where = f"OpenStack {cloud or 'default'}" + (f", region {region}" if region else "")

    def get(self, service: str, path: str, **params: Any) -> Json:
        return self._send("GET", service, path, params=params)

    def post(self, service: str, path: str, body: Json) -> Json:
        return self._send("POST", service, path, json=body)

    def put(self, service: str, path: str, body: Json) -> Json:
        return self._send("PUT", service, path, json=body)

    def delete(self, service: str, path: str) -> None:
        self._send("DELETE", service, path)

    def pages(self, service: str, path: str, key: str, **params: Any) -> Iterator[Json]:
        """Every item of a list, page by page; `key` is its name in the answer."""
        params = {"limit": PAGE, **params}
        while True:
            answer = self.get(service, path, **params)
            items = answer[key]
            yield from items
            if not items or not _has_next(answer, key):
                return
            params["marker"] = items[-1]["id"]

    @property
    def project_id(self) -> str:
        session = self.connection.session
        return self._translated("the token", lambda: session.get_project_id()) or ""

    def is_configured(self) -> bool:
        """Whether clouds.yaml knows the region."""
        try:
            return self.connection is not None
        except NotFound:
            return False

    def roles(self) -> frozenset[str]:
        return frozenset(self._access().role_names)

    def compute_regions(self) -> tuple[str, ...]:
        """The regions in whose catalogue entry there is a compute service."""
        found = self._access().service_catalog.get_endpoints_data(service_type="compute")
        return tuple(sorted({one.region_name for some in found.values() for one in some}))

    def _access(self) -> Any:
        session: Any = self.connection.session
        return self._translated("the token", lambda: session.auth.get_access(session))

    def _send(self, method: str, service: str, path: str, **request: Any) -> Json:
        what = f"{method} {service.replace('_', '-')} {path}"
        connection = self.connection

        def send() -> Json:
            from openstack.exceptions import raise_from_response

            answer = getattr(connection, service).request(
                path, method, microversion=MICROVERSIONS.get(service), **request
            )
            raise_from_response(answer)
            content: Json = answer.json() if answer.content else {}
            return content

        answered: Json = self._translated(what, send)
        return answered

    def _translated(self, what: str, call: Any) -> Any:
        """What `call` returns; its failures as the protocol's errors.

        `from None`: the chained error would be printed too, and nobody has looked at what
        the libraries put into theirs.
        """
        try:
            return call()
        except Exception as error:
            if not _is_foreign(error):
                raise
            raise faults.translate(error, where=f"{self._where}: {what}") from None

    @property
    def connection(self) -> Connection:
        """The connection of this process: one inherited through fork() would share sockets."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def _open(self) -> Connection:
        """Read clouds.yaml; nothing is sent yet."""
        from openstack.connection import Connection

        # openstacksdk 4.22 announces the end of its own InfluxDB support on every connect.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            config = self._translated(
                "clouds.yaml", lambda: _configuration(self._cloud, self._region)
            )
            if "@" in (config.config.get("auth") or {}).get("auth_url", ""):
                raise CloudError(f"{self._where}: auth_url may not hold credentials: it is logged.")
            return Connection(config=config)


def _configuration(cloud: str | None, region: str | None) -> CloudRegion:
    from openstack.config import OpenStackConfig

    logging.getLogger("openstack.config").addFilter(_WITHOUT_QUOTES)
    config = OpenStackConfig(app_name="foredesk").get_one(cloud=cloud, region_name=region)
    if config.config.get("api_timeout") is None:
        config.config["api_timeout"] = TIMEOUT_S
    return config


class _WithoutQuotes(logging.Filter):
    """openstacksdk logs a YAML error with the line it is about, which may be the password's."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(_place(arg) for arg in record.args)
        return True


_WITHOUT_QUOTES = _WithoutQuotes()


def _place(arg: object) -> object:
    if not isinstance(arg, Exception):
        return arg
    mark = getattr(arg, "problem_mark", None)
    return type(arg).__name__ + (f" in line {mark.line + 1}" if mark else "")


def _has_next(answer: Json, key: str) -> bool:
    """Nova, Cinder and Neutron say so in `servers_links` and the like, Glance in `next`."""
    links = answer.get(f"{key}_links") or []
    return "next" in answer or any(link.get("rel") == "next" for link in links)


def _is_foreign(error: Exception) -> bool:
    """Raised by the libraries below, not a mistake of ours."""
    import requests
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    # keystoneauth raises a plain Exception where clouds.yaml lacks a password.
    return type(error) is Exception or isinstance(
        error, SDKException | ClientException | requests.RequestException
    )
