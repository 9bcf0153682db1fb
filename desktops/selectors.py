"""What a viewer may see of desktops. Every page and endpoint starts its queries here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db.models import Count, F, Max, Prefetch, Q, QuerySet

from desktops.models import (
    Activity,
    Dataset,
    Desktop,
    DesktopUser,
    Erasure,
    Event,
    FlavorPrice,
    PersonName,
    Pool,
    Region,
    Site,
)

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser, AnonymousUser

    Viewer = AbstractUser | AnonymousUser

OPERATE = "migration.operate_transition"
ERASE = "desktops.erase_person"

# "Now" for where somebody is: an older observation says nothing about the present.
PRESENCE = timedelta(hours=24)


def is_fleet_admin(viewer: Viewer) -> bool:
    """Whoever may configure pools sees every pool; everybody else those they are members of."""
    return viewer.has_perm("desktops.change_pool")


def may_see_names(viewer: Viewer) -> bool:
    return viewer.has_perm("desktops.view_names")


def may_operate(viewer: Viewer) -> bool:
    """By name: the permission is declared further up the house."""
    return viewer.has_perm(OPERATE)


def pools_for(viewer: Viewer) -> QuerySet[Pool]:
    """A role says what somebody may do, membership says where; without a role there is nothing."""
    if not (viewer.is_authenticated and viewer.has_perm("desktops.view_pool")):
        return Pool.objects.none()
    if is_fleet_admin(viewer):
        return Pool.objects.all()
    return Pool.objects.filter(members=viewer.pk)


def datasets_for(viewer: Viewer) -> QuerySet[Dataset]:
    return Dataset.objects.filter(pk__in=pools_for(viewer).values("dataset"))


def people_for(viewer: Viewer) -> QuerySet[DesktopUser]:
    return DesktopUser.objects.filter(pool__in=pools_for(viewer))


def people_listed(viewer: Viewer, *, search: str = "") -> QuerySet[DesktopUser]:
    """People with what a list shows of them. Names are searched only for those who may see them."""
    people = people_for(viewer).select_related(
        "dataset", "pool", "home_site", "desktop__region", "desktop__flavor"
    )
    sees_names = may_see_names(viewer)
    if sees_names:
        people = people.select_related("named")
    if not search:
        return people
    matches = Q(pseudonym__icontains=search) | Q(desktop__key__icontains=search)
    if sees_names:
        matches |= Q(named__name__icontains=search)
    return people.filter(matches)


def name_of(person: DesktopUser) -> str:
    """The name behind a pseudonym, "" where none is known; only for who may see names."""
    named: PersonName | None = getattr(person, "named", None)
    return named.name if named else ""


def desktops_for(viewer: Viewer) -> QuerySet[Desktop]:
    return Desktop.objects.filter(pool__in=pools_for(viewer))


def desktops_listed(viewer: Viewer, *, search: str = "") -> QuerySet[Desktop]:
    """Desktops with what a list shows of them."""
    desktops = desktops_for(viewer).select_related(
        "dataset", "pool", "region", "flavor", "desktop_user"
    )
    if not search:
        return desktops
    return desktops.filter(Q(key__icontains=search) | Q(label__icontains=search))


def regions_for(viewer: Viewer) -> QuerySet[Region]:
    """Geography is no secret to anybody with a role."""
    return (
        Region.objects.all() if viewer.has_perm("desktops.view_region") else Region.objects.none()
    )


def sites_for(viewer: Viewer) -> QuerySet[Site]:
    return Site.objects.all() if viewer.has_perm("desktops.view_site") else Site.objects.none()


def events_for(viewer: Viewer, *, after: int = 0) -> QuerySet[Event]:
    """Events the viewer may see, oldest first, from the one after `after`."""
    if not viewer.is_authenticated:
        return Event.objects.none()
    return Event.objects.filter(
        Q(pool__isnull=True) | Q(pool__in=pools_for(viewer)), seq__gt=after
    ).order_by("seq")


def last_seq() -> int:
    """The newest event's number; a page that shows the state as of it misses nothing after it."""
    return Event.objects.aggregate(last=Max("seq"))["last"] or 0


def desktops_by_region(viewer: Viewer, *, dataset: Dataset) -> QuerySet[Desktop, dict[str, object]]:
    """Rows of region (name, position), running and total, largest first."""
    return (
        desktops_for(viewer)
        .filter(dataset=dataset)
        .values(
            "region",
            name=F("region__label"),
            latitude=F("region__latitude"),
            longitude=F("region__longitude"),
        )
        .annotate(total=Count("pk"), running=Count("pk", filter=Q(state=Desktop.State.RUNNING)))
        .order_by(F("total").desc(), F("name").asc(nulls_last=True))
    )


def people_by_site(viewer: Viewer, *, dataset: Dataset, at: datetime) -> list[dict[str, Any]]:
    """Where people were last seen in the day before `at`: site and number, most people first.

    Sites with few people are one row without a place (see `enough_people`).
    """
    newest = (
        Activity.objects.filter(
            dataset=dataset,
            desktop_user__pool__in=pools_for(viewer),
            site__isnull=False,
            hour__gt=at - PRESENCE,
            hour__lte=at,
        )
        .order_by("desktop_user_id", "-hour")
        .distinct("desktop_user_id")
    )
    counts = Counter(newest.values_list("site", flat=True))
    shown, remainder = enough_people(counts, k=settings.K_ANONYMITY)
    sites = Site.objects.in_bulk(shown)
    rows: list[dict[str, Any]] = [
        {
            "code": sites[pk].code,
            "name": sites[pk].label,
            "latitude": sites[pk].latitude,
            "longitude": sites[pk].longitude,
            "people": people,
        }
        for pk, people in shown.items()
    ]
    if len(shown) < len(counts):
        rows.append(
            {
                "code": "",
                "name": "Other sites",
                "latitude": None,
                "longitude": None,
                "people": remainder,
            }
        )
    return rows


def enough_people(counts: Mapping[int, int], *, k: int) -> tuple[dict[int, int], int | None]:
    """The sites that may be shown with their numbers, most people first, and how many people are
    at the others together; None when that is fewer than k, and nothing else may be said of it.

    The others are at least two sites and at least k people, if need be with the smallest site
    that has enough of its own: otherwise one number could be had by subtraction from a total.
    """
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown = {site: people for site, people in ranked if people >= k}
    hidden = [people for _, people in ranked if people < k]
    while hidden and shown and (sum(hidden) < k or len(hidden) < 2):
        hidden.append(shown.popitem()[1])
    return shown, sum(hidden) if sum(hidden) >= k else None


def is_being_unplaced(person: DesktopUser) -> bool:
    """Whether raw samples may still hold places of somebody who opted out of that."""
    return Erasure.objects.filter(
        what=Erasure.What.PLACES, person_id=person.pk, finished_at=None
    ).exists()


def newest_site(person: DesktopUser, *, at: datetime) -> Activity | None:
    """The newest observation of where somebody was, at or before `at`."""
    return (
        Activity.objects.filter(desktop_user=person, site__isnull=False, hour__lte=at)
        .select_related("site")
        .order_by("-hour")
        .first()
    )


def activity_of(
    *, person: DesktopUser | None, desktop: Desktop | None, since: datetime, until: datetime
) -> QuerySet[Activity]:
    """What was observed of a person, or of a machine without one, hour by hour."""
    subject = Q(desktop_user=person) if person else Q(desktop=desktop)
    return Activity.objects.filter(subject, hour__gte=since, hour__lt=until).order_by("hour")


def regions_priced(viewer: Viewer) -> QuerySet[Region]:
    """Regions with the prices of their flavors."""
    return regions_for(viewer).prefetch_related(
        Prefetch("prices", FlavorPrice.objects.select_related("flavor"))
    )
