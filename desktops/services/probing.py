"""Round trips that programs at sites measure, made into what forecasts and plans reckon with.

A round trip is a fact of the network: what is measured at a site counts for every data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet

from desktops.errors import Refused
from desktops.models import Desktop, IntegrationToken, Pool, Region, RoundTripProbe, Site
from desktops.sources.round_trips import Measured, Rejected, read_report

EVERY_S = 300
# Fewer do not outweigh what an admin entered: a line that is busy today is not the line.
LEAST_PROBES = 6

# The median forgets outliers, and a program that measures nonsense until half of all is its own.
SETTLE = """
INSERT INTO desktops_roundtrip (site_id, region_id, source, rtt_ms, measured_at, probes)
SELECT site_id, region_id, 'measured',
       percentile_cont(0.5) WITHIN GROUP (ORDER BY rtt_ms), max(at), count(*)
FROM desktops_roundtripprobe
WHERE site_id = %s AND region_id = ANY(%s) AND at > %s
GROUP BY site_id, region_id HAVING count(*) >= %s
ORDER BY region_id
ON CONFLICT (site_id, region_id, source) DO UPDATE
SET rtt_ms = excluded.rtt_ms, measured_at = excluded.measured_at, probes = excluded.probes
"""


@dataclass(frozen=True, slots=True)
class Target:
    """region : CLOUD/NAME; address : HOST:PORT to connect to"""

    region: str
    address: str


@dataclass(slots=True)
class Receipt:
    """accepted : stored, or known already of this minute"""

    accepted: int = 0
    rejected: list[Rejected] = field(default_factory=list)


def targets(*, token: IntegrationToken) -> list[Target]:
    """What there is to measure for the clouds of the token's pools."""
    mine = _regions(token).exclude(probe_address="").order_by("cloud", "name")
    return [Target(_name(region), region.probe_address) for region in mine]


def report_round_trips(*, token: IntegrationToken, body: object, wall: datetime) -> Receipt:
    """Store what was measured at a site, and reckon with the medians from now on.

    body : parsed JSON, see desktops.sources.round_trips

    Raises Refused when it is no report at all; a bad measurement costs nothing but itself.
    """
    code, measured, rejected = read_report(body)
    site = Site.objects.filter(code=code).first()
    if site is None:
        raise Refused(400, "unknown_site", f"There is no site {code[:60]!r}.")
    regions = {_name(region): region for region in _regions(token)}
    known = [each for each in measured if each.region in regions]
    rejected += [_unknown(each) for each in measured if each.region not in regions]
    if known:
        _store(token, site, [(regions[each.region], each.rtt_ms) for each in known], wall)
    return Receipt(len(known), sorted(rejected, key=lambda row: row.index))


def _store(
    token: IntegrationToken, site: Site, measured: Sequence[tuple[Region, float]], wall: datetime
) -> None:
    minute = wall.replace(second=0, microsecond=0)
    rows = [
        RoundTripProbe(site=site, region=region, program=token.name, at=minute, rtt_ms=rtt_ms)
        for region, rtt_ms in measured
    ]
    touched = sorted({region.pk for region, _ in measured})
    since = wall - timedelta(days=settings.ROUND_TRIP_DAYS)
    with transaction.atomic(), connection.cursor() as cursor:
        RoundTripProbe.objects.bulk_create(rows, ignore_conflicts=True)
        cursor.execute(SETTLE, [site.pk, touched, since, LEAST_PROBES])


def _regions(token: IntegrationToken) -> QuerySet[Region]:
    pools = Pool.objects.filter(dataset=token.dataset_id)
    if token.pool_id:
        pools = pools.filter(pk=token.pool_id)
    # Where they run, and where else their clouds could have them.
    clouds = Desktop.objects.filter(pool__in=pools, region__isnull=False).values("region__cloud")
    return Region.objects.filter(Q(cloud__in=clouds) | Q(cloud__in=pools.values("cloud")))


def _name(region: Region) -> str:
    return f"{region.cloud}/{region.name}"


def _unknown(each: Measured) -> Rejected:
    return Rejected(
        each.index, "unknown_region", f"{each.region[:80]!r} is no region of this token's pools"
    )
