"""Names of configured clouds to drivers, imported only when first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from desktops.core.cloud import Cloud

if TYPE_CHECKING:
    from desktops.clouds.simulator.admin import SimulatorAdmin


@cache
def get_cloud(name: str) -> Cloud:
    """The driver of the cloud that `settings.CLOUDS` calls `name`.

    A driver module has `connect(name, **options) -> Cloud`.
    """
    try:
        configured = settings.CLOUDS[name]
    except KeyError:
        raise ImproperlyConfigured(f"No cloud {name!r} in CLOUDS.") from None
    connect = import_module(configured["driver"]).connect
    return connect(name, **configured.get("options", {}))


def get_simulator_admin(name: str) -> SimulatorAdmin:
    """What only a demo's seeder asks of the simulated cloud that CLOUDS calls `name`."""
    from desktops.clouds.simulator.admin import SimulatorAdmin

    options = settings.CLOUDS[name]["options"]
    return SimulatorAdmin(options["url"], options["token"])
