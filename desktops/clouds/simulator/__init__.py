"""A cloud with the semantics of Nova, Glance and Cinder, in a process and store of its own.

The engine (`simulation`) runs in its own server process (`python -m desktops.clouds.simulator`);
the product reaches it over HTTP through `connect`, as it would reach a real cloud. Its effects are
committed in its own SQLite file, independently of the product's transactions.

docs/simulated_cloud.md describes its endpoints, the shape of a world, and its faults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from desktops.core.cloud import Cloud


def connect(name: str, *, url: str, token: str, timeout_s: float = 10.0) -> Cloud:
    """The driver of the simulated cloud whose server answers at `url`."""
    # Imported here because the server process shares this package and needs no HTTP client.
    from desktops.clouds.simulator.driver import SimulatedCloud

    return SimulatedCloud(name, url=url, token=token, timeout_s=timeout_s)
