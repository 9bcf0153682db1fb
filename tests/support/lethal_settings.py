"""The product's settings, with drivers that may kill the worker which uses them; see `lethal`."""

from __future__ import annotations

from webapp.settings import *  # noqa: F403
from webapp.settings import CLOUDS, GATEWAYS

CLOUDS["simulated"]["driver"] = "tests.support.lethal_cloud"
GATEWAYS["simulator"]["driver"] = "tests.support.lethal_gateway"
