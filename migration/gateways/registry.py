"""Names of configured gateways to drivers, imported only when first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from migration.core.gateway import Gateway


@cache
def get_gateway(name: str) -> Gateway:
    """The driver of the gateway that `settings.GATEWAYS` calls `name`.

    A driver module has `connect(name, **options) -> Gateway`.
    """
    try:
        configured = settings.GATEWAYS[name]
    except KeyError:
        raise ImproperlyConfigured(f"No gateway {name!r} in GATEWAYS.") from None
    module = import_module(configured["driver"])
    gateway: Gateway = module.connect(name, **configured.get("options", {}))
    return gateway
