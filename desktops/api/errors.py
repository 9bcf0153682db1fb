"""How what goes wrong is answered to programs: {"reason": a fixed word, "detail": a sentence}."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.db import InterfaceError, OperationalError
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.response import Response
from rest_framework.views import exception_handler

from desktops.errors import NotPermitted, Refused

logger = logging.getLogger(__name__)

HEADERS: Mapping[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": "5"},
}


def answer(error: Exception, context: dict[str, Any]) -> Response | None:
    """The response to an expected error; None leaves an unexpected one to Django."""
    if isinstance(error, Refused):
        return refusal(error)
    if isinstance(error, NotPermitted):
        return refusal(Refused(403, "not_permitted", str(error)))
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("The database is away: %s", error)
        away = Refused(503, "unavailable", "Nothing was kept; send it again in a moment.")
        return refusal(away)
    response = exception_handler(error, context)
    if isinstance(error, APIException) and response is not None:
        if isinstance(error, ValidationError):
            response.data = {"reason": "invalid", "detail": "", "errors": response.data}
        else:
            response.data = {"reason": error.default_code, "detail": str(error.detail)}
    return response


def refusal(error: Refused) -> Response:
    return Response(
        {"reason": error.reason, "detail": str(error)},
        status=error.status,
        headers=HEADERS.get(error.status),
    )


class AnswersPrograms:
    """A view whose errors a program can read."""

    def get_exception_handler(self) -> Any:
        return answer
