"""What the real services answer arrives as the protocol's errors, with nothing secret in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from desktops.clouds.openstack import connect
from desktops.clouds.openstack.driver import OpenStackCloud
from desktops.core.cloud import (
    Cloud,
    CloudError,
    CloudUnavailable,
    Conflict,
    Forbidden,
    NotFound,
    QuotaExceeded,
    Server,
    ServerSpec,
    VolumeSpec,
)
from tests.openstack.conftest import GIB, Hands

NOWHERE = "00000000-0000-4000-8000-000000000000"


def test_a_volume_in_use_boots_no_second_server_and_is_not_deleted(
    hands: Hands, desktop: Server, east: str
) -> None:
    (volume_id,) = desktop.volume_ids
    key = hands.key("second")
    spec = ServerSpec(name=key, flavor=hands.flavor, boot_volume_id=volume_id)
    with pytest.raises(Conflict):
        hands.cloud.create_server(east, spec, key=key)
    with pytest.raises(Conflict):
        hands.cloud.delete_volume(east, volume_id)
    assert hands.cloud.find_server(east, key=key) is None


def test_a_volume_with_a_snapshot_is_not_deleted(hands: Hands, east: str) -> None:
    volume, key = hands.volume(), hands.key("snapshot")
    hands.cloud.snapshot_volume(east, volume.id, key=key)
    with pytest.raises(Conflict):
        hands.cloud.delete_volume(east, volume.id)


def test_more_than_the_quota_is_told_from_a_missing_right(hands: Hands, east: str) -> None:
    quota = hands.cloud.inventory(east).quota
    if quota.volume_bytes is None:
        pytest.skip("volumes are not limited here")
    spec = VolumeSpec(name="huge", size_bytes=quota.volume_bytes + GIB)
    with pytest.raises(QuotaExceeded):
        hands.cloud.create_volume(east, spec, key=hands.key("huge"))


@pytest.mark.parametrize(
    "command", ["server", "start_server", "stop_server", "fence_server", "unfence_server", "volume"]
)
def test_what_is_not_there_is_not_found(cloud: OpenStackCloud, east: str, command: str) -> None:
    with pytest.raises(NotFound):
        getattr(cloud, command)(east, NOWHERE)


@pytest.mark.parametrize("command", ["delete_server", "delete_volume", "delete_snapshot"])
def test_deleting_what_is_not_there_succeeds(
    cloud: OpenStackCloud, east: str, command: str
) -> None:
    getattr(cloud, command)(east, NOWHERE)


def test_what_a_server_is_made_of_is_named_when_missing(hands: Hands, east: str) -> None:
    volume = hands.volume()
    for spec in (
        ServerSpec(name="x", flavor="no-such-thing", boot_volume_id=volume.id),
        ServerSpec(name="x", flavor=hands.flavor, image="no-such-thing"),
        ServerSpec(
            name="x", flavor=hands.flavor, boot_volume_id=volume.id, network="no-such-thing"
        ),
    ):
        with pytest.raises(NotFound, match="no-such-thing"):
            hands.cloud.create_server(east, spec, key=hands.key("x"))


# clouds.yaml itself


@pytest.fixture
def altered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[dict[str, Any]], object]], Cloud]:
    """The same cloud with its entry in clouds.yaml changed."""
    name = os.environ.get("OS_CLOUD")
    given = os.environ.get("OS_CLIENT_CONFIG_FILE")
    if not name or not given:
        pytest.skip("OS_CLIENT_CONFIG_FILE and OS_CLOUD are needed")
    read = yaml.safe_load(Path(given).read_text())

    def alter(change: Callable[[dict[str, Any]], object]) -> Cloud:
        change(read["clouds"][name])
        path = tmp_path / "clouds.yaml"
        path.write_text(yaml.safe_dump(read))
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
        return connect("altered", cloud=name)

    return alter


def test_a_wrong_password_is_forbidden_and_not_told(altered: Any, east: str) -> None:
    cloud = altered(lambda entry: entry["auth"].update(password="hunter2"))
    with pytest.raises(Forbidden) as refused:
        cloud.inventory(east)
    assert "hunter2" not in str(refused.value)


def test_a_cloud_where_nobody_answers_is_unavailable(altered: Any, east: str) -> None:
    # The discard port: nobody listens.
    cloud = altered(lambda entry: entry["auth"].update(auth_url="http://127.0.0.1:9/v3"))
    with pytest.raises(CloudUnavailable) as refused:
        cloud.inventory(east)
    assert refused.value.is_retryable


def test_only_the_regions_that_the_file_lists_are_used(altered: Any, east: str) -> None:
    cloud = altered(lambda entry: entry.update(regions=[east]))
    assert cloud.regions() == (east,)


def test_a_missing_password_is_named(altered: Any, east: str) -> None:
    cloud = altered(lambda entry: entry["auth"].pop("password"))
    with pytest.raises(CloudError, match="password"):
        cloud.inventory(east)


def test_a_password_in_the_address_is_refused_before_anybody_logs_it(
    altered: Any, east: str, caplog: pytest.LogCaptureFixture
) -> None:
    cloud = altered(
        lambda entry: entry["auth"].update(auth_url="http://admin:hunter2@127.0.0.1:9/v3")
    )
    with pytest.raises(CloudError, match="auth_url"):
        cloud.inventory(east)
    assert "hunter2" not in caplog.text


def test_a_broken_file_is_logged_without_its_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    east: str,
) -> None:
    path = tmp_path / "clouds.yaml"
    path.write_text("clouds:\n  broken:\n    auth: {password: hunter2, username: [}\n")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
    with pytest.raises(CloudError) as refused:
        connect("broken", cloud="broken").inventory(east)
    assert "hunter2" not in str(refused.value) + caplog.text
    assert "line 3" in caplog.text
