"""Doors over REST ask for the same permissions as pages do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission

if TYPE_CHECKING:
    from rest_framework.request import Request
    from rest_framework.views import APIView


def holds(permission: str) -> type[BasePermission]:
    """A permission class for signed-in users who hold `permission` ("app.codename")."""

    class Holds(BasePermission):
        def has_permission(self, request: Request, view: APIView) -> bool:
            return bool(request.user.is_authenticated and request.user.has_perm(permission))

    return Holds
