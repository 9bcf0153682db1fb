"""An agent does what was signed for it, once, in time, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from desktops.services.agents import signature
from tests.unit.agent.guest import DESKTOP, KEY, NOW, SERVER_ID, Guest, command, fa, killed


def polled(guest: Guest, agent: Any, *commands: dict[str, Any]) -> None:
    guest.server.commands = list(commands)
    guest.live(agent, 61)


def test_both_sides_sign_alike() -> None:
    one = command(arguments={"message": 'Zoë "quoted" \\ \n 漢'})
    fields = {name: value for name, value in one.items() if name != "signature"}
    assert signature(fields, bytes.fromhex(KEY)) == one["signature"]
    assert fa.is_signed(one, bytes.fromhex(KEY))


def test_a_command_is_done_once_and_reported(guest: Guest) -> None:
    agent = guest.agent()
    polled(guest, agent, command())
    (ran,) = guest.programs.ran
    assert ran[0] == "setpriv" and "--reuid=1000" in ran
    assert ran[-3:] == ["--", "Foredesk", "Zoë, 18:00"]
    assert set(guest.server.outcomes) == {("7", "done")}


def test_a_message_reaches_terminals_where_no_desktop_takes_it(guest: Guest) -> None:
    agent = guest.agent()
    guest.programs.sessions = [{**DESKTOP, "Type": "tty"}]
    polled(guest, agent, command())
    assert guest.programs.ran == [["wall", "Foredesk: Zoë, 18:00\n"]]


@pytest.mark.parametrize(
    "tampered",
    [
        {**command(), "arguments": {"message": "call this number"}},
        {**command(), "kind": "hibernate"},
        {**command(), "expires_at": NOW + 10**6},
        {**command(), "id": 8},
        {**command(), "signature": ""},
        {name: value for name, value in command().items() if name != "signature"},
        {**command(), "extra": 1},
        command(server_id="99991d0e-1111-4222-8333-444455556666"),
        command(expires_at=NOW),
        command(expires_at="never"),
        {},
    ],
)
def test_what_was_not_signed_for_it_now_is_not_done(guest: Guest, tampered: dict[str, Any]) -> None:
    agent = guest.agent()
    polled(guest, agent, tampered)
    assert guest.programs.ran == []
    assert guest.server.outcomes == []
    assert agent.state.commands == {}


def test_without_a_key_nothing_is_believed(guest: Guest) -> None:
    agent = guest.agent()
    agent.state.command_key = ""
    fields = {name: value for name, value in command().items() if name != "signature"}
    polled(guest, agent, {**fields, "signature": signature(fields, b"")})
    assert guest.programs.ran == []


def test_a_replayed_command_is_not_done_again_even_after_a_restart(guest: Guest) -> None:
    agent = guest.agent()
    polled(guest, agent, command())
    assert len(guest.programs.ran) == 1
    killed(agent)
    agent = guest.agent()
    polled(guest, agent, command())
    assert len(guest.programs.ran) == 1
    # But its outcome is told again: the server would not ask if it knew.
    assert len(guest.server.outcomes) > 1


def test_a_command_it_was_killed_in_is_not_done_again(guest: Guest) -> None:
    class Killed(BaseException):
        pass

    def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    agent = guest.agent()
    agent.commands.run = die
    guest.server.commands = [command(kind="hibernate", arguments={})]
    with pytest.raises(Killed):
        guest.live(agent, 61)
    killed(agent)
    agent = guest.agent()
    guest.live(agent, 61)
    assert guest.programs.ran == []
    assert set(guest.server.outcomes) == {("7", "failed")}


def test_an_outcome_that_could_not_be_told_is_told_later(guest: Guest) -> None:
    agent = guest.agent()
    agent.commands.take(command(), server_id=SERVER_ID)
    killed(agent)
    agent = guest.agent()
    guest.live(agent, 61)
    assert guest.server.outcomes == [("7", "done")]


def test_before_hibernating_everything_observed_is_on_disk(guest: Guest) -> None:
    agent = guest.agent()
    agent.observer.sample()
    agent.commands.take(command(kind="hibernate", arguments={}), server_id=SERVER_ID)
    assert guest.programs.ran == [["systemctl", "hibernate"]]
    assert len(guest.spooled) == 1


def test_what_fails_is_told_without_details_of_the_machine(guest: Guest) -> None:
    agent = guest.agent()
    guest.programs.codes = {"sync": 3}
    agent.commands.take(command(kind="quiesce", arguments={}), server_id=SERVER_ID)
    agent.commands.take(command(id=8, kind="reboot", arguments={}), server_id=SERVER_ID)
    outcomes = {key: (outcome, detail) for key, outcome, detail in agent.commands.unreported()}
    assert outcomes["7"] == ("failed", "ended with 3")
    assert outcomes["8"][0] == "failed"


def test_what_was_long_ago_is_forgotten(guest: Guest) -> None:
    agent = guest.agent()
    polled(guest, agent, command())
    guest.clock.now += 9 * 86_400
    agent.commands._forget_old()
    assert agent.state.commands == {}
