"""How this app's errors are answered over REST."""

from __future__ import annotations

from typing import Any

from rest_framework import status
from rest_framework.response import Response
from rest_framework.views import exception_handler

from desktops.errors import NotPermitted
from migration.errors import NotDecidable, NotPossible

STATUSES: dict[type[Exception], int] = {
    NotPermitted: status.HTTP_403_FORBIDDEN,
    NotDecidable: status.HTTP_409_CONFLICT,
    NotPossible: status.HTTP_409_CONFLICT,
}


def answer(error: Exception, context: dict[str, Any]) -> Response | None:
    """The response to an expected error; None leaves an unexpected one to Django."""
    code = STATUSES.get(type(error))
    if code is None:
        return exception_handler(error, context)
    return Response({"detail": str(error)}, status=code)
