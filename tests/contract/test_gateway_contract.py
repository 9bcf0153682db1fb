"""What the gateway protocol promises, of every gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from migration.core.gateway import (
    Gateway,
    GatewayError,
    GatewayUnavailable,
    Session,
    StaleToken,
    Target,
)
from migration.gateways import none
from migration.gateways import registry as gateways
from migration.gateways import simulator as simulated
from tests.support.simulator import TOKEN, desktop, eventually, simulator, two_regions


@dataclass(frozen=True, slots=True)
class Desk:
    """A person at work on a desktop that the gateway under test stands in front of."""

    gateway: Gateway
    desktop_key: str
    target: Target


@contextmanager
def _simulator(folder: Path) -> Iterator[Desk]:
    with simulator(folder) as process:
        process.admin.load_world(two_regions())
        (placed,) = process.admin.adopt([desktop("ana", is_user_present=True)])
        target = Target(placed.region, placed.server_id)
        yield Desk(process.gateway(), "ana", target)


@contextmanager
def _none(folder: Path) -> Iterator[Desk]:
    yield Desk(none.connect("none"), "ana", Target("east", "a-server"))


GATEWAYS = {"simulator": _simulator, "none": _none}


@pytest.fixture(params=GATEWAYS)
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    with GATEWAYS[request.param](tmp_path) as prepared:
        yield prepared


def seen(desk: Desk) -> Session:
    return desk.gateway.session(desk.desktop_key)


def wait_for(desk: Desk, is_wanted: Callable[[Session], object]) -> Session:
    """What is wanted, where the gateway can see it; what there is to see, where it cannot."""
    if not desk.gateway.sees_sessions:
        return seen(desk)
    return eventually(lambda: seen(desk), is_wanted)


def test_a_gateway_is_one(desk: Desk) -> None:
    assert isinstance(desk.gateway, Gateway)
    assert desk.gateway.name


def test_an_unknown_desktop_has_a_session_that_points_nowhere(desk: Desk) -> None:
    key = f"nobody-{uuid4()}"
    assert desk.gateway.session(key) == Session(key)


def test_a_held_person_is_off_until_pointed(desk: Desk) -> None:
    before = desk.gateway.hold(desk.desktop_key, token=1)
    assert before.is_connected is desk.gateway.sees_sessions
    assert not seen(desk).is_connected
    assert seen(desk).is_held is desk.gateway.sees_sessions
    desk.gateway.point(desk.desktop_key, desk.target, token=1)
    after = wait_for(desk, lambda session: session.is_connected)
    assert not after.is_held
    if desk.gateway.sees_sessions:
        assert after.connected_on == after.points_to == desk.target
        assert after.since is not None


def test_commands_may_be_repeated(desk: Desk) -> None:
    for _ in range(2):
        desk.gateway.hold(desk.desktop_key, token=1)
    for _ in range(2):
        desk.gateway.point(desk.desktop_key, desk.target, token=1)
    wait_for(desk, lambda session: session.is_connected)


def test_a_worker_with_an_older_token_is_refused(desk: Desk) -> None:
    if not desk.gateway.sees_sessions:
        pytest.skip("there is nothing here that a stale worker could harm")
    desk.gateway.hold(desk.desktop_key, token=7)
    held = seen(desk)
    with pytest.raises(StaleToken) as failure:
        desk.gateway.point(desk.desktop_key, desk.target, token=6)
    assert not failure.value.is_retryable
    with pytest.raises(StaleToken):
        desk.gateway.hold(desk.desktop_key, token=6)
    assert seen(desk) == held
    assert held.token == 7


def test_a_gateway_that_does_not_answer_is_worth_trying_again() -> None:
    gateway = simulated.connect("simulator", url="http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(GatewayUnavailable) as failure:
        gateway.hold("ana", token=1)
    assert failure.value.is_retryable
    gateway.close()


def test_a_gateway_that_refuses_the_credentials_says_so(tmp_path: Path) -> None:
    with simulator(tmp_path) as process:
        gateway = simulated.connect("simulator", url=process.url, token="wrong" * 4)
        with pytest.raises(GatewayError, match="token"):
            gateway.session("ana")
        gateway.close()


def test_the_registry_connects_by_settings(settings) -> None:  # type: ignore[no-untyped-def]
    settings.GATEWAYS = {"nothing": {"driver": "migration.gateways.none"}}
    gateways.get_gateway.cache_clear()
    try:
        assert gateways.get_gateway("nothing").name == "nothing"
        with pytest.raises(Exception, match="No gateway 'other'"):
            gateways.get_gateway("other")
    finally:
        gateways.get_gateway.cache_clear()
