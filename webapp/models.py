"""Accounts of the people who use the product (not of the people whose desktops it moves)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractUser, Permission
from django.db import models
from django.db.models import Q

from webapp.roles import NEVER_IMPLIED


class User(AbstractUser):
    """An account; what it may do comes from its groups."""

    has_one_time_password = models.BooleanField(
        default=False, help_text="The password stops working at the first sign-in."
    )

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """As Django has it, but what is never implied is not implied by being superuser either."""
        if self.is_superuser and perm in NEVER_IMPLIED:
            return self.is_active and self._was_given(perm)
        return super().has_perm(perm, obj)

    def _was_given(self, perm: str) -> bool:
        app_label, codename = perm.split(".")
        return Permission.objects.filter(
            Q(group__user=self) | Q(user=self),
            content_type__app_label=app_label,
            codename=codename,
        ).exists()
