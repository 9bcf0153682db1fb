"""What forecasts keep of a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from django.db.models import QuerySet

from desktops.keeping import Keeper, Section
from desktops.models import Desktop, DesktopUser
from forecasting.core.profiles import RESOURCES
from forecasting.fields import shortened
from forecasting.models import BacktestExample, ResourceDemandProfile


class _Listed(QuerySet[ResourceDemandProfile]):
    """Rows whose arrays are lists, as an export writes them."""

    def iterator(self, chunk_size: int | None = None) -> Iterator[Any]:
        for row in super().iterator(chunk_size=chunk_size):
            yield {name: _listed(value) for name, value in row.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return shortened(value).tolist() if isinstance(value, np.ndarray) else value


def _sections(person: DesktopUser, desktop: Desktop | None) -> Iterator[Section]:
    yield Section(
        "profiles",
        "What they were expected to need and where they were expected, by hour from starts_at:"
        " quantiles (levels) of demand in cores, bytes and bytes per second; p_active and location"
        " are probabilities.",
        _Listed(ResourceDemandProfile)
        .filter(desktop_user=person)
        .order_by("pk")
        .values(
            "generation__as_of",
            "starts_at",
            "levels",
            *RESOURCES,
            "p_active",
            "location",
            "engine",
            "history_hours",
            "engines",
        ),
    )
    yield Section(
        "backtests",
        "What would have been forecast for them in the past, to be compared with what came: by"
        " resource, quantiles (levels) for every hour from starts_at.",
        BacktestExample.objects.filter(desktop_user=person)
        .order_by("pk")
        .values("run__as_of", "starts_at", "levels", "quantiles"),
    )


def _forget(person: DesktopUser, desktop: Desktop | None) -> None:
    ResourceDemandProfile.objects.filter(desktop_user=person).delete()
    BacktestExample.objects.filter(desktop_user=person).delete()


def _forget_places(person: DesktopUser, desktop: Desktop | None) -> None:
    ResourceDemandProfile.objects.filter(desktop_user=person).update(location={})


KEEPER = Keeper(
    sections=_sections,
    obstacle=lambda desktop: "",
    erase=_forget,
    forget_prediction=_forget,
    forget_places=_forget_places,
)
