from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from desktops.clouds.simulator.errors import BadRequest
from desktops.clouds.simulator.faults import NoAnswer
from desktops.core.cloud import (
    CloudError,
    CloudUnavailable,
    Conflict,
    Forbidden,
    NotFound,
    QuotaExceeded,
)
from tests.support.simulator import GB, desktop, two_regions
from tests.unit.simulator.bench import Bench

VOLUME = {"region": "east", "name": "v", "size_bytes": GB}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("unavailable", CloudUnavailable),
        ("timeout", NoAnswer),
        ("conflict", Conflict),
        ("quota", QuotaExceeded),
        ("forbidden", Forbidden),
    ],
)
def test_a_refusal_strikes_as_often_as_ordered_and_does_nothing(
    bench: Bench, kind: str, error: type[CloudError]
) -> None:
    bench.admin("inject_fault", kind=kind, operation="create_volume", times=2)
    for _ in range(2):
        with pytest.raises(error):
            bench.cloud("create_volume", key="v", **VOLUME)
    assert bench.cloud("find_volume", region="east", key="v") is None
    bench.cloud("create_volume", key="v", **VOLUME)
    assert bench.kinds().count("fault.struck") == 2


def test_a_lost_answer_loses_nothing_else(bench: Bench) -> None:
    bench.admin("inject_fault", kind="lost_answer", operation="create_volume")
    with pytest.raises(NoAnswer):
        bench.cloud("create_volume", key="v", **VOLUME)
    made = bench.cloud("find_volume", region="east", key="v")
    assert bench.cloud("create_volume", key="v", **VOLUME)["id"] == made["id"]


def test_a_fault_strikes_only_its_operation_and_its_region(bench: Bench) -> None:
    bench.admin("inject_fault", kind="unavailable", operation="inventory", region="west")
    bench.cloud("regions")
    bench.cloud("inventory", region="east")
    with pytest.raises(CloudUnavailable):
        bench.cloud("inventory", region="west")


def test_an_unreachable_region_comes_back(bench: Bench) -> None:
    placed = bench.adopt(is_running=False)
    bench.admin("inject_fault", kind="region_unreachable", region="west", value=600)
    bench.cloud("inventory", region="east")
    with pytest.raises(CloudUnavailable):
        bench.cloud("inventory", region="west")
    with pytest.raises(CloudUnavailable):
        bench.copy(placed, "pass")
    bench.wait(600)
    bench.cloud("inventory", region="west")
    assert bench.admin("faults") == []


def test_background_trouble_strikes_at_its_rate(bench: Bench) -> None:
    bench.admin("inject_fault", kind="background", value=0.2)
    failures = 0
    for _ in range(1000):
        try:
            bench.cloud("regions")
        except CloudUnavailable:
            failures += 1
    assert 150 < failures < 250
    bench.admin("clear_faults")
    for _ in range(100):
        bench.cloud("regions")


def test_faults_survive_a_restart(bench: Bench) -> None:
    bench.admin("inject_fault", kind="unavailable")
    bench.reopen()
    with pytest.raises(CloudUnavailable):
        bench.cloud("regions")


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"kind": "gremlins"}, "gremlins"),
        ({"kind": "copy_fails", "value": 2}, "ratio"),
        ({"kind": "copy_fails"}, "ratio"),
        ({"kind": "slow_boot"}, "seconds"),
        ({"kind": "region_unreachable", "value": 5}, "region"),
        ({"kind": "unavailable", "times": 0}, "times"),
        ({"kind": "unavailable", "region": "atlantis"}, "atlantis"),
        ({"kind": "unavailable", "times": "many"}, "times"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(
    bench: Bench, fault: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(CloudError, match=complaint):
        bench.admin("inject_fault", **fault)
    assert bench.admin("faults") == []


def without(given: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}


EAST = two_regions()["regions"][0]
FLAVOR = two_regions()["flavors"][0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"regions": None}, "world.regions: list is wanted"),
        ({"regions": [without(EAST, "latitude")]}, r"world.regions\[0\].latitude: missing"),
        ({"regions": [EAST | {"latitude": 91}]}, "latitude: 91 is not in"),
        ({"regions": [EAST | {"latitude": True}]}, "latitude"),
        ({"regions": [EAST | {"latitude": float("nan")}]}, "latitude: nan"),
        ({"regions": [EAST | {"moons": 2}]}, r"regions\[0\].moons: not a known field"),
        ({"regions": [EAST, EAST]}, r"regions\[1\]: east is there already"),
        ({"links": two_regions()["links"][:1] * 2}, r"links\[1\]: east → west is there already"),
        ({"regions": [EAST | {"quota": {"vcpu": 2}}]}, "quota.vcpu: not a known field"),
        ({"regions": [EAST | {"quota": {"vcpus": -1}}]}, "quota.vcpus: -1 is not in"),
        ({"links": [{"source": "east", "dest": "moon"}]}, "no region 'moon'"),
        ({"links": [{"source": "east", "dest": "west", "bytes_per_s": 0}]}, "bytes_per_s: 0"),
        ({"flavors": [FLAVOR | {"price_per_hour_micros": {"moon": 1}}]}, "no region 'moon'"),
        ({"flavors": [FLAVOR | {"price_per_hour_micros": {"east": 0.5}}]}, "int is wanted"),
        ({"images": [{"name": "i", "size_bytes": 1, "regions": ["moon"]}]}, "no region 'moon'"),
        ({"durations_s": {"bot": 1}}, "durations_s.bot: known are"),
        ({"weather": "fine"}, "world.weather: not a known field"),
    ],
)
def test_a_wrong_world_is_refused_by_name(
    bench: Bench, changes: dict[str, Any], complaint: str
) -> None:
    before = bench.admin("world")
    with pytest.raises(BadRequest, match=complaint):
        bench.admin("load_world", world=two_regions(**changes))
    assert bench.admin("world") == before


def test_a_world_loaded_twice_is_one_world(bench: Bench) -> None:
    assert bench.admin("load_world", world=two_regions()) == {"is_changed": False}
    assert bench.kinds().count("world.loaded") == 1


def test_a_world_may_grow_but_not_lose_what_is_lived_in(bench: Bench) -> None:
    bench.adopt()
    world = two_regions()
    with pytest.raises(Conflict, match="region east"):
        bench.admin(
            "load_world",
            world=world
            | {
                "regions": world["regions"][1:],
                "links": [],
                "flavors": [],
                "images": [],
            },
        )
    with pytest.raises(Conflict, match=r"flavor desktop\.small"):
        bench.admin("load_world", world=world | {"flavors": world["flavors"][1:]})
    north = {"name": "north", "latitude": 59.3, "longitude": 18.1}
    bench.admin("load_world", world=world | {"regions": [*world["regions"], north]})
    assert bench.cloud("regions") == ["east", "north", "west"]
    bench.reopen()
    assert bench.cloud("regions") == ["east", "north", "west"]


def test_a_link_without_facts_is_estimated_by_distance(bench: Bench) -> None:
    bench.load(links=[])
    estimate = bench.admin("link", source="east", dest="west")
    assert 40 < estimate["rtt_ms"] < 70  # 3,500 km
    assert estimate == bench.admin("link", source="west", dest="east")


def test_the_inventory_has_the_regions_own_prices(bench: Bench) -> None:
    for region, price in (("east", 100_000), ("west", 120_000)):
        flavors = bench.cloud("inventory", region=region)["flavors"]
        assert flavors[0]["price_per_hour_micros"] == price


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"region": "moon"}, r"desktops\[1\]: no region 'moon'"),
        ({"flavor": "huge"}, r"desktops\[1\].flavor: no flavor 'huge' in east"),
        ({"used_bytes": 1}, r"desktops\[1\].used_bytes: 1 is not between"),
        ({"volume_bytes": "big"}, r"desktops\[1\].volume_bytes: int is wanted"),
        ({"is_running": 1}, r"desktops\[1\].is_running: bool is wanted"),
        ({"colour": "red"}, r"desktops\[1\].colour: not a known field"),
    ],
)
def test_one_wrong_desktop_refuses_the_whole_list(
    bench: Bench, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BadRequest, match=complaint):
        bench.admin("adopt", desktops=[desktop("ana"), desktop("ben", **changes)])
    assert bench.cloud("inventory", region="east")["servers"] == []


def test_a_desktop_cannot_have_an_image_its_region_lacks(bench: Bench) -> None:
    with pytest.raises(NotFound, match="no image 'desktop-2026' in west"):
        bench.adopt(region="west")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"region": 5, "server_id": "x"},
        {"region": "east", "server_id": None},
        {"region": "east", "server_id": "x", "force": True},
    ],
)
def test_wrong_arguments_are_refused_by_name(bench: Bench, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="stop_server"):
        bench.cloud("stop_server", **arguments)


def test_an_unknown_operation_is_refused(bench: Bench) -> None:
    with pytest.raises(BadRequest, match="no operation"):
        bench.cloud("__init__")


@pytest.mark.parametrize("change", ["UPDATE journal SET kind = 'x'", "DELETE FROM journal"])
def test_the_journal_is_append_only(bench: Bench, change: str) -> None:
    bench.adopt()
    bench.simulation.close()
    db = sqlite3.connect(bench.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute(change)
    db.close()
    bench.reopen()
