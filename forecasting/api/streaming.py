"""Long answers, written while they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import StreamingHttpResponse
from rest_framework.request import Request


def streamed(request: Request, pieces: Iterator[bytes], **headers: Any) -> StreamingHttpResponse:
    """Served asynchronously, Django would collect all pieces before it sends the first."""
    is_asynchronous = isinstance(request._request, ASGIRequest)
    body = _in_threads(pieces) if is_asynchronous else pieces
    return StreamingHttpResponse(body, **headers)


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    following = sync_to_async(next)
    while (piece := await following(pieces, None)) is not None:
        yield piece
