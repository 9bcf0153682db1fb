"""What a viewer may see of forecasts. Profiles show only once their generation is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from django.db.models import OuterRef, Q, QuerySet, Subquery

from desktops.models import Dataset, Desktop, DesktopUser
from desktops.selectors import datasets_for, pools_for
from forecasting.core import profiles as core
from forecasting.core.arrays import FloatArray
from forecasting.models import Generation, ResourceDemandProfile

if TYPE_CHECKING:
    from desktops.selectors import Viewer


def generations_for(viewer: Viewer) -> QuerySet[Generation]:
    return Generation.objects.filter(dataset__in=datasets_for(viewer)).select_related("dataset")


def latest_generation(dataset: Dataset) -> Generation | None:
    """The newest complete forecast of a data set; None before the first."""
    return Generation.objects.filter(dataset=dataset, state=Generation.State.COMPLETE).first()


def newest_attempt(dataset: Dataset) -> Generation | None:
    """The newest forecast of a data set, complete or not."""
    return Generation.objects.filter(dataset=dataset).order_by("-started_at", "-pk").first()


def profiles_for(viewer: Viewer) -> QuerySet[ResourceDemandProfile]:
    """The profiles of each data set's latest complete generation."""
    latest = Generation.objects.filter(
        dataset=OuterRef("generation__dataset"), state=Generation.State.COMPLETE
    ).order_by("-as_of", "-pk")
    return ResourceDemandProfile.objects.filter(
        pool__in=pools_for(viewer), generation=Subquery(latest.values("pk")[:1])
    ).select_related("generation__dataset", "desktop_user", "desktop")


def profile_of(
    viewer: Viewer, *, person: DesktopUser | None, desktop: Desktop | None
) -> ResourceDemandProfile | None:
    """The current profile of a person, or of a machine without one."""
    if person is None and desktop is None:
        return None
    subject = Q(desktop_user=person) if person else Q(desktop=desktop)
    return profiles_for(viewer).filter(subject).first()


def values_of(row: ResourceDemandProfile) -> core.ResourceDemandProfile:
    """A stored profile as the core knows it."""
    return core.ResourceDemandProfile(
        starts_at=row.starts_at,
        step=core.HOUR,
        levels=tuple(row.levels),
        p_active=None if row.p_active is None else np.array(row.p_active, dtype=float),
        location={place: np.array(chance) for place, chance in row.location.items()},
        engine=row.engine,
        enough_history=not row.is_from_pool,
        history_hours=row.history_hours,
        **{name: _quantiles(row, name) for name in core.RESOURCES},
    )


def _quantiles(row: ResourceDemandProfile, name: str) -> FloatArray:
    """Shape (hours, levels), NaN where nothing is known."""
    stored = getattr(row, name)
    if stored is None:
        return np.full((core.HORIZON_HOURS, len(row.levels)), np.nan)
    return np.array(stored, dtype=float)


def likely_places(
    row: ResourceDemandProfile, *, hours: slice, least: float = 0.01
) -> list[tuple[str, float]]:
    """Places with their mean probability over some hours of the profile, the likeliest first."""
    means = {place: float(np.mean(chance[hours])) for place, chance in row.location.items()}
    ranked = sorted(means.items(), key=lambda item: -item[1])
    return [(place, chance) for place, chance in ranked if chance >= least]
