from __future__ import annotations

import pytest

from desktops.clouds.simulator.errors import StaleFencingToken
from desktops.core.cloud import Conflict, QuotaExceeded
from tests.support.simulator import GB
from tests.unit.simulator.bench import START_MS, Bench


def accepting(bench: Bench, desktop_key: str = "ana") -> list[list[str]]:
    return [e["accepting"] for e in bench.log(desktop_key) if e["accepting"] is not None]


def test_a_request_returns_at_once_and_comes_true_later(bench: Bench) -> None:
    placed = bench.adopt()
    bench.cloud("stop_server", region="east", server_id=placed["server_id"])
    seen = bench.server(placed)
    assert (seen["status"], seen["is_busy"]) == ("ACTIVE", True)
    bench.wait(60)
    seen = bench.server(placed)
    assert (seen["status"], seen["is_busy"]) == ("SHUTOFF", False)


def test_what_happened_unseen_is_recorded_at_its_own_instant(bench: Bench) -> None:
    placed = bench.adopt()
    bench.cloud("stop_server", region="east", server_id=placed["server_id"])
    bench.wait(86_400)
    stopped = next(e for e in bench.log("ana") if e["kind"] == "server.shutoff")
    assert START_MS < stopped["at_ms"] < START_MS + 60_000
    assert stopped["wall_ms"] == stopped["at_ms"]


def test_the_clock_runs_at_its_speed_and_the_journal_knows_both_times(tmp_path) -> None:  # type: ignore[no-untyped-def]
    bench = Bench(tmp_path, speed=10)
    bench.load()
    bench.wait(60)
    assert bench.cloud("now") == START_MS + 600_000
    placed = bench.adopt()
    adopted = bench.log("ana")[0]
    assert adopted["at_ms"] == START_MS + 600_000
    assert adopted["wall_ms"] == START_MS + 60_000
    bench.cloud("stop_server", region="east", server_id=placed["server_id"])
    bench.wait(6)
    assert bench.server(placed)["status"] == "SHUTOFF"
    bench.simulation.close()


def test_time_goes_on_while_the_process_is_down_and_on_at_another_speed(bench: Bench) -> None:
    placed = bench.adopt()
    bench.cloud("stop_server", region="east", server_id=placed["server_id"])
    bench.wait(3600)
    bench.reopen(speed=100)
    assert bench.cloud("now") == START_MS + 3_600_000
    bench.wait(36)
    assert bench.cloud("now") == START_MS + 7_200_000
    assert bench.server(placed)["status"] == "SHUTOFF"


def test_a_wall_clock_set_back_does_not_turn_back_the_cloud(bench: Bench) -> None:
    bench.wait(100)
    assert bench.cloud("now") == START_MS + 100_000
    bench.adopt()
    bench.wait(-50)
    assert bench.cloud("now") == START_MS + 100_000
    bench.reopen()
    assert bench.cloud("now") == START_MS + 100_000


def test_one_seed_gives_one_course_of_events(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def course(name: str, seed: int) -> list[tuple[int, str, str]]:
        folder = tmp_path / name
        folder.mkdir()
        bench = Bench(folder, seed=seed)
        bench.load()
        placed = bench.adopt(is_user_present=True)
        bench.cloud("stop_server", region="east", server_id=placed["server_id"])
        bench.wait(60)
        bench.reopen(seed=seed)
        bench.cloud("start_server", region="east", server_id=placed["server_id"])
        bench.wait(60)
        entries = [(e["at_ms"], e["kind"], e["resource_id"]) for e in bench.log()]
        bench.simulation.close()
        return entries

    assert course("a", 7) == course("b", 7)
    assert course("c", 7) != course("d", 8)


def test_quotas_name_the_resource_and_the_figures(tmp_path) -> None:  # type: ignore[no-untyped-def]
    bench = Bench(tmp_path)
    regions = [
        {"name": "east", "latitude": 0, "longitude": 0, "quota": {"vcpus": 3}},
        {"name": "west", "latitude": 0, "longitude": 9},
    ]
    bench.load(regions=regions)
    server = {"region": "east", "name": "s", "flavor": "desktop.small", "image": "desktop-2026"}
    bench.cloud("create_server", key="one", **server)
    with pytest.raises(QuotaExceeded, match="vcpus in east: requested 2, used 2 of 3"):
        bench.cloud("create_server", key="two", **server)
    bench.simulation.close()


def test_a_server_that_failed_to_boot_can_only_be_deleted(bench: Bench) -> None:
    bench.admin("inject_fault", kind="boot_error", region="east")
    volume = bench.cloud(
        "create_volume", region="east", key="v", name="v", size_bytes=20 * GB, image="desktop-2026"
    )
    bench.wait(120)
    asked = {
        "region": "east",
        "name": "s",
        "flavor": "desktop.small",
        "boot_volume_id": volume["id"],
    }
    server = bench.cloud("create_server", key="s", **asked)
    bench.wait(120)
    seen = bench.cloud("find_server", region="east", key="s")
    assert (seen["status"], seen["is_busy"]) == ("ERROR", False)
    assert seen["fault"]
    for command in ("start_server", "stop_server"):
        with pytest.raises(Conflict, match="ERROR"):
            bench.cloud(command, region="east", server_id=server["id"])
    assert bench.cloud("create_server", key="s", **asked)["id"] == server["id"]
    bench.cloud("delete_server", region="east", server_id=server["id"])
    bench.wait(60)
    bench.cloud("create_server", key="s", **asked)
    bench.wait(120)
    assert bench.cloud("find_server", region="east", key="s")["status"] == "ACTIVE"


def test_a_slow_boot_is_slower_by_what_was_ordered(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    bench.admin("inject_fault", kind="slow_boot", value=1000)
    bench.cloud("start_server", region="east", server_id=placed["server_id"])
    bench.wait(999)
    assert bench.server(placed)["is_busy"]
    bench.wait(120)
    assert bench.server(placed)["status"] == "ACTIVE"


def test_a_failed_live_migration_leaves_the_server_where_it_was(bench: Bench) -> None:
    placed = bench.adopt()
    host = bench.server(placed)["host"]
    bench.admin("inject_fault", kind="live_migration_fails")
    ask = {"region": "east", "server_id": placed["server_id"], "key": "live"}
    bench.cloud("live_migrate", **ask)
    assert bench.server(placed)["status"] == "MIGRATING"
    bench.wait(120)
    assert bench.cloud("live_migrate", **ask)["state"] == "failed"
    seen = bench.server(placed)
    assert (seen["status"], seen["host"]) == ("ACTIVE", host)


def test_a_live_migration_keeps_the_session_and_the_writes_going(bench: Bench) -> None:
    placed = bench.adopt(is_user_present=True)
    bench.wait(600)
    bench.cloud("live_migrate", region="east", server_id=placed["server_id"], key="live")
    bench.wait(600)
    assert "session.disconnected" not in bench.kinds("ana")
    assert all(ids == [placed["server_id"]] for ids in accepting(bench)[1:])
    written = bench.content("east", placed["volume_id"])["written_bytes"]
    assert written == 1200 * 500_000


def test_a_server_deleted_while_it_migrates_is_gone_and_its_migration_failed(
    bench: Bench,
) -> None:
    placed = bench.adopt()
    ask = {"region": "east", "server_id": placed["server_id"], "key": "live"}
    bench.cloud("live_migrate", **ask)
    bench.cloud("delete_server", region="east", server_id=placed["server_id"])
    bench.wait(600)
    assert bench.cloud("live_migrate", **ask)["state"] == "failed"
    assert accepting(bench)[-1] == []


def test_a_present_user_connects_once_the_server_they_are_sent_to_accepts_sessions(
    bench: Bench,
) -> None:
    placed = bench.adopt(is_running=False, is_user_present=True)
    assert bench.gateway("session", desktop_key="ana")["connected_on"] is None
    bench.cloud("start_server", region="east", server_id=placed["server_id"])
    bench.wait(60)
    where = {"region": "east", "server_id": placed["server_id"]}
    assert bench.gateway("session", desktop_key="ana")["connected_on"] == where
    bench.cloud("fence_server", **where)
    assert bench.gateway("session", desktop_key="ana")["connected_on"] is None
    bench.cloud("unfence_server", **where)
    bench.wait(60)
    assert bench.gateway("session", desktop_key="ana")["connected_on"] == where


def test_a_held_user_waits_for_as_long_as_it_takes(bench: Bench) -> None:
    placed = bench.adopt(is_user_present=True)
    where = {"region": "east", "server_id": placed["server_id"]}
    before = bench.gateway("hold", desktop_key="ana", token=1)
    assert before["connected_on"] == where
    assert not before["is_held"]
    bench.wait(86_400)
    seen = bench.gateway("session", desktop_key="ana")
    assert (seen["connected_on"], seen["is_held"]) == (None, True)
    bench.gateway("point", desktop_key="ana", token=1, **where)
    bench.wait(60)
    seen = bench.gateway("session", desktop_key="ana")
    assert (seen["connected_on"], seen["is_held"]) == (where, False)


def test_an_absent_user_has_no_session_and_loses_none(bench: Bench) -> None:
    bench.adopt()
    bench.wait(600)
    assert bench.gateway("session", desktop_key="ana")["connected_on"] is None
    bench.admin("presence", desktop_key="ana", is_present=True)
    bench.wait(60)
    assert bench.gateway("session", desktop_key="ana")["connected_on"] is not None
    bench.admin("presence", desktop_key="ana", is_present=False)
    assert bench.gateway("session", desktop_key="ana")["connected_on"] is None


def test_pointing_twice_is_pointing_once(bench: Bench) -> None:
    placed = bench.adopt(is_user_present=True)
    where = {"region": "east", "server_id": placed["server_id"]}
    before = bench.kinds("ana")
    for _ in range(2):
        bench.gateway("point", desktop_key="ana", token=3, **where)
        bench.wait(60)
    assert bench.kinds("ana") == before


def test_an_older_worker_is_refused_and_changes_nothing(bench: Bench) -> None:
    placed = bench.adopt(is_user_present=True)
    bench.gateway("hold", desktop_key="ana", token=5)
    with pytest.raises(StaleFencingToken, match="token 4 is older than 5"):
        bench.gateway("hold", desktop_key="ana", token=4)
    with pytest.raises(StaleFencingToken):
        bench.gateway(
            "point", desktop_key="ana", region="east", server_id=placed["server_id"], token=4
        )
    assert bench.gateway("session", desktop_key="ana")["is_held"]
    bench.gateway("hold", desktop_key="ana", token=5)


def test_a_user_sent_to_a_server_that_is_not_there_waits(bench: Bench) -> None:
    bench.adopt(is_user_present=True)
    bench.gateway("point", desktop_key="ana", region="west", server_id="nothing", token=1)
    bench.wait(600)
    seen = bench.gateway("session", desktop_key="ana")
    assert (seen["connected_on"], seen["is_held"]) == (None, False)


def test_the_journal_shows_two_copies_that_accept_sessions(bench: Bench) -> None:
    """What must never be is seen when it is: the journal is no proof otherwise."""
    placed = bench.adopt()
    other = bench.cloud(
        "create_server",
        region="east",
        key="copy",
        name="copy",
        flavor="desktop.small",
        image="desktop-2026",
        metadata={"foredesk:desktop": "ana"},
    )
    bench.wait(120)
    bench.cloud("now")
    assert accepting(bench)[-1] == sorted([placed["server_id"], other["id"]])


def test_adopting_again_gives_the_same_ids_wherever_the_desktop_is(bench: Bench) -> None:
    placed = bench.adopt()
    bench.cloud("delete_server", region="east", server_id=placed["server_id"])
    bench.wait(60)
    assert bench.adopt() == placed
    assert bench.cloud("inventory", region="east")["servers"] == []
