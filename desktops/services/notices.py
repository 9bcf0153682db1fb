"""What is announced, into the tables: what is new, what changed, what is taken back.

Nothing is deleted: forecasts were made from it. Of a person nothing is kept but kind, time and
place; ids of the origin become keyed digests, since they hold names often enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.utils.crypto import salted_hmac

from desktops import events
from desktops.core.notices import LATEST, Announced, InvalidNotice, Uid, Withdrawn
from desktops.errors import InvalidFile, Refused
from desktops.models import Dataset, DesktopUser, IntegrationToken, Notice, Pool, Site
from desktops.pseudonyms import pseudonym
from desktops.selectors import is_fleet_admin, pools_for
from desktops.sources import icalendar_feed, notices_csv
from desktops.sources.announcements import Announcements, Problem
from desktops.sources.icalendar_feed import Horizon

if TYPE_CHECKING:
    from desktops.selectors import Viewer

MOST_TOLD = 20
BATCH = 1000
UNKNOWN_PERSON = "unknown_person"
# Digits of each part of an id, 64 in all: so that one event, or one of its occurrences, can be
# found whatever follows.
UID_DIGITS = (24, 16, 24)
NOTICE_LOCK = 0x6E6F7465
KEPT = ("pool_id", "desktop_user_id", "site_id", "kind", "title", "starts_at", "ends_at")
PAST = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Reach:
    """Of whom and what somebody may announce something.

    pools : those whose people and desktops it may be about
    is_whole : it may also be about the data set as a whole
    pool : what is about nobody and no pool is about this one; None for the data set
    """

    dataset: Dataset
    pools: QuerySet[Pool]
    is_whole: bool
    pool: Pool | None = None

    @classmethod
    def of_dataset(cls, dataset: Dataset, pool: Pool | None = None) -> Reach:
        """Everything in it, or everything in one pool of it."""
        pools = Pool.objects.filter(dataset=dataset)
        if pool:
            pools = pools.filter(pk=pool.pk)
        return cls(dataset, pools, is_whole=pool is None, pool=pool)

    @classmethod
    def of_token(cls, token: IntegrationToken) -> Reach:
        return cls.of_dataset(token.dataset, token.pool)

    @classmethod
    def of_viewer(cls, viewer: Viewer, dataset: Dataset) -> Reach:
        """Their pools; the data set as a whole is the fleet admins'."""
        pools = pools_for(viewer).filter(dataset=dataset)
        return cls(dataset, pools, is_whole=is_fleet_admin(viewer))

    def notices(self) -> QuerySet[Notice]:
        reached = Q(desktop_user__pool__in=self.pools) | Q(desktop_user=None, pool__in=self.pools)
        if self.is_whole:
            reached |= Q(desktop_user=None, pool=None)
        return Notice.objects.filter(reached, dataset=self.dataset)


@dataclass(slots=True)
class Outcome:
    """What announcements led to.

    notices : the rows of those that hold, in the order in which they were announced
    opted_out : trips of people who are not to be located; nothing is kept of these
    unknown_people : announcements of somebody who is nobody here
    problems : the other announcements that were not kept
    """

    notices: list[Notice] = field(default_factory=list)
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    opted_out: int = 0
    unknown_people: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class InvalidNotices(Refused):
    """Announcements of one request that were refused, and all others with them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(400, first.reason, f"{first}. Nothing of this request was kept.")
        self.problems = problems


def announce(
    *,
    entries: Sequence[Announced | Withdrawn],
    reach: Reach,
    origin: Notice.Origin,
    provenance: str,
    wall: datetime,
    actor: str = "",
    check: Callable[[Outcome], None] | None = None,
    replaces_until: datetime | None = None,
) -> Outcome:
    """Write announcements that came together from one place, in one transaction.

    provenance : the place; an id means the same notice only within it
    check : looks at what is wrong before anything is written, and may raise
    replaces_until : what came from there before, has not ended, begins before this moment and is
        not said again is withdrawn
    """
    outcome = Outcome()
    with transaction.atomic():
        _wait_for_others(reach.dataset, provenance)
        rows = _resolved(entries, reach, outcome)
        for row in rows:
            row.dataset, row.origin = reach.dataset, origin
            row.provenance, row.received_at = provenance[:200], wall
        known = {
            row.uid: row
            for row in Notice.objects.filter(
                dataset=reach.dataset, provenance=provenance[:200]
            ).select_related("dataset", "desktop_user", "pool", "site")
        }
        reached = set(
            reach.notices().filter(provenance=provenance[:200]).values_list("uid", flat=True)
        )
        rows = _without_others(rows, known.keys() - reached, entries, outcome)
        if check:
            check(outcome)
        gone = _taken_back(entries, known)
        if replaces_until is not None:
            clock = reach.dataset.clock(wall=wall)
            gone |= {
                uid
                for uid, row in known.items()
                if row.ends_at > clock and row.starts_at < replaces_until
            }
        gone = (gone & reached) - {row.uid for row in rows}
        _write(rows, known, outcome)
        outcome.withdrawn = _withdraw(gone, known, wall)
        if outcome.added or outcome.changed or outcome.withdrawn:
            events.record(
                kind="notices.changed",
                subject=reach.dataset,
                at=wall,
                pool_id=_only_pool(outcome.notices, reach),
                actor=actor,
                origin=str(origin),  # never the provenance: names of files name people
                added=outcome.added,
                changed=outcome.changed,
                withdrawn=outcome.withdrawn,
            )
    return outcome


def _wait_for_others(dataset: Dataset, provenance: str) -> None:
    """One writer at a time of what comes from one place, until the commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(%s))",
            [NOTICE_LOCK, f"{dataset.pk} {provenance}"],
        )


def refuse_any_problem(outcome: Outcome) -> None:
    """For `announce`: all or nothing. Raises InvalidNotices."""
    if problems := [*outcome.problems, *outcome.unknown_people]:
        raise InvalidNotices(problems)


def withdraw_notice(*, notice: Notice, actor: str, at: datetime) -> bool:
    """It no longer holds. False when it did not before."""
    with transaction.atomic():
        withdrawn = Notice.objects.filter(pk=notice.pk, withdrawn_at=None).update(withdrawn_at=at)
        if withdrawn:
            events.record(
                kind="notice.withdrawn",
                subject=notice,
                at=at,
                pool_id=notice.desktop_user.pool_id if notice.desktop_user else notice.pool_id,
                actor=actor,
                notice=notice.kind,
            )
    return bool(withdrawn)


def new_uid() -> Uid:
    """For what was written here and has no id elsewhere."""
    return Uid(str(uuid4()))


def digest_of(uid: Uid) -> str:
    """64 digits that say nothing without the key; equal parts of an id have equal digits."""
    return "".join(_digits(part, n) for part, n in zip(uid, UID_DIGITS, strict=True))


def _digits(text: str, n: int) -> str:
    key = settings.PSEUDONYM_KEY or settings.SECRET_KEY
    return salted_hmac("desktops.notices", text, secret=key, algorithm="sha256").hexdigest()[:n]


# From words to rows


class _Words:
    """What the names in announcements mean, asked of the database once."""

    def __init__(self, entries: Iterable[Announced], reach: Reach) -> None:
        self._reach = reach
        identities = {entry.person for entry in entries if entry.person}
        self._pseudonyms = {identity: pseudonym(identity) for identity in identities}
        people = DesktopUser.objects.filter(
            dataset=reach.dataset,
            pool__in=reach.pools,
            pseudonym__in=set(self._pseudonyms.values()),
        )
        self._people = {person.pseudonym: person for person in people}
        self._pools = {pool.name: pool for pool in reach.pools}
        self._sites = _sites_by_word()

    def person(self, entry: Announced) -> DesktopUser:
        try:
            return self._people[self._pseudonyms[entry.person]]
        except KeyError:
            raise InvalidNotice(UNKNOWN_PERSON, "nobody here signs in like this") from None

    def pool(self, name: str) -> Pool | None:
        if name and name not in self._pools:
            raise InvalidNotice("unknown_pool", f"there is no pool {name[:80]!r} to write to")
        return self._pools[name] if name else self._reach.pool

    def site(self, word: str) -> Site | None:
        if not word:
            return None
        site = self._sites.get(word.casefold())
        if site is None:
            raise InvalidNotice("unknown_site", f"no one site is called {word[:80]!r}")
        return site


def _sites_by_word() -> dict[str, Site | None]:
    """By code, else by label; a label that two sites have means neither."""
    sites = list(Site.objects.all())
    words: dict[str, Site | None] = {}
    for site in sites:
        label = site.label.casefold()
        words[label] = None if label in words else site
    return words | {site.code.casefold(): site for site in sites}


def _resolved(
    entries: Sequence[Announced | Withdrawn], reach: Reach, outcome: Outcome
) -> list[Notice]:
    words = _Words([entry for entry in entries if isinstance(entry, Announced)], reach)
    rows: dict[str, Notice] = {}
    for entry in entries:
        if not isinstance(entry, Announced):
            continue
        try:
            row = _row(entry, words, reach)
            if row.uid in rows:
                raise InvalidNotice("twice", "another one here has the same id")
        except InvalidNotice as error:
            is_unknown = error.reason == UNKNOWN_PERSON
            problems = outcome.unknown_people if is_unknown else outcome.problems
            problems.append(Problem(entry.where, error.reason, str(error)))
        else:
            rows[row.uid] = row
    kept = [row for row in rows.values() if not _tells_too_much(row)]
    outcome.opted_out = len(rows) - len(kept)
    return kept


def _tells_too_much(row: Notice) -> bool:
    """Where somebody will be, who opted out of being located."""
    person = row.desktop_user
    return person is not None and row.site_id is not None and not person.is_located


def _row(entry: Announced, words: _Words, reach: Reach) -> Notice:
    if entry.person and entry.kind == Notice.Kind.CLOSED:
        raise InvalidNotice("bad_person", "people do not close; that is leave or travel")
    if not entry.person and entry.kind in (Notice.Kind.TRAVEL, Notice.Kind.LEAVE):
        raise InvalidNotice("no_person", f"{entry.kind} is somebody's; person is missing")
    person = words.person(entry) if entry.person else None
    pool = None if person else words.pool(entry.pool)
    if not person and not pool and not reach.is_whole:
        raise InvalidNotice("no_pool", "a person or a pool is wanted; not all may be spoken for")
    site = words.site(entry.site)
    if site is None and entry.kind == Notice.Kind.TRAVEL:
        raise InvalidNotice("no_site", "travel to where? A site is wanted")
    zones = [who.time_zone for who in (person, site) if who]
    starts_at, ends_at = entry.span(tuple(zones))
    return Notice(
        pool=pool,
        desktop_user=person,
        site=site,
        kind=entry.kind,
        title="" if person else entry.title,
        starts_at=starts_at,
        ends_at=ends_at,
        uid=digest_of(entry.uid),
    )


def _without_others(
    rows: Sequence[Notice],
    taken: Set[str],
    entries: Sequence[Announced | Withdrawn],
    outcome: Outcome,
) -> list[Notice]:
    """taken : ids of notices beyond the reach, which are not to be changed"""
    if refused := {row.uid for row in rows} & taken:
        where = {digest_of(entry.uid): entry.where for entry in entries}
        outcome.problems += [
            Problem(where[uid], "uid_taken", "its id belongs to a notice of another pool")
            for uid in sorted(refused)
        ]
    return [row for row in rows if row.uid not in refused]


def _taken_back(entries: Iterable[Announced | Withdrawn], known: Mapping[str, Notice]) -> set[str]:
    beginnings = {
        digest_of(entry.uid)[: _length_of(entry.uid)]
        for entry in entries
        if isinstance(entry, Withdrawn)
    }
    lengths = {len(beginning) for beginning in beginnings}
    return {uid for uid in known if any(uid[:n] in beginnings for n in lengths)}


def _length_of(uid: Uid) -> int:
    """Of the digits that count: trailing parts that are empty stand for any."""
    parts = len(uid)
    while parts > 1 and not uid[parts - 1]:
        parts -= 1
    return sum(UID_DIGITS[:parts])


# Writing


def _write(rows: Sequence[Notice], known: Mapping[str, Notice], outcome: Outcome) -> None:
    new, changed = [], []
    for row in rows:
        before = known.get(row.uid)
        if before is None:
            new.append(row)
            outcome.notices.append(row)
        elif before.withdrawn_at is None and not _differs(row, before):
            outcome.unchanged += 1
            outcome.notices.append(before)
        else:
            row.pk = before.pk
            changed.append(row)
            outcome.notices.append(row)
    Notice.objects.bulk_create(new, batch_size=BATCH)
    Notice.objects.bulk_update(
        changed,
        [
            *(name.removesuffix("_id") for name in KEPT),
            "origin",
            "received_at",
            "withdrawn_at",
        ],
        batch_size=BATCH,
    )
    outcome.added, outcome.changed = len(new), len(changed)


def _differs(row: Notice, before: Notice) -> bool:
    return any(getattr(row, name) != getattr(before, name) for name in KEPT)


def _withdraw(uids: Iterable[str], known: Mapping[str, Notice], wall: datetime) -> int:
    held = [known[uid].pk for uid in uids if known[uid].withdrawn_at is None]
    return Notice.objects.filter(pk__in=held, withdrawn_at=None).update(withdrawn_at=wall)


def _only_pool(notices: Iterable[Notice], reach: Reach) -> int | None:
    """Who is told: the members of the one pool that all are about, else everybody."""
    pools = {n.desktop_user.pool_id if n.desktop_user else n.pool_id for n in notices}
    return pools.pop() if len(pools) == 1 else (reach.pool.pk if reach.pool else None)


# Files


@dataclass(frozen=True, slots=True)
class ImportReport:
    """rows : in the file; passed_over : of no kind that is known, or outside the horizon"""

    rows: int
    bad: int
    passed_over: int
    outcome: Outcome
    told: list[str]


def import_notices(
    *,
    path: Path,
    format_name: Literal["csv", "icalendar"],
    dataset: Dataset,
    pool: Pool | None,
    provenance: str,
    tolerance: float,
    replaces: bool,
    ahead: timedelta,
    is_local_part: bool,
    wall: datetime,
    actor: str = "",
) -> ImportReport:
    """Bring a file's announcements in, whole or not at all.

    tolerance : share of rows that may be bad, in 0..1; people who are nobody here are not bad
    replaces : what the file said before and no longer says is withdrawn, if it has not ended
    ahead : how far beyond now what recurs is written down

    Raises InvalidFile, naming the file, lines or UIDs, and reasons; OSError.
    """
    clock = dataset.clock(wall=wall)
    horizon = Horizon(clock - PAST, clock + ahead)
    if format_name == "csv":
        read = notices_csv.read(path)
    else:
        read = icalendar_feed.read(path, horizon=horizon, is_local_part=is_local_part)
    outcome = announce(
        entries=read.entries,
        reach=Reach.of_dataset(dataset, pool),
        origin=Notice.Origin(format_name),
        provenance=provenance,
        wall=wall,
        actor=actor,
        check=lambda outcome: _check(path, read, outcome, tolerance),
        replaces_until=_window_end(horizon, format_name) if replaces else None,
    )
    problems = [*read.problems, *outcome.problems]
    return ImportReport(
        rows=read.rows,
        bad=_bad_rows(problems),
        passed_over=read.passed_over,
        outcome=outcome,
        told=_told(path, [*problems, *outcome.unknown_people]),
    )


def _window_end(horizon: Horizon, format_name: str) -> datetime:
    """A table says all there is; a calendar was read up to the horizon only."""
    return horizon.until if format_name == "icalendar" else LATEST


def _check(path: Path, read: Announcements, outcome: Outcome, tolerance: float) -> None:
    problems = [*read.problems, *outcome.problems]
    bad = _bad_rows(problems)
    if bad > tolerance * read.rows:
        raise InvalidFile(
            "\n  ".join(
                [
                    f"{path.name}: {bad:,} of {read.rows:,} rows are bad, more than"
                    f" {tolerance:.2%}",
                    *_told(path, problems),
                ]
            )
        )
    if not read.rows:
        raise InvalidFile(f"{path.name}: announces nothing")


def _bad_rows(problems: Iterable[Problem]) -> int:
    """One event can have several occurrences, and a problem with each."""
    return len({problem.where for problem in problems})


def _told(path: Path, problems: Sequence[Problem]) -> list[str]:
    """The first problems and how many there are beyond."""
    others = len(problems) - MOST_TOLD
    return [
        *(f"{path.name} {problem}" for problem in problems[:MOST_TOLD]),
        *([f"and {others:,} more"] if others > 0 else []),
    ]
