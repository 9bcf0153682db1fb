"""Services for accounts."""

from __future__ import annotations

import secrets

from django.contrib.auth import update_session_auth_hash
from django.http import HttpRequest

from webapp.models import User


def issue_one_time_password(*, user: User) -> str:
    """Give `user` a new random password that works for one sign-in, and return it."""
    password = secrets.token_urlsafe(12)
    user.set_password(password)
    user.has_one_time_password = True
    user.save(update_fields=["password", "has_one_time_password"])
    return password


def spend_one_time_password(*, request: HttpRequest, user: User) -> None:
    """Make the password that `user` just signed in with useless; this session stays."""
    user.set_unusable_password()
    user.has_one_time_password = False
    user.save(update_fields=["password", "has_one_time_password"])
    update_session_auth_hash(request, user)
