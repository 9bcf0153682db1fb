"""The reasons are OpenStack 2026.2's own, as its services answer."""

from __future__ import annotations

import keystoneauth1.exceptions as auth
import pytest
import requests
from openstack import exceptions as sdk

from desktops.clouds.openstack.faults import kind_of, translate
from desktops.core.cloud import (
    CloudError,
    CloudUnavailable,
    Conflict,
    Forbidden,
    NotFound,
    QuotaExceeded,
    Unsupported,
)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (403, "Quota exceeded for instances: Requested 1, but already used 0 of 0", QuotaExceeded),
        (403, "Maximum number of ports exceeded", QuotaExceeded),
        (409, "Quota exceeded for resources: ['port'].", QuotaExceeded),
        (413, "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot …", QuotaExceeded),
        (403, "Policy doesn't allow os_compute_api:os-migrations:index", Forbidden),
        (401, "The request you have made requires authentication.", Forbidden),
        (404, "Instance could not be found.", NotFound),
        (409, "Cannot 'stop' instance while it is in vm_state building", Conflict),
        (400, "Invalid volume: Volume status must be available or error or …", Conflict),
        (400, "Invalid snapshot: Snapshot status must be available or error", Conflict),
        (400, "Volume … status must be available or downloading to reserve", Conflict),
        (400, "Updating volume metadata is not allowed for volumes in uploading status.", Conflict),
        (400, "Block Device c31a2216 is not bootable.", CloudError),
        (400, "Block Device Mapping is Invalid: failed to get volume 1111.", CloudError),
        (400, "Invalid image identifier or unable to access requested image.", CloudError),
        (406, "Version 2.85 is not supported by the API.", Unsupported),
        (429, "This request was rate-limited.", CloudUnavailable),
        (500, "Unexpected API Error.", CloudUnavailable),
        (503, "Service Unavailable", CloudUnavailable),
        (501, "Not Implemented", Unsupported),
    ],
)
def test_what_a_status_and_a_reason_mean(status: int, reason: str, kind: type[CloudError]) -> None:
    assert kind_of(status, reason) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (auth.ConnectFailure("Unable to establish connection"), CloudUnavailable),
        (auth.ConnectTimeout("timed out"), CloudUnavailable),
        (auth.DiscoveryFailure("Could not find versioned identity endpoints"), CloudUnavailable),
        (requests.exceptions.JSONDecodeError("Expecting value", "<html>", 0), CloudUnavailable),
        (auth.Unauthorized("The request you have made requires authentication."), Forbidden),
        (auth.EndpointNotFound("public endpoint for compute service not found"), NotFound),
        (sdk.ServiceDisabledException("public endpoint for network not found"), NotFound),
        (sdk.ConfigException("Region north is not a valid region name for cloud lab."), NotFound),
        (sdk.ConfigException("Cloud nope was not found."), CloudError),
        (Exception("password is a required attribute"), CloudError),
    ],
)
def test_what_a_failure_on_the_way_means(error: Exception, kind: type[CloudError]) -> None:
    assert type(translate(error, where="lab")) is kind


def test_the_message_names_place_reason_status_and_request() -> None:
    answer = requests.Response()
    answer.status_code = 409
    answer.headers["x-openstack-request-id"] = "req-1"
    error = sdk.ConflictException(response=answer, details="Cannot 'stop'\n instance")
    told = translate(error, where="OpenStack lab, region east: POST compute /servers/1/action")
    assert str(told) == (
        "OpenStack lab, region east: POST compute /servers/1/action: "
        "Cannot 'stop' instance (HTTP 409) [req-1]"
    )


def test_credentials_in_an_address_are_left_out() -> None:
    error = auth.ConnectFailure("Unable to reach http://admin:hunter2@cloud.example:5000/v3/auth")
    assert "hunter2" not in str(translate(error, where="lab"))
    assert "cloud.example:5000" in str(translate(error, where="lab"))
