"""Which network an address belongs to: the one with the longest prefix among those that hold it."""

from __future__ import annotations

import csv
import ipaddress
import socket
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("cidr", "site", "label")
UNKNOWN = "unknown"
LONGEST_LABEL = 120
MOST_PROBLEMS = 20
SURPLUS = "values beyond the header"
MAPPED = 0xFFFF  # before the last 32 bits of an IPv6 address: those are an IPv4 address
BITS = {4: 32, 6: 128}
ADDRESS = {4: ipaddress.IPv4Address, 6: ipaddress.IPv6Address}
NETWORK = {4: ipaddress.IPv4Network, 6: ipaddress.IPv6Network}


class InvalidNetworks(ValueError):
    """A table of networks is wrong; the message names the file, lines and reasons."""


@dataclass(frozen=True, slots=True)
class Network:
    """site : code of the site; None where nobody's place can be told, as behind a VPN's exit
    line : where it stands in its file, from 1
    """

    cidr: str
    site: str | None
    label: str = ""
    line: int = 0


class NetworkTable:
    """Finds the network of an address among tens of thousands, in about a microsecond.

    Networks nest or are apart, so the addresses fall into stretches that one network each decides;
    where these begin is sorted, and one bisection finds an address's.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        spans = [(*parse_network(network.cidr), network) for network in networks]
        self._stretches = {
            version: _stretches(
                (first, first + (1 << (bits - length)) - 1, network)
                for of, first, length, network in spans
                if of == version
            )
            for version, bits in BITS.items()
        }

    def find(self, address: str) -> Network | None:
        """The network that decides; None when no network holds the address.

        Raises ValueError for what is no address.
        """
        version, number = parse_address(address)
        starts, networks = self._stretches[version]
        return networks[bisect_right(starts, number) - 1]


def _stretches(
    spans: Iterable[tuple[int, int, Network]],
) -> tuple[list[int], list[Network | None]]:
    """Where each stretch begins, ascending from 0, and what decides in it."""
    starts: list[int] = [0]
    deciding: list[Network | None] = [None]

    def begin(start: int, network: Network | None) -> None:
        if starts[-1] == start:
            deciding[-1] = network
        else:
            starts.append(start)
            deciding.append(network)

    around: list[tuple[int, Network]] = []  # last address and network, from the widest inwards

    def leave(until: int | None) -> None:
        while around and (until is None or around[-1][0] < until):
            last, _ = around.pop()
            begin(last + 1, around[-1][1] if around else None)

    for first, last, network in sorted(spans, key=lambda span: (span[0], -span[1])):
        leave(first)
        begin(first, network)
        around.append((last, network))
    leave(None)
    return starts, deciding


def parse_address(text: str) -> tuple[int, int]:
    """IP version and number of an address; an IPv4 address written as IPv6 is IPv4.

    Raises ValueError. (socket reads an address several times faster than ipaddress.)
    """
    try:
        if ":" not in text:
            return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
        # The zone after % names an interface of the machine that wrote it down.
        packed = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IP address") from None
    number = int.from_bytes(packed, "big")
    if number >> 32 == MAPPED:
        return 4, number & 0xFFFFFFFF
    return 6, number


def parse_network(text: str) -> tuple[int, int, int]:
    """IP version, first address and prefix length; IPv4 written as IPv6 is IPv4.

    Raises ValueError. (ipaddress takes twenty times as long, which tens of thousands feel.)
    """
    address, slash, digits = text.strip().partition("/")
    version, first = parse_address(address)
    written_in = 128 if ":" in address else 32
    if not slash:
        digits = str(written_in)
    if not (digits.isascii() and digits.isdigit() and int(digits) <= written_in):
        raise ValueError(f"{text.strip()!r} has no prefix length from 0 to {written_in}")
    length = int(digits) - (written_in - BITS[version])
    if length < 0:
        raise ValueError(f"{text.strip()!r} is partly IPv4; write its parts apart")
    if first & ((1 << (BITS[version] - length)) - 1):
        raise ValueError(f"{text.strip()!r} has bits set beyond its prefix")
    return version, first, length


def normal_form(text: str) -> str:
    """A network as it is always written here. Raises ValueError."""
    version, first, length = parse_network(text)
    return str(NETWORK[version]((first, length)))


def read_networks(path: Path) -> tuple[Network, ...]:
    """A CSV file with the columns of COLUMNS in its header (label may be absent).

    Each cidr comes back in its normal form, an empty or `unknown` site as None. Raises
    InvalidNetworks, which names the first lines that are wrong, and OSError.
    """
    problems: list[str] = []
    networks: dict[str, Network] = {}
    for line, row in _rows(path):
        try:
            network = _network(row, line)
            if known := networks.get(network.cidr):
                raise ValueError(f"{network.cidr} stands in line {known.line} already")
        except ValueError as error:
            problems.append(f"{path.name} line {line}: {error}")
        else:
            networks[network.cidr] = network
    if problems:
        raise InvalidNetworks(told(problems))
    if not networks:
        raise InvalidNetworks(f"{path.name}: holds no network")
    return tuple(networks.values())


def told(problems: list[str]) -> str:
    """The first problems, a line each, and how many there are beyond."""
    others = len(problems) - MOST_PROBLEMS
    return "\n".join([*problems[:MOST_PROBLEMS], *([f"and {others:,} more"] if others > 0 else [])])


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    # The byte order mark is what spreadsheets put before "CSV UTF-8".
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True, restkey=SURPLUS, restval="")
        try:
            header = [name.strip() for name in reader.fieldnames or ()]
            if missing := sorted({"cidr", "site"} - set(header)):
                raise InvalidNetworks(f"{path.name} line 1: no column {', '.join(missing)}")
            reader.fieldnames = header
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise InvalidNetworks(f"{path.name} after line {reader.line_num}: {error}") from None
        except UnicodeDecodeError:
            raise InvalidNetworks(
                f"{path.name} after line {reader.line_num}: is not UTF-8"
            ) from None


def _network(row: dict[str, str], line: int) -> Network:
    if SURPLUS in row:
        raise ValueError("more values than columns")
    site, label = row["site"].strip(), row.get("label", "").strip()
    if len(label) > LONGEST_LABEL:
        raise ValueError(f"the label is longer than {LONGEST_LABEL} characters")
    return Network(
        cidr=normal_form(row["cidr"]),
        site=None if site.casefold() in ("", UNKNOWN) else site,
        label=label,
        line=line,
    )
