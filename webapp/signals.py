"""What happens when somebody signs in."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest

from webapp.accounts import spend_one_time_password
from webapp.models import User


@receiver(user_logged_in)
def on_sign_in(sender: Any, request: HttpRequest, user: User, **kwargs: Any) -> None:
    if user.has_one_time_password:
        spend_one_time_password(request=request, user=user)
