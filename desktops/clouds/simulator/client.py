"""HTTP client of the simulated cloud's server, shared by driver, gateway and admin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx

from desktops.clouds.simulator.errors import EXCEPTIONS
from desktops.core.cloud import CloudError, CloudUnavailable


class Client:
    """Calls operations by name; raises the cloud protocol's exceptions.

    Nothing is tried again here: a caller knows whether the command is safe to repeat.
    """

    def __init__(self, *, url: str, token: str, timeout_s: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._connect()

    def call(self, operation: str, /, **arguments: Any) -> Any:
        return self.send("POST", operation, arguments)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = self._session().request(method, f"/v1/{path}", json=body)
        except httpx.HTTPError as error:
            # Not the URL's secrets, which are in headers, nor its query: just what failed.
            raise CloudUnavailable(f"{path}: {error or type(error).__name__}") from error
        try:
            answer = response.json()
            if response.is_success:
                return answer["result"]
            code, message = answer["error"]["code"], answer["error"]["message"]
        except (ValueError, KeyError, TypeError):
            raise CloudUnavailable(
                f"{path}: HTTP {response.status_code} from something else than a simulated cloud"
            ) from None
        raise EXCEPTIONS.get(code, CloudError)(message)

    def close(self) -> None:
        self._http.close()

    def _connect(self) -> None:
        self._pid = os.getpid()
        self._http = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=self._timeout_s,
            # Loopback: a proxy named in the environment has no business here.
            trust_env=False,
        )

    def _session(self) -> httpx.Client:
        # A worker process forked since must not share its parent's connections.
        if self._pid != os.getpid():
            self._connect()
        return self._http
