"""What forecasts keep of a person."""

from __future__ import annotations

from collections.abc import Iterator

from desktops.keeping import Keeper, Section
from desktops.models import Desktop, DesktopUser
from forecasting.core.profiles import RESOURCES
from forecasting.models import ResourceDemandProfile


def _sections(person: DesktopUser, desktop: Desktop | None) -> Iterator[Section]:
    yield Section(
        "profiles",
        "What they were expected to need and where they were expected, by hour from starts_at:"
        " quantiles (levels) of demand in cores, bytes and bytes per second; p_active and location"
        " are probabilities.",
        ResourceDemandProfile.objects.filter(desktop_user=person)
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
        ),
    )


def _forget(person: DesktopUser, desktop: Desktop | None) -> None:
    ResourceDemandProfile.objects.filter(desktop_user=person).delete()


def _forget_places(person: DesktopUser, desktop: Desktop | None) -> None:
    ResourceDemandProfile.objects.filter(desktop_user=person).update(location={})


KEEPER = Keeper(
    sections=_sections,
    obstacle=lambda desktop: "",
    erase=_forget,
    forget_prediction=_forget,
    forget_places=_forget_places,
)
