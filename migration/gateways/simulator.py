"""The session gateway of the simulated cloud's process, with its simulated users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from desktops.clouds.simulator.client import Client
from desktops.clouds.simulator.driver import instant
from desktops.clouds.simulator.errors import StaleFencingToken
from desktops.core.cloud import CloudError, CloudUnavailable
from migration.core.gateway import GatewayError, GatewayUnavailable, Session, StaleToken, Target


class SimulatedGateway:
    sees_sessions = True

    def __init__(self, name: str, *, url: str, token: str, timeout_s: float = 10.0) -> None:
        self.name = name
        self._client = Client(url=url, token=token, timeout_s=timeout_s)

    def close(self) -> None:
        self._client.close()

    def session(self, desktop_key: str) -> Session:
        return self._call("session", desktop_key=desktop_key)

    def hold(self, desktop_key: str, *, token: int) -> Session:
        return self._call("hold", desktop_key=desktop_key, token=token)

    def point(self, desktop_key: str, target: Target, *, token: int) -> Session:
        return self._call(
            "point",
            desktop_key=desktop_key,
            region=target.region,
            server_id=target.server_id,
            token=token,
        )

    def _call(self, operation: str, **arguments: Any) -> Session:
        try:
            return _session(self._client.call(f"gateway/{operation}", **arguments))
        except StaleFencingToken as error:
            raise StaleToken(str(error)) from error
        except CloudUnavailable as error:
            raise GatewayUnavailable(str(error)) from error
        except CloudError as error:
            raise GatewayError(str(error)) from error


def connect(name: str, *, url: str, token: str, timeout_s: float = 10.0) -> SimulatedGateway:
    return SimulatedGateway(name, url=url, token=token, timeout_s=timeout_s)


def _session(seen: Mapping[str, Any]) -> Session:
    since_ms = seen["since_ms"]
    return Session(
        desktop_key=seen["desktop_key"],
        points_to=_target(seen["points_to"]),
        is_held=seen["is_held"],
        connected_on=_target(seen["connected_on"]),
        last_connected_on=_target(seen["last_connected_on"]),
        since=None if since_ms is None else instant(since_ms),
        token=seen["token"],
    )


def _target(seen: Mapping[str, str] | None) -> Target | None:
    return None if seen is None else Target(seen["region"], seen["server_id"])
