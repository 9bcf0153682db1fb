"""Errors on the wire: each of the cloud protocol's exceptions has a code and an HTTP status."""

from __future__ import annotations

from desktops.core.cloud import (
    CloudError,
    CloudFault,
    CloudUnavailable,
    Conflict,
    Forbidden,
    NotFound,
    QuotaExceeded,
    Unsupported,
)


class BadRequest(CloudError):
    """The request makes no sense, whatever the state of the cloud."""


class Unauthorised(Forbidden):
    """The bearer token is missing or wrong."""


class StaleFencingToken(CloudError):
    """A newer worker has already spoken for this desktop's session."""


CODES: dict[type[CloudError], tuple[str, int]] = {
    BadRequest: ("bad_request", 400),
    Unauthorised: ("unauthorised", 401),
    Forbidden: ("forbidden", 403),
    QuotaExceeded: ("quota_exceeded", 403),
    NotFound: ("not_found", 404),
    Conflict: ("conflict", 409),
    StaleFencingToken: ("stale_token", 409),
    CloudFault: ("fault", 500),
    Unsupported: ("unsupported", 501),
    CloudUnavailable: ("unavailable", 503),
}
EXCEPTIONS: dict[str, type[CloudError]] = {code: cls for cls, (code, _) in CODES.items()}
