"""What the four roles may do. Everybody sees the pools they are members of, and nothing else.

The groups belong to the product: `ensure_roles` gives them exactly these permissions after every
migrate. Whoever needs another mixture makes a group of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.models import Group, Permission
from django.db.models import Q

APPROVE = "migration.approve_transition"
OPERATE = "migration.operate_transition"
VIEW_NAMES = "desktops.view_names"
ERASE = "desktops.erase_person"
VIEW_LOOKS = "desktops.view_look"

# Approving is somebody's answer to a proposal, so no other role includes it, not even being a
# superuser (see User.has_perm).
NEVER_IMPLIED = frozenset({APPROVE})

# Names, and who looked at whom, are no part of looking at the fleet.
VIEW = Q(codename__startswith="view_") & ~Q(
    codename__in=("view_names", "view_personname", "view_look")
)
OF_THE_PRODUCT = Q(content_type__app_label__in=("desktops", "forecasting", "migration"))


def _is(permission: str) -> Q:
    app_label, codename = permission.split(".")
    return Q(content_type__app_label=app_label, codename=codename)


_SEES = OF_THE_PRODUCT & VIEW
# What is configured by hand; everything else is written by services alone.
_CONFIGURES = Q(
    content_type__app_label="desktops",
    content_type__model__in=(
        "region",
        "site",
        "network",
        "flavor",
        "flavorprice",
        "regionlink",
        "roundtrip",
        "pool",
        "desktopuser",
    ),
) & (Q(codename__startswith="add_") | Q(codename__startswith="change_"))
# Trips and closures are known to those who operate a pool before anybody else.
_ANNOUNCES = _is("desktops.add_notice") | _is("desktops.change_notice")
_MANAGES_ACCOUNTS = Q(
    content_type__app_label="webapp",
    content_type__model="user",
    codename__in=("view_user", "add_user", "change_user"),
)

ROLES: Mapping[str, Q] = {
    "viewer": _SEES,
    "operator": _SEES | _is(OPERATE) | _ANNOUNCES,
    "approver": _SEES | _is(OPERATE) | _is(APPROVE) | _ANNOUNCES,
    "admin": _SEES
    | _is(OPERATE)
    | _is(VIEW_NAMES)
    | _is(ERASE)
    | _is(VIEW_LOOKS)
    | _ANNOUNCES
    | _CONFIGURES
    | _MANAGES_ACCOUNTS,
}


def ensure_roles(**kwargs: Any) -> None:
    """Give each role's group exactly its permissions; doing it again changes nothing."""
    for name, allowed in ROLES.items():
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.set(Permission.objects.filter(allowed))
