"""The one way from what a source observed to what is stored: believed, resolved, once.

A row that cannot be stored is not lost: it lies in quarantine with the reason, without a name,
and can be replayed when the reason is gone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from desktops.models import DesktopUser, Pool, QuarantinedRow, Site, Source
from desktops.pseudonyms import pseudonym
from desktops.services.datasets import ensure_people
from desktops.services.samples import Rows, write_samples
from desktops.sources.checks import believable
from desktops.sources.samples import MEASURES, IntArray, Labels, Rejections, Samples, Screen

NO_LIMIT = 2**31
ALWAYS_S = -(2**63)
NAME_LENGTH = 80
QUARANTINED_AT_ONCE = 1000  # rows made at once: a whole batch of them may be refused


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of the rows that were handed over.

    duplicates : were there already, and are not stored again
    stored_lines : the lines of what was stored, shape (rows,)
    rejected : line → the reason, in quarantine; details : the same as a sentence
    """

    rows: int
    rejected_rows: int
    duplicates: int
    stored_lines: IntArray
    rejected: dict[int, str]
    details: dict[int, str]


def ensure_source(*, pool: Pool, kind: Source.Kind, name: str = "") -> Source:
    """The pool's source of that kind and name, made when there is none.

    Names of pools and programs, put together, may come to what another source is called: then the
    name gets digits.
    """
    wanted = name or f"{kind}-{pool.name}"
    digits = hashlib.sha256(f"{kind} {pool.pk} {wanted}".encode()).hexdigest()[:12]
    for each in (wanted[:NAME_LENGTH], f"{wanted[: NAME_LENGTH - 13]}-{digits}"):
        source, _ = Source.objects.select_related("dataset").get_or_create(
            name=each, defaults={"kind": kind, "dataset_id": pool.dataset_id, "pool": pool}
        )
        if (source.kind, source.pool_id) == (kind, pool.pk):
            return source
    raise ValueError(f"Both names for {wanted!r} are those of other sources.")


def store(
    *,
    source: Source,
    samples: Samples,
    wall: datetime,
    cursor_at: datetime | None = None,
    makes_people: bool = False,
    are_pseudonyms: bool = False,
    quarantines: bool = True,
) -> Stored:
    """Store a source's samples, all that can be believed and resolved, in one transaction.

    samples : persons as they sign in (or pseudonyms, with `are_pseudonyms`), desktops by server
        id, key or server name, sites by code
    cursor_at : how far a pulled source has been asked, written with its samples
    makes_people : somebody unknown who was seen, at work or at a place, is made a person of the
        pool; that somebody unknown was not seen is passed over. So nobody who was erased comes
        back without having come back
    quarantines : keep what is refused. Not so for a replay: that keeps the row it replays, and
        says nothing of how the source itself is doing
    """
    with transaction.atomic():
        # Also the lock under which write_samples finds what is there already.
        source = (
            Source.objects.select_for_update(of=("self",), no_key=True)
            .select_related("dataset", "pool")
            .get(pk=source.pk)
        )
        rejections = Rejections(most=NO_LIMIT, rows=len(samples))
        believed = _believe(source, samples, wall, rejections)
        resolver = _Resolver(source, makes_people=makes_people, are_pseudonyms=are_pseudonyms)
        rows = resolver.resolve(believed, rejections)
        stored = write_samples(source=source, rows=rows, at=wall)
        if quarantines:
            _quarantine(source, samples, rejections, resolver, wall)
            _report(source, rejections, wall=wall, cursor_at=cursor_at)
        _count(source, stored)
    return Stored(
        rows=len(stored),
        rejected_rows=rejections.rejected,
        duplicates=len(rows) - len(stored),
        stored_lines=stored.line,
        rejected=rejections.codes,
        details=dict(rejections.first),
    )


def _believe(source: Source, samples: Samples, wall: datetime, rejections: Rejections) -> Samples:
    clock = source.dataset.clock(wall=wall)
    return believable(
        samples,
        wall=clock,
        earliest=clock - timedelta(days=settings.OLDEST_SAMPLE_DAYS),
        sites=frozenset(Site.objects.values_list("code", flat=True)),
        rejections=rejections,
    )


class _Resolver:
    """Names to the ids of the rows they mean, within the source's pool."""

    def __init__(self, source: Source, *, makes_people: bool, are_pseudonyms: bool) -> None:
        self._source = source
        self._makes_people = makes_people
        self._are_pseudonyms = are_pseudonyms

    def pseudonym(self, identity: str) -> str:
        return identity if self._are_pseudonyms else pseudonym(identity)

    def resolve(self, samples: Samples, rejections: Rejections) -> Rows:
        if self._makes_people:
            samples = self._with_people_made(samples)
        desktop = _ids(samples.desktop, self._desktops(samples.desktop.used()))
        person = _ids(samples.person, self._people(samples.person.used()))
        site = _ids(samples.site, _sites(samples.site.used()))
        screen = Screen(samples.line, rejections)
        screen.refuse(
            samples.desktop.is_given & (desktop == 0),
            lambda n: f"desktop {samples.desktop.text(n)[:80]!r} is not one of the pool",
            "unknown_desktop",
        )
        screen.refuse(
            samples.person.is_given & (person == 0),
            lambda n: "the person is not one of the pool",
            "unknown_person",
        )
        person, desktop = self._completed(person, desktop, samples.unix_s)
        site[np.isin(person, self._unlocated())] = 0
        observed = site > 0
        for values in samples.measures.values():
            observed = observed | (values == values)
        keep = screen.passed & observed
        rows = Rows(samples.line, samples.unix_s, person, desktop, site, samples.measures)
        return rows.take(keep)

    def _with_people_made(self, samples: Samples) -> Samples:
        """Without what is said of people who are unknown and were not seen."""
        active = samples.measures.get("active_ratio", np.zeros(len(samples)))
        is_seen = samples.site.is_given | (active > 0)
        ensure_people(
            dataset=self._source.dataset,
            pool=self._source.pool,
            pseudonyms={self.pseudonym(name) for name in samples.take(is_seen).person.used()},
        )
        person = _ids(samples.person, self._people(samples.person.used()))
        return samples.take(~samples.person.is_given | (person > 0))

    def subjects(self, samples: Samples) -> tuple[IntArray, IntArray]:
        """The ids of person and desktop of each sample, 0 where there is or is known none."""
        desktop = _ids(samples.desktop, self._desktops(samples.desktop.used()))
        person = _ids(samples.person, self._people(samples.person.used()))
        return self._completed(person, desktop, samples.unix_s)

    def _desktops(self, labels: list[str]) -> dict[str, int]:
        """A server's id says more than a key, and a key more than a name that may occur twice."""
        if not labels:
            return {}
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT label, key, server_id, id FROM desktops_desktop WHERE pool_id = %s"
                " AND (key = ANY(%s) OR server_id = ANY(%s) OR label = ANY(%s))",
                [self._source.pool_id, labels, labels, labels],
            )
            found = cursor.fetchall()
        ids: dict[str, int] = {}
        for column in range(3):
            ids.update({row[column]: row[3] for row in found if row[column]})
        return ids

    def _people(self, labels: list[str]) -> dict[str, int]:
        if not labels:
            return {}
        pseudonyms = {label: self.pseudonym(label) for label in labels}
        known = dict(
            DesktopUser.objects.filter(
                dataset=self._source.dataset_id,
                pool=self._source.pool_id,
                pseudonym__in=set(pseudonyms.values()),
            ).values_list("pseudonym", "pk")
        )
        return {label: known[name] for label, name in pseudonyms.items() if name in known}

    def _completed(
        self, person: IntArray, desktop: IntArray, unix_s: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Whose desktop it was, and which desktop was theirs, where only one of both is said.

        Before its owner got it from somebody else it was not theirs, and whose it was is not kept.
        """
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, desktop_user_id,"
                " coalesce(ceil(extract(epoch FROM owned_since))::bigint, %s)"
                " FROM desktops_desktop"
                " WHERE desktop_user_id IS NOT NULL"
                " AND (id = ANY(%s) OR desktop_user_id = ANY(%s))",
                [ALWAYS_S, _some(desktop[person == 0]), _some(person[desktop == 0])],
            )
            found = np.array(cursor.fetchall(), dtype=np.int64).reshape(-1, 3)
        desktops, owners, since_s = found.T
        owner = _looked_up(desktop, desktops, owners)
        owner[unix_s < _looked_up(desktop, desktops, since_s)] = 0
        owned = _looked_up(person, owners, desktops)
        owned[unix_s < _looked_up(person, owners, since_s)] = 0
        return np.where(person == 0, owner, person), np.where(desktop == 0, owned, desktop)

    def _unlocated(self) -> list[int]:
        # Of the data set, not of the pool: somebody's desktop may be in another one than they.
        opted_out = DesktopUser.objects.filter(dataset=self._source.dataset_id, is_located=False)
        return list(opted_out.values_list("pk", flat=True))


def _sites(codes: list[str]) -> dict[str, int]:
    return dict(Site.objects.filter(code__in=codes).values_list("code", "pk")) if codes else {}


def _some(ids: IntArray) -> list[int]:
    return [int(each) for each in np.unique(ids) if each]


def _ids(labels: Labels, ids: dict[str, int]) -> IntArray:
    """0 where there is no label, or none that is known."""
    keys: IntArray = np.array([ids.get(value, 0) for value in labels.values] + [0], dtype=np.int64)
    return keys[labels.codes]


def _looked_up(wanted: IntArray, keys: IntArray, values: IntArray) -> IntArray:
    """The value of each key, 0 where there is none."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    order = np.argsort(keys)
    at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    found = keys[order][at] == wanted
    result: IntArray = np.where(found, values[order][at], 0)
    return result


def _quarantine(
    source: Source,
    samples: Samples,
    rejections: Rejections,
    resolver: _Resolver,
    wall: datetime,
) -> None:
    if not rejections.first:
        return
    row_of = {int(line): row for row, line in enumerate(samples.line)}
    person, desktop = resolver.subjects(samples)
    for begin in range(0, len(rejections.first), QUARANTINED_AT_ONCE):
        QuarantinedRow.objects.bulk_create(
            QuarantinedRow(
                source=source,
                desktop_id=int(desktop[row_of[line]]) or None,
                desktop_user_id=int(person[row_of[line]]) or None,
                received_at=wall,
                reason=rejections.codes[line],
                detail=sentence[:300],
                row=_as_json(samples, row_of[line], resolver),
            )
            for line, sentence in rejections.first[begin : begin + QUARANTINED_AT_ONCE]
        )


def _as_json(samples: Samples, row: int, resolver: _Resolver) -> dict[str, object]:
    """The observation as it would have been stored: a pseudonym, never a name."""
    shown: dict[str, object] = {"at": int(samples.unix_s[row])}
    if person := samples.person.text(row):
        shown["person"] = resolver.pseudonym(person)
    for name, labels in (("desktop", samples.desktop), ("site", samples.site)):
        if text := labels.text(row):
            shown[name] = text[:200].replace("\0", "")
    for name in MEASURES:
        value = float(samples.measures[name][row]) if name in samples.measures else np.nan
        if not np.isnan(value):
            shown[name] = value if np.isfinite(value) else str(value)
    return shown


def _report(
    source: Source, rejections: Rejections, *, wall: datetime, cursor_at: datetime | None
) -> None:
    """How the source is doing, for the page."""
    changes: dict[str, object] = {
        "last_attempt_at": wall,
        "last_success_at": wall,
        "last_error": "",
        "rejected_rows": F("rejected_rows") + rejections.rejected,
    }
    if cursor_at is not None:
        changes["cursor_at"] = cursor_at
    Source.objects.filter(pk=source.pk).update(**changes)


def _count(source: Source, stored: Rows) -> None:
    if not len(stored):
        return
    newest = datetime.fromtimestamp(int(stored.unix_s.max()), UTC)
    Source.objects.filter(pk=source.pk).update(
        rows=F("rows") + len(stored), newest_at=Greatest(F("newest_at"), Value(newest))
    )
