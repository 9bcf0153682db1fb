"""Accounts of the people who use the product (not of the people whose desktops it moves)."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """An account; what it may do comes from its groups."""

    has_one_time_password = models.BooleanField(
        default=False, help_text="The password stops working at the first sign-in."
    )
