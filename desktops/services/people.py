"""Erasing people, and what they opted out of.

One transaction takes a person, or all their places, out of every table but the raw samples: nothing
that arrives later brings them back. Raw samples have no index by person, so a worker goes through
them day by day, for everybody at once whose Erasure is under way. What was interrupted is finished
by the next run, at the latest by the hourly one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from secrets import token_hex

from celery import current_app
from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.db.models import F, Model, Q, QuerySet
from django.db.models.functions import Coalesce

from desktops import events
from desktops.aliases import alias_of
from desktops.errors import Refused
from desktops.keeping import keepers
from desktops.models import (
    Activity,
    AgentCommand,
    ApplicationUse,
    Batch,
    Dataset,
    Desktop,
    DesktopUser,
    DirtyHour,
    DiskRead,
    Drift,
    Erasure,
    ImportedFile,
    Notice,
    PersonName,
    QuarantinedRow,
    Sample,
    Sighting,
    Source,
    Watermark,
)
from desktops.pseudonyms import pseudonym
from desktops.selectors import is_being_unplaced
from desktops.services.retention import alone
from desktops.services.samples import partition_days

DAY = timedelta(days=1)
LOCK = 0x65726173
ERASURES_AT_ONCE = 1000
FORGET = "desktops.tasks.forget_samples"
BY_NUMBER = Sample._meta.db_table  # rows that know people by number, without a foreign key


@dataclass(frozen=True, slots=True)
class Erased:
    """alias : what remains; remarks : what the product cannot change, and the admin may"""

    alias: str
    remarks: tuple[str, ...]


def find_person(*, dataset: str, pseudonym_: str = "", identity: str = "") -> DesktopUser:
    """By pseudonym, or by the name they sign in with; raises Refused."""
    wanted = pseudonym_ or pseudonym(identity)
    people = DesktopUser.objects.select_related("dataset", "pool")
    person = people.filter(dataset__name=dataset, pseudonym=wanted).first()
    if person is None:
        raise Refused(404, "unknown_person", f"The data set {dataset} has no such person.")
    return person


def erase_person(*, person_id: int, identity: str = "", actor: str, wall: datetime) -> Erased:
    """Delete everything that leads back to somebody, from raw samples by a worker. Raises Refused.

    identity : as they sign in, when it is known: names of imported files may hold it
    """
    with transaction.atomic():
        person, desktop = _locked(person_id)
        _refuse_if_moving(desktop)
        alias = alias_of(person)
        remarks = _remarks(desktop)
        _forget_rows(person, desktop, identity=identity, wall=wall)
        _begin(Erasure.What.PERSON, person, desktop, actor=actor, wall=wall)
        _release(desktop, at=person.dataset.clock(wall=wall))
        person.delete()
    return Erased(alias, remarks)


def _begin(
    what: Erasure.What,
    person: DesktopUser,
    desktop: Desktop | None,
    *,
    actor: str,
    wall: datetime,
) -> None:
    """Have a worker go through the raw samples, once this transaction has committed."""
    Erasure.objects.create(
        what=what,
        person_id=person.pk,
        desktop_id=desktop.pk if desktop else 0,
        alias=alias_of(person),
        pool_id=person.pool_id,
        actor=actor,
        begun_at=wall,
    )
    transaction.on_commit(lambda: current_app.send_task(FORGET), robust=True)


def finish_erasures(*, wall: datetime) -> int | None:
    """Take out of raw samples what is to go from them, for all who wait for it.

    Returns how many were finished; None when somebody else is at it.
    """
    finished = 0
    with alone(LOCK) as is_ours:
        if not is_ours:
            return None
        while some := list(_under_way().order_by("pk")[:ERASURES_AT_ONCE]):
            for day in partition_days():
                _forget_day(datetime.combine(day, time.min, UTC), some)
            finished += sum(_close(erasure, wall=wall) for erasure in some)
    return finished


def _under_way() -> QuerySet[Erasure]:
    return Erasure.objects.filter(finished_at=None)


def _locked(person_id: int) -> tuple[DesktopUser, Desktop | None]:
    """The person and their desktop, while nobody stores, plans or rolls up anything of them.

    Whoever stores samples holds their source, and whoever plans the data set; both look up whose
    a desktop is only then. Marks of hours, the desktop's own too, are taken before person and
    desktop, as roll-ups do.
    """
    person = DesktopUser.objects.filter(pk=person_id).first()
    if person is None:
        raise Refused(404, "unknown_person", "There is no such person any more.")
    list(Dataset.objects.select_for_update(no_key=True).filter(pk=person.dataset_id))
    list(
        Source.objects.select_for_update(no_key=True)
        .filter(dataset=person.dataset_id)
        .order_by("pk")
    )
    desktop_id = Desktop.objects.filter(desktop_user=person_id).values_list("pk", flat=True).first()
    marks = Q(desktop_user_id=person_id)
    if desktop_id is not None:
        marks |= Q(desktop_user_id=0, desktop_id=desktop_id)
    list(
        DirtyHour.objects.select_for_update()
        .filter(marks)
        .order_by("hour", "desktop_user_id", "desktop_id")
    )
    locked = (
        DesktopUser.objects.select_for_update(of=("self",))
        .select_related("dataset")
        .filter(pk=person_id)
        .first()
    )
    if locked is None:
        raise Refused(404, "unknown_person", "There is no such person any more.")
    desktop = Desktop.objects.select_for_update().filter(pk=desktop_id, desktop_user=locked).first()
    return locked, desktop


def _refuse_if_moving(desktop: Desktop | None) -> None:
    for keeper in keepers():
        if obstacle := keeper.obstacle(desktop):
            raise Refused(409, "transition_unfinished", obstacle)


def _remarks(desktop: Desktop | None) -> tuple[str, ...]:
    if desktop is None or desktop.state == Desktop.State.RECORDED or desktop.label == desktop.key:
        return ()
    return (
        f"The server {desktop.server_id} may still be called {desktop.label} in its cloud; its"
        f" desktop here is {desktop.key} now.",
    )


def _words(person: DesktopUser, identity: str) -> list[str]:
    """What names of files may know somebody by."""
    name = PersonName.objects.filter(desktop_user=person).values_list("name", flat=True).first()
    return [word for word in (person.pseudonym, name, identity.strip()) if word]


def _forget_rows(
    person: DesktopUser, desktop: Desktop | None, *, identity: str, wall: datetime
) -> None:
    """Everything but the raw samples and the person's own row, with what hangs on that."""
    for keeper in keepers():
        keeper.erase(person, desktop)
    for model in (Activity, ApplicationUse, Sighting):
        model.objects.filter(desktop_user=person).delete()
    for marks in (DirtyHour, Watermark):
        marks.objects.filter(desktop_user_id=person.pk).delete()
    quarantine_of(person, desktop).delete()
    # The digest stays: the same file must not bring them back.
    files_of(person, identity=identity).update(name=F("sha256"))
    edits_of(person).delete()
    if desktop is not None:
        _forget_behaviour(desktop, wall=wall)


def _content_types(*models: type[Model]) -> Iterable[ContentType]:
    return ContentType.objects.get_for_models(*models).values()


def quarantine_of(person: DesktopUser, desktop: Desktop | None) -> QuerySet[QuarantinedRow]:
    """Refused rows of them or their desktop, known then or not."""
    theirs = Q(desktop_user=person) | Q(row__person=person.pseudonym)
    if desktop is not None:
        names = {desktop.key, desktop.label, desktop.server_id} - {""}
        theirs |= Q(desktop=desktop) | Q(row__desktop__in=sorted(names))
    return QuarantinedRow.objects.filter(theirs, source__dataset=person.dataset_id)


def files_of(person: DesktopUser, *, identity: str = "") -> QuerySet[ImportedFile]:
    """Imported files whose name may mean them."""
    named = Q()
    for word in _words(person, identity):
        named |= Q(name__icontains=word)
    return ImportedFile.objects.filter(named, dataset=person.dataset_id)


def edits_of(person: DesktopUser) -> QuerySet[LogEntry]:
    """Of their row and name, in the admin's log."""
    return LogEntry.objects.filter(
        content_type__in=_content_types(DesktopUser, PersonName), object_id=str(person.pk)
    )


def _forget_behaviour(desktop: Desktop, *, wall: datetime) -> None:
    """What was seen of the desktop alone while it was theirs, delivered and not settled included.

    The batches' ids stay: an agent that delivers one again must not bring it back.
    """
    Activity.objects.filter(desktop=desktop, desktop_user=None).delete()
    ApplicationUse.objects.filter(desktop=desktop, desktop_user=None).delete()
    DiskRead.objects.filter(desktop=desktop).delete()
    AgentCommand.objects.filter(desktop=desktop).delete()
    for marks in (DirtyHour, Watermark):
        marks.objects.filter(desktop_id=desktop.pk, desktop_user_id=0).delete()
    Batch.objects.filter(desktop=desktop).update(
        body=None,
        extras=None,
        settled_at=Coalesce("settled_at", wall),
        rows=Coalesce("rows", 0),
        rejected_rows=Coalesce("rejected_rows", 0),
    )


def _release(desktop: Desktop | None, *, at: datetime) -> None:
    """Recorded history goes with the person; a desktop that runs stays, as nobody's.

    at : by the clock of its data; what was observed before is no later owner's
    Its label may be the person's name. Its key never is (desktops.services.drifts).
    """
    if desktop is None:
        return
    if desktop.state == Desktop.State.RECORDED:
        if not Activity.objects.filter(desktop=desktop).exists():
            desktop.delete()
            return
        # Others were seen on it. No cloud knows its key, which was made of a name in a file.
        desktop.key = f"recorded-{token_hex(8)}"
        Desktop.objects.filter(pk=desktop.pk).update(key=desktop.key)
    Drift.objects.filter(server_id=desktop.server_id).exclude(server_id="").update(
        name=desktop.key, detail=""
    )
    Desktop.objects.filter(pk=desktop.pk).update(
        desktop_user=None, label=desktop.key, owned_since=at
    )


def _forget_day(since: datetime, erasures: Sequence[Erasure]) -> None:
    """since : the beginning of a day of raw samples"""
    of = {what: [e for e in erasures if e.what == what] for what in Erasure.What}
    erased, unplaced = of[Erasure.What.PERSON], of[Erasure.What.PLACES]
    day = [since, since + DAY]
    with connection.cursor() as cursor:
        if erased:
            cursor.execute(
                f"DELETE FROM {BY_NUMBER} s WHERE at >= %s AND at < %s AND ("
                " desktop_user_id = ANY(%s) OR desktop_user_id = 0 AND EXISTS ("
                " SELECT FROM unnest(%s::bigint[], %s::timestamptz[]) gone (desktop, begun_at)"
                " WHERE gone.desktop > 0 AND gone.desktop = s.desktop_id AND s.at < begun_at))",
                [
                    *day,
                    [e.person_id for e in erased],
                    [e.desktop_id for e in erased],
                    [e.begun_at for e in erased],
                ],
            )
        if unplaced:
            cursor.execute(
                f"UPDATE {BY_NUMBER} SET site_id = 0"
                " WHERE at >= %s AND at < %s AND desktop_user_id = ANY(%s) AND site_id > 0",
                [*day, [e.person_id for e in unplaced]],
            )


def _close(erasure: Erasure, *, wall: datetime) -> int:
    kinds = {Erasure.What.PERSON: "person.erased", Erasure.What.PLACES: "person.places_erased"}
    with transaction.atomic():
        closed = _under_way().filter(pk=erasure.pk)
        n = closed.update(finished_at=wall, person_id=0, desktop_id=0)
        if n:
            events.record(
                kind=kinds[Erasure.What(erasure.what)],
                subject=events.Subject("desktopuser", erasure.alias),
                at=wall,
                pool_id=erasure.pool_id,
                actor=erasure.actor,
            )
    return n


def set_opt_outs(
    *,
    person_id: int,
    is_predicted: bool | None = None,
    is_located: bool | None = None,
    actor: str,
    wall: datetime,
) -> DesktopUser:
    """Leave somebody out of predictions or places (False), or take them in again (True).

    What was kept of it so far is deleted at once, from raw samples by a worker. None leaves it as
    it is. Raises Refused.
    """
    wanted = {"is_predicted": is_predicted, "is_located": is_located}
    with transaction.atomic():
        person, desktop = _locked(person_id)
        changed = {
            name: value
            for name, value in wanted.items()
            if value is not None and value != getattr(person, name)
        }
        if changed.get("is_located") and is_being_unplaced(person):
            # Hours computed anew would find places that are still to go.
            raise Refused(
                409, "erasure_unfinished", "Their places are still being erased: try again later."
            )
        for name, value in changed.items():
            setattr(person, name, value)
        person.save(update_fields=list(changed))
        if is_predicted is False:
            for keeper in keepers():
                keeper.forget_prediction(person, desktop)
        if is_located is False:
            _forget_places(person, desktop)
            if not is_being_unplaced(person):
                _begin(Erasure.What.PLACES, person, desktop, actor=actor, wall=wall)
        if changed:
            events.record(
                kind="person.opt_outs_changed",
                subject=person,
                at=wall,
                pool_id=person.pool_id,
                actor=actor,
                **changed,
            )
    return person


def _forget_places(person: DesktopUser, desktop: Desktop | None) -> None:
    """Everything but the raw samples; hours computed anew of these get no place any more."""
    for keeper in keepers():
        keeper.forget_places(person, desktop)
    Activity.objects.filter(desktop_user=person, site__isnull=False).update(site=None)
    Notice.objects.filter(desktop_user=person, site__isnull=False).update(site=None)
    Sighting.objects.filter(desktop_user=person).delete()
    held = Q(desktop_user=person) | Q(row__person=person.pseudonym)
    for row in QuarantinedRow.objects.filter(held, row__has_key="site"):
        del row.row["site"]
        row.save(update_fields=["row"])
