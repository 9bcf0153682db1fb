"""Services for accounts."""

from __future__ import annotations

from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.models import Group
from django.http import HttpRequest

from webapp.models import User


def make_administrator(*, username: str, password: str) -> User:
    """An account that may do everything; `password` works for one sign-in."""
    user, _ = User.objects.get_or_create(username=username)
    user.is_active = user.is_staff = user.is_superuser = True
    user.has_one_time_password = True
    user.set_password(password)
    user.save()
    user.groups.set(Group.objects.all())
    return user


def spend_one_time_password(*, request: HttpRequest, user: User) -> None:
    """Make the password that `user` just signed in with useless; this session stays."""
    user.set_unusable_password()
    user.has_one_time_password = False
    user.save(update_fields=["password", "has_one_time_password"])
    update_session_auth_hash(request, user)
