"""What a viewer may see of announcements. Pages and endpoints start their queries here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from django.db.models import Q, QuerySet

from desktops.models import Desktop, DesktopUser, Notice
from desktops.selectors import datasets_for, people_for, pools_for

if TYPE_CHECKING:
    from desktops.selectors import Viewer

AHEAD = timedelta(days=30)


def notices_for(viewer: Viewer) -> QuerySet[Notice]:
    """Those about people and pools the viewer may see, and about their data sets as a whole."""
    return Notice.objects.filter(
        Q(desktop_user__in=people_for(viewer))
        | Q(desktop_user=None, pool__in=pools_for(viewer))
        | Q(desktop_user=None, pool=None, dataset__in=datasets_for(viewer))
    )


def notices_about(
    viewer: Viewer, *, subject: DesktopUser | Desktop, at: datetime, until: datetime | None = None
) -> QuerySet[Notice]:
    """What stands and concerns a person, or a desktop without one, now or until then.

    until : the month ahead, if not given

    Their own, their pool's and their data set's; those about a site, when it is their home.
    """
    theirs = Q(desktop_user=None, dataset=subject.dataset_id) & (
        Q(pool=None) | Q(pool=subject.pool_id)
    )
    if isinstance(subject, DesktopUser):
        about = Q(desktop_user=subject) | theirs & (Q(site=None) | Q(site=subject.home_site_id))
    else:
        about = theirs & Q(site=None)
    return (
        notices_for(viewer)
        .filter(about, withdrawn_at=None, ends_at__gt=at, starts_at__lt=until or at + AHEAD)
        .select_related("site", "pool")
    )
