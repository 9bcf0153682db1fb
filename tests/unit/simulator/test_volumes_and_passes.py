from __future__ import annotations

import pytest

from desktops.core.cloud import CloudError, Conflict
from tests.support.simulator import GB
from tests.unit.simulator.bench import Bench

EAST_WEST = {"source_region": "east", "dest_region": "west"}


def fill(bench: Bench, minutes: float, **changes: object) -> int:
    """Bytes of a second pass that follows a first after `minutes` of work."""
    placed = bench.adopt(f"ana{minutes}", **changes)
    first = bench.copied(placed, f"first{minutes}")
    bench.wait(60 * minutes - 3600)
    second = bench.copied(placed, f"second{minutes}", first["volume_id"])
    total: int = second["bytes_total"]
    return total


def test_dirty_bytes_rise_at_the_dirtying_rate_and_flatten_at_the_working_set(
    bench: Bench,
) -> None:
    work = {"dirty_bytes_per_s": 100_000, "dirty_saturation_bytes": 2 * GB}
    hour, two_hours, month = (
        fill(bench, 60, **work),
        fill(bench, 120, **work),
        fill(bench, 60 * 24 * 30, **work),
    )
    assert hour == pytest.approx(100_000 * 3600, rel=0.1)
    assert hour < two_hours < 2 * hour
    assert month == pytest.approx(2 * GB, rel=1e-6)


def test_a_stopped_desktop_gathers_no_dirty_bytes(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    first = bench.copied(placed, "first")
    bench.wait(86_400)
    assert bench.copied(placed, "second", first["volume_id"])["bytes_total"] == 0


def test_a_first_pass_sends_what_the_image_over_there_does_not_bring(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    assert bench.copied(placed, "without")["bytes_total"] == 20 * GB
    bench.cloud("copy_image", image="desktop-2026", key="image", **EAST_WEST)
    bench.wait(3600)
    assert bench.copied(placed, "with")["bytes_total"] == 12 * GB


def test_a_pass_sends_at_the_links_bandwidth(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    seen = bench.copy(placed, "pass")
    assert (seen["bytes_total"], seen["bytes_done"]) == (None, 0)
    bench.wait(60)
    early = bench.copy(placed, "pass")
    bench.wait(40)
    late = bench.copy(placed, "pass")
    assert late["bytes_done"] - early["bytes_done"] == 40 * 125_000_000
    bench.wait(100)
    assert bench.copy(placed, "pass")["state"] == "done"


def test_passes_on_one_link_share_its_bandwidth_and_those_that_end_give_it_back(
    bench: Bench,
) -> None:
    ana, ben = bench.adopt("ana", is_running=False), bench.adopt("ben", is_running=False)
    bench.copy(ana, "ana")
    bench.wait(90)
    alone = bench.copy(ana, "ana")["bytes_done"]
    bench.copy(ben, "ben")
    bench.wait(30)
    before = bench.copy(ana, "ana")["bytes_done"]
    bench.wait(10)
    assert bench.copy(ana, "ana")["bytes_done"] - before == 10 * 125_000_000 // 2
    assert before > alone
    bench.wait(130)
    assert bench.copy(ana, "ana")["state"] == "done"
    before = bench.copy(ben, "ben")["bytes_done"]
    bench.wait(1)
    assert bench.copy(ben, "ben")["bytes_done"] - before == pytest.approx(125_000_000, abs=2)


def test_both_directions_of_a_link_have_their_own_bandwidth(bench: Bench) -> None:
    ana = bench.adopt("ana", is_running=False)
    bench.load(images=[{"name": "desktop-2026", "size_bytes": 8 * GB, "regions": ["east", "west"]}])
    ben = bench.adopt("ben", region="west", is_running=False)
    bench.copy(ana, "there")

    def back() -> int:
        seen = bench.cloud(
            "copy_volume",
            source_region="west",
            volume_id=ben["volume_id"],
            dest_region="east",
            key="back",
        )
        done: int = seen["bytes_done"]
        return done

    back()
    bench.wait(40)
    before = back(), bench.copy(ana, "there")["bytes_done"]
    bench.wait(4)
    after = back(), bench.copy(ana, "there")["bytes_done"]
    assert [b - a for a, b in zip(before, after, strict=True)] == [500_000_000, 500_000_000]


def test_a_copy_holds_what_its_source_held_when_it_was_asked_for(bench: Bench) -> None:
    placed = bench.adopt()
    bench.wait(600)
    copy = bench.copy(placed, "pass")
    asked_at = bench.content("east", placed["volume_id"])
    bench.wait(3600)
    bench.copy(placed, "pass")
    held = bench.content("west", copy["volume_id"])
    assert held["content_version"] == asked_at["content_version"]
    assert held["written_bytes"] == asked_at["written_bytes"] == 600 * 500_000
    assert bench.content("east", placed["volume_id"])["content_version"] != asked_at


def test_after_a_stop_and_a_last_pass_the_copy_holds_everything(bench: Bench) -> None:
    placed = bench.adopt()
    bench.wait(600)
    first = bench.copied(placed, "first")
    bench.cloud("stop_server", region="east", server_id=placed["server_id"])
    bench.wait(60)
    source = bench.content("east", placed["volume_id"])
    assert (
        bench.content("west", first["volume_id"])["content_version"] != (source["content_version"])
    )
    last = bench.copied(placed, "last", first["volume_id"])
    assert bench.content("west", last["volume_id"]) == source


def test_work_on_the_copy_descends_from_what_the_source_held(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    copy = bench.copied(placed, "pass")
    boot(bench, copy["volume_id"])
    bench.wait(600)
    held = bench.content("west", copy["volume_id"])
    source = bench.content("east", placed["volume_id"])["content_version"]
    assert held["is_being_written"]
    assert held["content_version"] != source
    assert source in held["ancestors"]


def test_work_on_a_copy_that_was_behind_does_not_descend_from_the_source(bench: Bench) -> None:
    placed = bench.adopt()
    bench.wait(600)
    copy = bench.copied(placed, "pass")
    bench.cloud("stop_server", region="east", server_id=placed["server_id"])
    bench.wait(60)
    boot(bench, copy["volume_id"])
    bench.wait(600)
    source = bench.content("east", placed["volume_id"])["content_version"]
    assert source not in bench.content("west", copy["volume_id"])["ancestors"]


def test_the_way_back_sends_only_what_changed_over_there(bench: Bench) -> None:
    placed = bench.adopt(
        is_running=False, dirty_bytes_per_s=100_000, dirty_saturation_bytes=50 * GB
    )
    copy = bench.copied(placed, "pass")
    boot(bench, copy["volume_id"])
    bench.wait(60)
    bench.cloud("delete_server", region="east", server_id=placed["server_id"])
    bench.wait(540)
    back = {
        "source_region": "west",
        "volume_id": copy["volume_id"],
        "dest_region": "east",
        "key": "back",
        "base_volume_id": placed["volume_id"],
    }
    bench.cloud("copy_volume", **back)
    written_bytes = bench.content("west", copy["volume_id"])["written_bytes"]
    bench.wait(3600)
    done = bench.cloud("copy_volume", **back)
    assert done["state"] == "done"
    assert done["volume_id"] == placed["volume_id"]
    assert done["bytes_total"] == pytest.approx(written_bytes, rel=0.01)
    assert bench.content("east", placed["volume_id"])["written_bytes"] == written_bytes


def test_a_base_that_was_worked_on_is_put_right_as_well(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    copy = bench.copied(placed, "first")
    server = boot(bench, copy["volume_id"])
    bench.wait(600)
    bench.cloud("delete_server", region="west", server_id=server)
    bench.wait(60)
    again = bench.copied(placed, "second", copy["volume_id"])
    assert again["bytes_total"] > 0
    assert bench.content("west", copy["volume_id"]) == bench.content("east", placed["volume_id"])


def test_a_failed_pass_says_so_until_abandoned_and_then_begins_anew(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    bench.admin("inject_fault", kind="copy_fails", value=0.4)
    failed = bench.copied(placed, "pass")
    assert failed["state"] == "failed"
    assert failed["bytes_done"] == failed["bytes_total"] * 4 // 10
    assert "broke" in failed["detail"]
    assert bench.copy(placed, "pass") == failed
    bench.cloud("abandon_copy", key="pass", **EAST_WEST)
    assert bench.cloud("inventory", region="west")["volumes"] == []
    assert bench.copied(placed, "pass")["state"] == "done"


def test_a_failed_pass_leaves_its_base_at_its_recovery_point(bench: Bench) -> None:
    placed = bench.adopt()
    first = bench.copied(placed, "first")
    before = bench.content("west", first["volume_id"])
    bench.admin("inject_fault", kind="copy_fails", value=0.9)
    assert bench.copied(placed, "second", first["volume_id"])["state"] == "failed"
    assert bench.content("west", first["volume_id"]) == before
    assert (
        bench.cloud("volume", region="west", volume_id=first["volume_id"])["status"] == "available"
    )
    bench.cloud("abandon_copy", key="second", **EAST_WEST)
    assert bench.content("west", first["volume_id"]) == before


def test_a_pass_cannot_be_abandoned_under_one_that_builds_on_it(bench: Bench) -> None:
    placed = bench.adopt()
    first = bench.copied(placed, "first")
    bench.copy(placed, "second", first["volume_id"])
    with pytest.raises(Conflict):
        bench.cloud("abandon_copy", key="first", **EAST_WEST)
    bench.cloud("abandon_copy", key="second", **EAST_WEST)
    bench.cloud("abandon_copy", key="first", **EAST_WEST)
    assert bench.cloud("inventory", region="west")["volumes"] == []


def test_a_pass_whose_volume_was_deleted_is_made_again(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    first = bench.copied(placed, "pass")
    bench.cloud("delete_volume", region="west", volume_id=first["volume_id"])
    bench.wait(60)
    again = bench.copied(placed, "pass")
    assert again["state"] == "done"
    assert again["volume_id"] != first["volume_id"]


def test_a_volume_that_is_being_copied_is_not_deleted(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    bench.cloud("delete_server", region="east", server_id=placed["server_id"])
    bench.wait(60)
    bench.copy(placed, "pass")
    with pytest.raises(Conflict, match="copied"):
        bench.cloud("delete_volume", region="east", volume_id=placed["volume_id"])
    bench.wait(3600)
    bench.cloud("delete_volume", region="east", volume_id=placed["volume_id"])


def test_a_volume_with_snapshots_is_not_deleted(bench: Bench) -> None:
    asked = {"region": "east", "name": "v", "size_bytes": GB}
    volume = bench.cloud("create_volume", key="v", **asked)
    bench.wait(60)
    snapshot = bench.cloud("snapshot_volume", region="east", volume_id=volume["id"], key="s")
    bench.wait(60)
    with pytest.raises(Conflict, match="snapshots"):
        bench.cloud("delete_volume", region="east", volume_id=volume["id"])
    bench.cloud("delete_snapshot", region="east", snapshot_id=snapshot["id"])
    bench.cloud("delete_volume", region="east", volume_id=volume["id"])


def test_a_base_in_use_is_a_conflict(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    copy = bench.copied(placed, "first")
    boot(bench, copy["volume_id"])
    with pytest.raises(Conflict, match="in use"):
        bench.copy(placed, "second", copy["volume_id"])


def test_a_copy_within_a_region_makes_no_sense(bench: Bench) -> None:
    placed = bench.adopt()
    with pytest.raises(CloudError, match="from one region to another"):
        bench.cloud(
            "copy_volume",
            source_region="east",
            volume_id=placed["volume_id"],
            dest_region="east",
            key="pass",
        )


def test_two_copies_of_one_image_are_one(bench: Bench) -> None:
    first = bench.cloud("copy_image", image="desktop-2026", key="a", **EAST_WEST)
    second = bench.cloud("copy_image", image="desktop-2026", key="b", **EAST_WEST)
    assert first["state"] == second["state"] == "running"
    assert bench.kinds().count("copy.started") == 1
    bench.wait(3600)
    for key in ("a", "b"):
        seen = bench.cloud("copy_image", image="desktop-2026", key=key, **EAST_WEST)
        assert seen["state"] == "done"


def boot(bench: Bench, volume_id: str) -> str:
    asked = bench.cloud(
        "create_server",
        region="west",
        key=f"server on {volume_id}",
        name="copy",
        flavor="desktop.small",
        boot_volume_id=volume_id,
    )
    server_id: str = asked["id"]
    bench.wait(120)
    seen = bench.cloud("server", region="west", server_id=server_id)
    assert seen["status"] == "ACTIVE"
    return server_id
