from __future__ import annotations

from itertools import product

import pytest

from desktops.clouds.openstack.live import Move, Seen, judge


def seen(**changes: object) -> Seen:
    normal: dict[str, object] = {
        "asked_for": "k",
        "after": 7,
        "status": "ACTIVE",
        "task": "",
        "records": {7: "completed", 8: "completed"},
    }
    return Seen(**(normal | changes))  # type: ignore[arg-type]


def test_a_migration_nobody_asked_for_yet_is_started() -> None:
    assert judge(seen(asked_for=""), key="k") == (Move.START, None)
    assert judge(seen(asked_for="other"), key="k") == (Move.START, None)


def test_an_earlier_migration_is_not_taken_for_this_one() -> None:
    assert judge(seen(records={7: "completed"}), key="k") == (Move.START, None)


def test_a_request_without_a_record_yet_is_waited_for() -> None:
    assert judge(seen(records={}, task="migrating"), key="k") == (Move.WAIT, None)


@pytest.mark.parametrize("status", ["accepted", "preparing", "running", "post-migrating"])
def test_a_server_on_its_new_host_is_not_yet_done(status: str) -> None:
    assert judge(seen(records={8: status}), key="k") == (Move.WAIT, 8)


def test_a_completed_record_of_a_busy_server_is_waited_for() -> None:
    assert judge(seen(task="migrating"), key="k") == (Move.WAIT, 8)
    assert judge(seen(status="MIGRATING"), key="k") == (Move.WAIT, 8)


def test_done_is_completed_and_active() -> None:
    assert judge(seen(), key="k") == (Move.DONE, 8)


def test_a_later_migration_changes_nothing_about_this_one() -> None:
    assert judge(seen(records={8: "completed", 9: "error"}), key="k") == (Move.DONE, 8)


@pytest.mark.parametrize("status", ["error", "failed", "cancelled"])
def test_a_failed_record_fails(status: str) -> None:
    assert judge(seen(records={8: status}), key="k") == (Move.FAIL, 8)


def test_every_sight_has_an_answer_and_done_is_rare() -> None:
    for asked, status, task, record in product(
        ("", "k"),
        ("ACTIVE", "MIGRATING", "SHUTOFF", "ERROR"),
        ("", "migrating", "powering-off"),
        ({}, {7: "completed"}, {8: "running"}, {8: "completed"}, {8: "error"}),
    ):
        move, _ = judge(seen(asked_for=asked, status=status, task=task, records=record), key="k")
        is_done = (asked, status, task, record) == ("k", "ACTIVE", "", {8: "completed"})
        assert (move is Move.DONE) is is_done
