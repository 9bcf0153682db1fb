"""What programs send, read with a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from desktops.errors import Refused

if TYPE_CHECKING:
    from rest_framework.request import Request


def read_json(request: Request, *, most_bytes: int) -> object:
    """The body as JSON; raises Refused."""
    announced = request.META.get("CONTENT_LENGTH") or "0"
    if not announced.isdecimal() or int(announced) > most_bytes:
        raise Refused(413, "too_large", f"The body is larger than {most_bytes:,} bytes.")
    if request.content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "wrong_type", "Content-Type: application/json is wanted.")
    try:
        return orjson.loads(request._request.body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "malformed_json", f"The body is not JSON: {error}"[:200]) from None
