from __future__ import annotations

import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from desktops.clouds.qemu.options import OptionError, parse
from desktops.clouds.registry import get_cloud
from webapp.checks import clouds_can_be_connected

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "qemu.toml.example"
SMALLEST: dict[str, Any] = {
    "regions": {"east": {"folder": "/srv/east"}},
    "flavors": {"small": {"vcpus": 1, "memory_mib": 256}},
}


def test_the_example_is_well_written() -> None:
    (options,) = (parse(table) for table in tomllib.loads(EXAMPLE.read_text()).values())
    assert set(options.regions) == {"paris", "oslo"}
    assert options.regions["paris"].limits.volume_bytes == 4000 << 30
    assert options.flavors["office"].memory_bytes == 4 << 30


def test_what_is_not_said_has_a_default() -> None:
    options = parse(SMALLEST)
    east = options.regions["east"]
    assert (options.accelerator, options.cpu, east.netdev) == ("kvm", "host", "user")
    assert east.limits.servers is None
    assert parse({**SMALLEST, "accelerator": "tcg"}).cpu == "max"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("regions", {}),
        ("regions", None),
        ("flavors", "small"),
        ("regions.east.folder", None),
        ("regions.east.folder", "relative"),
        ("regions.east.folder", "/a,b"),
        ("regions.east.run", "ip netns exec east"),
        ("regions.east.run", [1]),
        ("regions.east.quota", 3),
        ("regions.east.quota.servers", 0),
        ("regions.east.quota.cpus", 4),
        ("flavors.small.vcpus", True),
        ("flavors.small.vcpus", 1.5),
        ("flavors.small.memory_mib", None),
        ("shutdown_timeout_s", -1),
        ("shutdown_timeout_s", "long"),
        ("colour", "blue"),
    ],
)
def test_a_wrong_option_is_named_with_its_place(path: str, value: Any) -> None:
    options = deepcopy(SMALLEST)
    *tables, name = path.split(".")
    table = options
    for one in tables:
        table = table.setdefault(one, {})
    table.pop(name, None)
    if value is not None:
        table[name] = value
    with pytest.raises(OptionError, match=rf"^{path}\b"):
        parse(options)


def test_a_cloud_that_is_not_well_written_is_told_before_anything_starts(settings: Any) -> None:
    settings.CLOUDS = {
        "fine": {"driver": "desktops.clouds.qemu", "options": SMALLEST},
        "plant": {"driver": "desktops.clouds.qemu", "options": {**SMALLEST, "regions": {}}},
    }
    get_cloud.cache_clear()
    (error,) = clouds_can_be_connected()
    get_cloud.cache_clear()
    assert error.id == "webapp.E003"
    assert "'plant': regions" in error.msg


def test_a_region_has_a_name_that_folders_and_pages_can_show() -> None:
    with pytest.raises(OptionError, match="regions"):
        parse({**SMALLEST, "regions": {"../east": {"folder": "/srv/east"}}})
