"""The longest prefix decides, whatever order networks come in and however they are written."""

from __future__ import annotations

import ipaddress
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from desktops.core.geoip import Position, SitePositions, may_be_anywhere, position_of
from desktops.core.networks import (
    InvalidNetworks,
    Network,
    NetworkTable,
    normal_form,
    read_networks,
)

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def table(**sites: str) -> NetworkTable:
    return NetworkTable(Network(cidr, site) for site, cidr in sites.items())


def site_of(networks: NetworkTable, address: str) -> str | None:
    found = networks.find(address)
    return found.site if found else None


def test_the_longest_prefix_decides() -> None:
    networks = table(company="10.0.0.0/8", paris="10.1.0.0/16", floor="10.1.2.0/24")
    assert site_of(networks, "10.1.2.3") == "floor"
    assert site_of(networks, "10.1.3.3") == "paris"
    assert site_of(networks, "10.2.0.0") == "company"
    assert site_of(networks, "10.255.255.255") == "company"
    assert networks.find("11.0.0.0") is None
    assert networks.find("9.255.255.255") is None


def test_ipv6_and_ipv4_written_as_ipv6() -> None:
    networks = table(v6="2001:db8::/32", host="2001:db8::1/128", v4="::ffff:10.0.0.0/104")
    assert site_of(networks, "2001:db8::2") == "v6"
    assert site_of(networks, "2001:DB8:0::1") == "host"
    assert site_of(networks, "10.9.9.9") == site_of(networks, "::ffff:10.9.9.9") == "v4"
    assert site_of(networks, "2001:db8::1%eth0") == "host"
    assert networks.find("::") is None


def test_a_network_without_a_site_hides_the_wider_one_that_has_one() -> None:
    networks = NetworkTable([Network("10.0.0.0/8", "paris"), Network("10.9.0.0/16", None)])
    found = networks.find("10.9.0.1")
    assert found is not None and found.site is None


@pytest.mark.parametrize(
    "text", ["", "10.1.2", "10.1.2.3.4", "010.1.2.3", "host", "10.1.2.3:80", "::1::", "10.0.0.1\0"]
)
def test_what_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address"):
        NetworkTable([]).find(text)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (" 10.1.0.0/16 ", "10.1.0.0/16"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("2001:0DB8:0::/32", "2001:db8::/32"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("0:0:0:0:0:0:0:1", "::1/128"),
    ],
)
def test_a_network_has_one_normal_form(text: str, form: str) -> None:
    assert normal_form(text) == form


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.1.2.3/16", "beyond its prefix"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("10.0.0.0/-1", "from 0 to 32"),
        ("10.0.0.0/", "from 0 to 32"),
        ("10.0.0.0/²", "from 0 to 32"),
        ("2001:db8::/129", "from 0 to 128"),
        ("::ffff:0:0/90", "partly IPv4"),
        ("paris", "not an IP address"),
    ],
)
def test_what_is_no_network_is_an_error(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        normal_form(text)


def _cidr(version: int, number: int, length: int) -> str:
    of = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
    return str(of((number, length), strict=False))


# Few high bits and all lengths: networks that nest, touch and repeat their beginnings.
NETWORKS = st.one_of(
    st.builds(
        lambda n, low, length: _cidr(4, n << 24 | low, length),
        st.integers(0, 3),
        st.integers(0, 2**24 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda n, low, length: _cidr(6, n << 120 | low, length),
        st.integers(0, 3),
        st.integers(0, 255),
        st.integers(0, 128),
    ),
)


@given(st.lists(NETWORKS, unique=True, max_size=30), st.randoms(use_true_random=False))
def test_it_agrees_with_looking_at_every_network(cidrs: list[str], dice: random.Random) -> None:
    networks = NetworkTable(Network(cidr, cidr) for cidr in cidrs)
    parsed = [ipaddress.ip_network(cidr) for cidr in cidrs]
    for address in _addresses(parsed, dice):
        assert site_of(networks, str(address)) == _by_scan(parsed, address), address


def _addresses(
    networks: list[IPNetwork], dice: random.Random
) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Both ends of every network and what lies beyond them, and a few anywhere."""
    chosen = []
    for network in networks:
        bits, kind = network.max_prefixlen, type(network.network_address)
        first, last = int(network[0]), int(network[-1])
        inside = dice.randint(first, last)
        chosen += [
            kind(number)
            for number in (first - 1, first, inside, last, last + 1)
            if 0 <= number < 1 << bits
        ]
    anywhere = [ipaddress.IPv4Address(dice.getrandbits(32)) for _ in range(3)]
    anywhere += [ipaddress.IPv6Address(dice.getrandbits(128)) for _ in range(3)]  # type: ignore[misc]
    return [*chosen, *anywhere]


def _by_scan(networks: list[IPNetwork], address: object) -> str | None:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    around = [network for network in networks if address in network]
    return str(max(around, key=lambda network: network.prefixlen)) if around else None


def test_fifty_thousand_networks_are_built_and_asked_fast() -> None:
    dice = random.Random(7)
    cidrs = {
        _cidr(4, dice.getrandbits(32), dice.choice((12, 16, 20, 22, 24, 26, 28, 32)))
        for _ in range(60_000)
    }
    networks = [Network(cidr, "paris") for cidr in cidrs][:50_000]
    assert len(networks) == 50_000
    addresses = [str(ipaddress.IPv4Address(dice.getrandbits(32))) for _ in range(50_000)]
    started = time.process_time()
    built = NetworkTable(networks)
    build_s = time.process_time() - started
    started = time.process_time()
    for address in addresses:
        built.find(address)
    find_s = time.process_time() - started
    assert build_s < 4
    assert len(addresses) / find_s > 30_000


def write(folder: Path, text: str) -> Path:
    path = folder / "networks.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_read(tmp_path: Path) -> None:
    text = "\ufefflabel,site,cidr\nHead office,paris,10.1.0.0/16\nVPN,unknown,10.9.0.0/16\n,,::1\n"
    assert read_networks(write(tmp_path, text)) == (
        Network("10.1.0.0/16", "paris", "Head office", 2),
        Network("10.9.0.0/16", None, "VPN", 3),
        Network("::1/128", None, "", 4),
    )


def test_every_bad_line_is_told(tmp_path: Path) -> None:
    text = (
        "cidr,site\n10.0.0.0/8,paris\n10.1.2.3/8,paris\n::ffff:10.0.0.0/104,lyon\n1.0.0.0/8,a,b\n"
    )
    with pytest.raises(InvalidNetworks) as refused:
        read_networks(write(tmp_path, text))
    assert str(refused.value).splitlines() == [
        "networks.csv line 3: '10.1.2.3/8' has bits set beyond its prefix",
        "networks.csv line 4: 10.0.0.0/8 stands in line 2 already",
        "networks.csv line 5: more values than columns",
    ]


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidNetworks, match="and 80 more"):
        read_networks(write(tmp_path, "cidr,site\n" + "x,paris\n" * 100))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no column cidr, site"),
        ("cidr,label\n", "line 1: no column site"),
        ("cidr,site\n", "holds no network"),
        ('cidr,site\n"10.0.0.0/8,paris\n', "after line 1: unexpected end"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidNetworks, match=why):
        read_networks(write(tmp_path, text))


def test_a_table_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "networks.csv"
    path.write_bytes("cidr,site,label\n10.0.0.0/8,paris,Caf\xe9\n".encode("latin-1"))
    with pytest.raises(InvalidNetworks, match="is not UTF-8"):
        read_networks(path)


SITES = SitePositions(
    ("paris", "versailles", "lyon"), np.array([48.86, 48.80, 45.76]), np.array([2.35, 2.13, 4.84])
)


def test_a_position_is_at_the_site_that_is_nearest_wherever_in_its_circle_it_is() -> None:
    assert SITES.surely_at(Position(45.70, 4.80, 20)) == "lyon"
    assert SITES.surely_at(Position(48.86, 2.36, 5)) == "paris"


def test_a_position_that_two_sites_can_claim_is_unknown() -> None:
    assert SITES.surely_at(Position(48.86, 2.36, 20)) is None


def test_a_position_too_far_or_too_vague_is_unknown() -> None:
    assert SITES.surely_at(Position(43.30, 5.37, 5)) is None  # Marseille
    assert SITES.surely_at(Position(45.76, 4.84, 500)) is None
    assert SitePositions((), np.array([]), np.array([])).surely_at(Position(0, 0, 1)) is None


def test_a_record_is_read() -> None:
    place = {"latitude": 45.76, "longitude": 4.84}
    assert position_of({"location": place}) == Position(45.76, 4.84, 50)
    assert position_of({"location": {**place, "accuracy_radius": 10}}) == Position(45.76, 4.84, 10)


@pytest.mark.parametrize(
    "record",
    [
        None,
        "a text",
        {},
        {"country": {"iso_code": "FR"}},
        {"location": {"latitude": 45.76}},
        {"location": {"latitude": "45", "longitude": 4.84}},
        {"location": {"latitude": float("nan"), "longitude": 4.84}},
        {"location": {"latitude": 145.0, "longitude": 4.84}},
        {"location": {"latitude": 45.76, "longitude": 4.84}, "traits": {"is_anonymous_vpn": True}},
        {"location": {"latitude": 45.76, "longitude": 4.84}, "is_anonymous_proxy": True},
    ],
)
def test_a_record_without_a_place_or_of_a_proxy_is_unknown(record: object) -> None:
    assert position_of(record) is None


def test_private_and_reserved_addresses_are_nowhere() -> None:
    for address in ("10.0.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "fe80::1", "fd00::1"):
        assert may_be_anywhere(ipaddress.ip_address(address))
    assert not may_be_anywhere(ipaddress.ip_address("8.8.8.8"))
