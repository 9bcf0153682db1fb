"""What is reported of people's presence, stored as places and made to confirm what was planned."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from celery import current_app
from django.conf import settings
from django.core.cache import cache
from django.db import connection, transaction

from desktops.models import DesktopUser, IntegrationToken, Pool, Site, Source
from desktops.pseudonyms import pseudonym
from desktops.services.ingest import ensure_source, store
from desktops.services.locating import site_finder
from desktops.sources.checks import SKEW_S
from desktops.sources.presence import Observation, Rejected, read_observations
from desktops.sources.samples import Labels, Samples

# By name: this app knows nothing of forecasts and moves.
HEED = ("forecasting.tasks.heed_sightings", "migration.tasks.confirm_seen")
RING_EVERY_S = 1
NAME_LENGTH = 80
REASONS: Mapping[str, str] = {
    "future": "at lies in the future: is the clock right, and is it seconds?",
    "too_old": "at lies too far back to be of use",
}

# Both lock in the order in which sightings are written, so that two never wait in a circle.
# That somebody left is kept, so that what was seen before and comes late does not bring them back.
LEFT_UNSEEN = """
INSERT INTO desktops_sighting (desktop_user_id, at, source_id)
SELECT person.id, to_timestamp(max(gone.at)), %s
FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) gone (person, site, at)
JOIN desktops_desktopuser person ON person.id = gone.person AND person.is_located
GROUP BY person.id ORDER BY person.id
ON CONFLICT DO NOTHING
"""
LEFT = """
WITH gone AS (
    SELECT sighting.desktop_user_id AS person, gone.at FROM desktops_sighting sighting
    LEFT JOIN desktops_site site ON site.id = sighting.site_id
    JOIN unnest(%s::bigint[], %s::text[], %s::bigint[]) gone (person, site, at)
        ON gone.person = sighting.desktop_user_id
        AND (site.id IS NULL OR gone.site = site.code)
        AND sighting.at <= to_timestamp(gone.at)
    ORDER BY 1 FOR UPDATE OF sighting
), newest AS (SELECT person, max(at) AS at FROM gone GROUP BY person)
UPDATE desktops_sighting SET site_id = NULL, at = to_timestamp(newest.at)
FROM newest WHERE desktop_user_id = newest.person
"""


@dataclass(slots=True)
class Receipt:
    """What became of a report. accepted + unknown_place + len(rejected) is what was sent.

    accepted : stored, or known already
    unknown_place : of known people, at an address that is at no known site
    """

    accepted: int = 0
    unknown_place: int = 0
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Seen:
    """An observation whose person and place are known; who that is, by pseudonym alone."""

    index: int
    person: DesktopUser
    site: str
    unix_s: int
    is_present: bool


def report_presence(*, token: IntegrationToken, body: object, wall: datetime) -> Receipt:
    """Store what a program saw of people of its data set, or of its pool alone.

    body : parsed JSON, see desktops.sources.presence

    Raises Refused when it is no report at all; a bad observation costs nothing but itself. When
    this returns, what was accepted cannot be lost. Each pool is a transaction of its own, so that
    nobody holds one pool's rows while waiting for another's; a report that broke off between two
    is sent again, and stores nothing twice.
    """
    clock = token.dataset.clock(wall=wall)
    observations, rejected = read_observations(body, now=clock)
    receipt = Receipt(rejected=rejected)
    seen = _resolved(observations, token=token, clock=clock, receipt=receipt)
    for pool, of_pool in _by_pool(seen):
        name = source_name(pool=pool, program=token.name)
        source = ensure_source(pool=pool, kind=Source.Kind.PRESENCE, name=name)
        _store([each for each in of_pool if each.is_present], source, wall, receipt)
        _note_who_left([each for each in of_pool if not each.is_present], source, receipt)
    if receipt.accepted:
        transaction.on_commit(ring, robust=True)
    receipt.rejected.sort(key=lambda row: row.index)
    return receipt


def ring() -> None:
    """Have forecasts and waiting transitions held against what was just seen; rung at most once a
    second.

    The one ring comes at the end of its second, after everything else that is seen in it.
    """
    if cache.add("presence.rung", True, timeout=RING_EVERY_S):
        for task in HEED:
            current_app.send_task(task, countdown=RING_EVERY_S, expires=RING_EVERY_S + 30)


def _resolved(
    observations: Sequence[Observation],
    *,
    token: IntegrationToken,
    clock: datetime,
    receipt: Receipt,
) -> list[_Seen]:
    people = _people(token, {observation.person for observation in observations})
    sites = frozenset(Site.objects.values_list("code", flat=True))
    find = site_finder().find
    seen = []
    for each in observations:
        site = find(each.address) if each.address is not None else each.site
        person = people.get(each.person)
        if person is None:
            fault = ("unknown_person", "nobody whom this token reaches signs in like this")
        elif site and site not in sites:
            fault = ("unknown_site", f"there is no site {site[:60]!r}")
        elif not each.is_present and (reason := _unbelievable(each.unix_s, clock)):
            fault = (reason, REASONS[reason])
        elif not site:
            receipt.unknown_place += 1
            continue
        else:
            seen.append(_Seen(each.index, person, site, each.unix_s, each.is_present))
            continue
        receipt.rejected.append(Rejected(each.index, *fault))
    return seen


def _people(token: IntegrationToken, identities: set[str]) -> dict[str, DesktopUser]:
    """Those whom the token reaches, by what they sign in with."""
    pseudonyms = {identity: pseudonym(identity) for identity in identities}
    people = DesktopUser.objects.filter(
        dataset=token.dataset_id, pseudonym__in=set(pseudonyms.values())
    ).select_related("pool")
    if token.pool_id:
        people = people.filter(pool=token.pool_id)
    known = {person.pseudonym: person for person in people}
    return {identity: known[name] for identity, name in pseudonyms.items() if name in known}


def _unbelievable(unix_s: int, clock: datetime) -> str:
    """As desktops.sources.checks says of samples, for those who left: they become none."""
    if unix_s > clock.timestamp() + SKEW_S:
        return "future"
    oldest = clock - timedelta(days=settings.OLDEST_SAMPLE_DAYS)
    return "too_old" if unix_s < oldest.timestamp() else ""


def _by_pool(seen: Iterable[_Seen]) -> list[tuple[Pool, list[_Seen]]]:
    pools: dict[Pool, list[_Seen]] = defaultdict(list)
    for each in seen:
        pools[each.person.pool].append(each)
    return list(pools.items())


def _store(seen: list[_Seen], source: Source, wall: datetime, receipt: Receipt) -> None:
    if not seen:
        return
    # Nothing waits in quarantine: whoever reports reads in the answer what was refused, and why.
    stored = store(
        source=source, samples=_samples(seen), wall=wall, are_pseudonyms=True, quarantines=False
    )
    index = [each.index for each in seen]
    receipt.rejected += [
        Rejected(index[line], reason, REASONS.get(reason, "cannot be stored"))
        for line, reason in stored.rejected.items()
    ]
    receipt.accepted += len(seen) - len(stored.rejected)


def source_name(*, pool: Pool, program: str) -> str:
    """Of a program's reports on a pool; it outlives the token they came with."""
    name = f"presence-{pool.name}-{program}"
    if len(name) <= NAME_LENGTH:
        return name
    return f"{name[: NAME_LENGTH - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _samples(seen: Sequence[_Seen]) -> Samples:
    n = len(seen)
    return Samples(
        np.arange(n),
        np.array([each.unix_s for each in seen], dtype=np.int64),
        _labels([each.person.pseudonym for each in seen]),
        Labels.none(n),
        _labels([each.site for each in seen]),
        {},
    )


def _labels(values: Sequence[str]) -> Labels:
    distinct = tuple(dict.fromkeys(values))
    number = {value: n for n, value in enumerate(distinct)}
    return Labels(distinct, np.array([number[value] for value in values], dtype=np.int64))


def _note_who_left(left: list[_Seen], source: Source, receipt: Receipt) -> None:
    """Somebody who has left a place is not there to confirm a plan with."""
    if not left:
        return
    columns = [
        [each.person.pk for each in left],
        [each.site for each in left],
        [each.unix_s for each in left],
    ]
    for statement, parameters in ((LEFT_UNSEEN, [source.pk, *columns]), (LEFT, columns)):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, parameters)
    receipt.accepted += len(left)
