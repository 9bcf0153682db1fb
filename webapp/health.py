"""Whether this process can do its work: what a load balancer asks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.contrib.auth.decorators import login_not_required
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache

logger = logging.getLogger(__name__)


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _ask_redis() -> None:
    cache.get("healthz")


PARTS: dict[str, Callable[[], None]] = {"database": _ask_database, "redis": _ask_redis}


def _is_healthy(part: str) -> bool:
    try:
        PARTS[part]()
    except Exception:
        logger.exception("Health check: %s does not answer", part)
        return False
    return True


@login_not_required
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """200 when every part answers, else 503; says which part, never why."""
    health = {part: _is_healthy(part) for part in PARTS}
    return JsonResponse(health, status=200 if all(health.values()) else 503)
