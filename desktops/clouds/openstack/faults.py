"""What a failed request means, as the protocol's errors.

The services agree on little: an exhausted quota is 403 at Nova, 413 at Cinder and Glance and
409 at Neutron; a resource in the wrong state is 409 at Nova and Neutron and 400 at Cinder.
"""

from __future__ import annotations

import re

from desktops.core.cloud import (
    CloudError,
    CloudUnavailable,
    Conflict,
    Forbidden,
    NotFound,
    QuotaExceeded,
    Unsupported,
)

_QUOTA = re.compile(r"\bquota|\bexceed", re.IGNORECASE)
# Cinder's and Nova's words for "not in this state": all of them arrive as plain 400s.
_STATE = re.compile(
    r"status must|must be (?:available|in-use|either)|must not be migrating|is not in .*state"
    r"|dependent snapshots|has snapshots|is (?:currently )?attached|already attached|in-use"
    r"|is busy|currently (?:being|in)|status is|in [\w-]+ status",
    re.IGNORECASE,
)
_CREDENTIALS_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")

_BY_STATUS: dict[int, type[CloudError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    405: Unsupported,
    406: Unsupported,  # the microversion
    408: CloudUnavailable,
    409: Conflict,
    412: Conflict,
    413: QuotaExceeded,
    423: Conflict,
    429: CloudUnavailable,
    501: Unsupported,
}


def kind_of(status: int, reason: str) -> type[CloudError]:
    """The error that an HTTP status of at least 400, with the service's reason, stands for."""
    if status in (400, 403, 409) and _QUOTA.search(reason):
        return QuotaExceeded
    if status == 400 and _STATE.search(reason):
        return Conflict
    if status >= 500 and status != 501:
        return CloudUnavailable
    return _BY_STATUS.get(status, CloudError)


def translate(error: Exception, *, where: str) -> CloudError:
    """The protocol's error for one of openstacksdk's, keystoneauth's or requests'.

    where : the cloud, region and request, for the message
    """
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    reason = _reason(error)
    if isinstance(status, int) and status >= 400:
        kind = kind_of(status, reason)
        reason = f"{reason} (HTTP {status})"
    else:
        kind = _kind_without_status(error)
    request_id = getattr(error, "request_id", None)
    return kind(f"{where}: {reason}" + (f" [{request_id}]" if request_id else ""))


def _reason(error: Exception) -> str:
    """The service's own words, on one line and without any credentials."""
    text = getattr(error, "details", None) or str(error) or type(error).__name__
    return _CREDENTIALS_IN_URL.sub("", " ".join(str(text).split()))


def _kind_without_status(error: Exception) -> type[CloudError]:
    from keystoneauth1 import exceptions as auth
    from openstack import exceptions as sdk

    if isinstance(error, auth.EndpointNotFound | sdk.EndpointNotFound):
        return NotFound  # the region has no such service, or there is no such region
    if isinstance(error, sdk.ServiceDisabledException):
        return NotFound
    if isinstance(error, sdk.ConfigException):
        return NotFound if "region" in str(error).lower() else CloudError
    if isinstance(error, sdk.NotSupported | auth.VersionNotAvailable):
        return Unsupported
    if isinstance(error, auth.AuthorizationFailure | auth.MissingRequiredOptions):
        return Forbidden
    if isinstance(error, sdk.InvalidRequest | auth.MissingAuthPlugin) or type(error) is Exception:
        return CloudError  # clouds.yaml lacks something
    return CloudUnavailable  # not reached, timed out, or an answer that cannot be read
