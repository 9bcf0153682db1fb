"""Volume files of the simulated cloud: bytes that follow from the history of what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from desktops.core.cloud import Conflict, NotFound
from tests.support.simulator import GB
from tests.unit.simulator.bench import Bench

BLOCK = 4096
EAST_WEST = {"source_region": "east", "dest_region": "west"}
BUSY = {"dirty_bytes_per_s": 1_000_000, "dirty_saturation_bytes": 2 * GB}


def snapshot_file(bench: Bench, placed: Any, key: str) -> Path:
    taken = bench.cloud("snapshot_volume", region="east", volume_id=placed["volume_id"], key=key)
    bench.wait(600)
    return Path(bench.cloud("snapshot_place", region="east", snapshot_id=taken["id"]))


def volume_file(bench: Bench, region: str, volume_id: str) -> Path:
    return Path(bench.cloud("volume_place", region=region, volume_id=volume_id))


def front(path: Path) -> bytes:
    """All that is no hole, and more."""
    with path.open("rb") as file:
        return file.read(8000 * BLOCK)


def blocks(path: Path) -> list[bytes]:
    """Without the first, which says what the file holds."""
    data = front(path)
    return [data[at : at + BLOCK] for at in range(BLOCK, len(data), BLOCK)]


def changed(a: Path, b: Path) -> int:
    return sum(one != other for one, other in zip(blocks(a), blocks(b), strict=True))


def test_a_file_is_as_large_as_its_volume_and_mostly_a_hole(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    path = volume_file(bench, "east", placed["volume_id"])
    assert path.stat().st_size == 40 * GB
    assert path.stat().st_blocks * 512 == pytest.approx(20 * GB / 1000, rel=0.05)


def test_what_a_user_wrote_is_what_differs(bench: Bench) -> None:
    placed = bench.adopt(**BUSY)
    first = snapshot_file(bench, placed, "first")
    second = snapshot_file(bench, placed, "second")
    by_then = snapshot_file(bench, placed, "third")
    ten_minutes = changed(first, second)
    assert ten_minutes == pytest.approx(600 * 1_000_000 / 1000 / BLOCK, rel=0.25)
    assert ten_minutes < changed(first, by_then) < 2 * ten_minutes


def test_desktops_of_one_image_have_it_in_common(bench: Bench) -> None:
    ana, ben = (bench.adopt(name, is_running=False) for name in ("ana", "ben"))
    files = [volume_file(bench, "east", placed["volume_id"]) for placed in (ana, ben)]
    common = set(blocks(files[0])) & set(blocks(files[1])) - {bytes(BLOCK)}
    assert len(common) == 8 * GB // 1000 // BLOCK
    assert changed(*files) == 20 * GB // 1000 // BLOCK - len(common)


def test_the_same_history_makes_the_same_file_again(bench: Bench) -> None:
    placed = bench.adopt(**BUSY)
    path = snapshot_file(bench, placed, "first")
    before = front(path)
    path.unlink()
    assert front(snapshot_file(bench, placed, "first")) == before


def test_a_volume_holds_what_a_relay_wrote_to_its_file(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    source = volume_file(bench, "east", placed["volume_id"])
    made = received(bench, placed)
    dest = volume_file(bench, "west", made["id"])
    assert dest.stat().st_blocks <= 16, "nothing in it but its own first block"
    with dest.open("r+b") as file:
        file.write(front(source))
    held = [
        bench.admin("content", region=region, volume_id=volume_id)["content_version"]
        for region, volume_id in (("east", placed["volume_id"]), ("west", made["id"]))
    ]
    assert held[0] == held[1]


def test_what_ran_on_a_volume_since_is_not_forgotten_for_its_file(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    volume_file(bench, "east", placed["volume_id"])
    where = {"region": "east", "server_id": placed["server_id"]}
    bench.cloud("start_server", **where)
    bench.wait(3600)
    bench.cloud("stop_server", **where)
    bench.wait(600)
    bench.cloud("delete_server", **where)
    bench.wait(600)
    content = bench.admin("content", region="east", volume_id=placed["volume_id"])
    assert content["ancestors"], "it still has what was written"
    again = volume_file(bench, "east", placed["volume_id"])
    assert content["content_version"].encode() in front(again)[:BLOCK]


def test_nobody_reads_what_is_being_written(bench: Bench) -> None:
    placed = bench.adopt()
    with pytest.raises(Conflict, match="running"):
        volume_file(bench, "east", placed["volume_id"])


def test_files_go_with_what_they_are_of(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    path = snapshot_file(bench, placed, "first")
    taken = bench.cloud("find_snapshot", region="east", key="first")
    bench.cloud("delete_snapshot", region="east", snapshot_id=taken["id"])
    assert not path.exists()
    with pytest.raises(NotFound):
        bench.cloud("snapshot_place", region="east", snapshot_id=taken["id"])
    made = received(bench, placed)
    dest = volume_file(bench, "west", made["id"])
    bench.cloud("delete_volume", region="west", volume_id=made["id"])
    bench.wait(600)
    assert bench.cloud("find_volume", region="west", key="pass") is None
    assert not dest.exists()


def test_a_volume_is_received_once(bench: Bench) -> None:
    placed = bench.adopt()
    assert received(bench, placed)["id"] == received(bench, placed)["id"]


def received(bench: Bench, placed: Any) -> Any:
    made = bench.cloud("receive_volume", volume_id=placed["volume_id"], key="pass", **EAST_WEST)
    bench.wait(600)
    return made
