"""What a viewer may see of desktops. Every page and endpoint starts its queries here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Q, QuerySet

from desktops.models import Dataset, Desktop, DesktopUser, Event, Pool

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser, AnonymousUser

    Viewer = AbstractUser | AnonymousUser

ADMIN_GROUP = "admin"


def is_fleet_admin(viewer: Viewer) -> bool:
    """Fleet admins see every pool; everybody else the pools they are members of."""
    return viewer.is_active and (
        viewer.is_superuser or viewer.groups.filter(name=ADMIN_GROUP).exists()
    )


def pools_for(viewer: Viewer) -> QuerySet[Pool]:
    if not viewer.is_authenticated:
        return Pool.objects.none()
    if is_fleet_admin(viewer):
        return Pool.objects.all()
    return Pool.objects.filter(members=viewer.pk)


def datasets_for(viewer: Viewer) -> QuerySet[Dataset]:
    return Dataset.objects.filter(pools__in=pools_for(viewer)).distinct()


def people_for(viewer: Viewer) -> QuerySet[DesktopUser]:
    return DesktopUser.objects.filter(pool__in=pools_for(viewer))


def desktops_for(viewer: Viewer) -> QuerySet[Desktop]:
    return Desktop.objects.filter(pool__in=pools_for(viewer))


def events_for(viewer: Viewer, *, after: int = 0) -> QuerySet[Event]:
    """Events the viewer may see, oldest first, from the one after `after`."""
    if not viewer.is_authenticated:
        return Event.objects.none()
    return Event.objects.filter(
        Q(pool__isnull=True) | Q(pool__in=pools_for(viewer)), seq__gt=after
    ).order_by("seq")
