"""From a client's address to a site: by the admin's networks, else by a GeoIP database.

An address is looked at and forgotten: only the site goes any further.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import maxminddb
import numpy as np
from django.conf import settings
from django.db import connection, transaction

from desktops.core.geoip import SitePositions, may_be_anywhere, position_of
from desktops.core.networks import (
    ADDRESS,
    InvalidNetworks,
    Network,
    NetworkTable,
    parse_address,
    read_networks,
    told,
)
from desktops.models import Network as NetworkRow
from desktops.models import Site

logger = logging.getLogger(__name__)

GRACE_S = 5.0  # a changed table counts after so long in every process
BATCH = 5000


@dataclass(frozen=True, slots=True)
class SiteFinder:
    """Where addresses are; made once, asked often, and never asking the database itself."""

    networks: NetworkTable
    sites: SitePositions
    geoip: maxminddb.Reader | None = None

    def find(self, address: str) -> str | None:
        """The code of the site; None for unknown, which is any address not surely at one.

        The admin's word counts before GeoIP: a VPN's exit is unknown, wherever it stands.
        """
        try:
            if network := self.networks.find(address):
                return network.site
            return self._by_geoip(address) if self.geoip else None
        except ValueError:
            return None

    def _by_geoip(self, address: str) -> str | None:
        assert self.geoip is not None
        version, number = parse_address(address)
        plain = ADDRESS[version](number)
        if may_be_anywhere(plain):
            return None
        try:
            position = position_of(self.geoip.get(plain))
        except maxminddb.InvalidDatabaseError as error:
            logger.error("The GeoIP database is damaged: %s", error)
            return None
        return self.sites.surely_at(position) if position else None


class _Cached:
    """What a process has made, until what it was made from is seen to have changed.

    Looked at every GRACE_S. While one thread makes it anew, the others use the old one.
    """

    def __init__(self, state: Callable[[], object], make: Callable[[], SiteFinder]) -> None:
        self._state, self._make = state, make
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        self._made: SiteFinder | None = None
        self._made_from: object = None
        self._looked_at = -GRACE_S

    def get(self) -> SiteFinder:
        made = self._made
        if made and time.monotonic() - self._looked_at < GRACE_S:
            return made
        if not self._lock.acquire(blocking=made is None):
            assert made is not None
            return made
        try:
            return self._look()
        finally:
            self._lock.release()

    def _look(self) -> SiteFinder:
        looked_at = time.monotonic()
        if self._made and looked_at - self._looked_at < GRACE_S:
            return self._made  # by the thread that this one waited for
        state = self._state()
        if self._made is None or state != self._made_from:
            self._made, self._made_from = self._make(), state
        self._looked_at = looked_at
        return self._made


def site_finder() -> SiteFinder:
    """Finds the site of an address by what the tables say now, give or take GRACE_S.

    Cheap enough to be asked for with every request.
    """
    return _cached.get()


def forget_sites() -> None:
    """Make the next site_finder() of this process look at the tables again."""
    _cached.forget()


def open_geoip() -> maxminddb.Reader | None:
    """The database that GEOIP_DATABASE names; None when it names none.

    Raises OSError, maxminddb.InvalidDatabaseError, and ValueError when it is of another kind.
    """
    path: Path | None = settings.GEOIP_DATABASE
    if path is None:
        return None
    reader = maxminddb.open_database(path)
    kind = reader.metadata().database_type
    if not any(word in kind for word in ("City", "Enterprise", "Insights")):
        reader.close()
        raise ValueError(f"it holds no coordinates: a City database is needed, this is {kind}")
    return reader


def _state() -> object:
    """Differs when a network, a site or the GeoIP database was added, changed or removed.

    Every change of a row gives it a new xmin, so the sum of all differs.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT (count(*), sum(xmin::text::bigint))::text FROM desktops_network),"
            " (SELECT (count(*), sum(xmin::text::bigint))::text FROM desktops_site)"
        )
        rows = cursor.fetchone()
    return (*rows, _geoip_state())


def _geoip_state() -> object:
    path: Path | None = settings.GEOIP_DATABASE
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _make() -> SiteFinder:
    rows = NetworkRow.objects.values_list("cidr", "site__code", "label")
    sites = list(Site.objects.order_by("code").values_list("code", "latitude", "longitude"))
    coordinates = np.array([site[1:] for site in sites], dtype=np.float64).reshape(-1, 2)
    return SiteFinder(
        NetworkTable(Network(cidr, site, label) for cidr, site, label in rows),
        SitePositions(tuple(site[0] for site in sites), coordinates[:, 0], coordinates[:, 1]),
        _geoip_or_none(),
    )


def _geoip_or_none() -> maxminddb.Reader | None:
    """A database that went bad while we run costs places, not requests (webapp.checks looks at
    it when a process starts)."""
    try:
        return open_geoip()
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        logger.error("The GeoIP database cannot be used: %s", error)
        return None


_cached = _Cached(_state, _make)


@dataclass(frozen=True, slots=True)
class NetworksReport:
    """How many rows an import added, changed, left as they were and removed."""

    added: int
    changed: int
    unchanged: int
    removed: int


def import_networks(*, path: Path, replaces: bool) -> NetworksReport:
    """Bring a CSV table of networks in, whole or not at all.

    replaces : networks that are not in the file are removed

    Raises InvalidNetworks, naming file, lines and reasons; OSError.
    """
    networks = read_networks(path)
    with transaction.atomic():
        site_ids = dict(Site.objects.values_list("code", "pk"))
        _check_sites(path, networks, site_ids)
        known = {row.cidr: row for row in NetworkRow.objects.select_for_update()}
        rows = [
            NetworkRow(cidr=n.cidr, site_id=site_ids[n.site] if n.site else None, label=n.label)
            for n in networks
        ]
        new = [row for row in rows if row.cidr not in known]
        changed = [row for row in rows if row.cidr in known and not _is_same(row, known[row.cidr])]
        NetworkRow.objects.bulk_create(
            [*new, *changed],
            batch_size=BATCH,
            update_conflicts=True,
            unique_fields=("cidr",),
            update_fields=("site", "label"),
        )
        gone = known.keys() - {row.cidr for row in rows} if replaces else frozenset()
        NetworkRow.objects.filter(pk__in=[known[cidr].pk for cidr in gone]).delete()
    forget_sites()
    return NetworksReport(len(new), len(changed), len(rows) - len(new) - len(changed), len(gone))


def _check_sites(path: Path, networks: tuple[Network, ...], site_ids: dict[str, int]) -> None:
    problems = [
        f"{path.name} line {network.line}: there is no site {network.site!r}"
        for network in networks
        if network.site and network.site not in site_ids
    ]
    if problems:
        raise InvalidNetworks(told(problems))


def _is_same(row: NetworkRow, other: NetworkRow) -> bool:
    return (row.site_id, row.label) == (other.site_id, other.label)
