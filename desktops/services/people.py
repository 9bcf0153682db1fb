"""Erasing people, and what they opted out of.

An erasure begins in one transaction, after which the person is gone from every table but the raw
samples: nothing that arrives later finds them. Raw samples have no index by person, so they are
deleted day by day, outside of that transaction; an erasure that was interrupted is finished by
the next one, or within the hour by beat.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from secrets import token_hex

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import connection, transaction
from django.db.models import F, Model, Q
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
    PersonName,
    QuarantinedRow,
    Sample,
    Sighting,
    Source,
    Watermark,
)
from desktops.pseudonyms import pseudonym
from desktops.services.samples import partition_days

DAY = timedelta(days=1)
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
    """Delete everything that leads back to somebody. Raises Refused.

    identity : as they sign in, when it is known: names of imported files may hold it
    """
    with transaction.atomic():
        person, desktop = _locked(person_id)
        _refuse_if_moving(desktop)
        alias = alias_of(person)
        remarks = _remarks(desktop)
        _forget_rows(person, desktop, words=_words(person, identity), wall=wall)
        erasure = Erasure.objects.create(
            person_id=person.pk,
            desktop_id=desktop.pk if desktop else 0,
            alias=alias,
            pool_id=person.pool_id,
            actor=actor,
            begun_at=wall,
        )
        _release(desktop)
        person.delete()
    _finish(erasure, wall=wall)
    return Erased(alias, remarks)


def finish_erasures(*, wall: datetime) -> int:
    """Finish what was interrupted; returns how many."""
    left = list(Erasure.objects.order_by("pk"))
    for erasure in left:
        _finish(erasure, wall=wall)
    return len(left)


def _locked(person_id: int) -> tuple[DesktopUser, Desktop | None]:
    """The person and their desktop, while nobody stores, plans or rolls up anything of them.

    Whoever stores samples holds their source, and whoever plans the data set; both look up whose
    a desktop is only then. Marks of hours are taken before the person, as roll-ups do.
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
    list(DirtyHour.objects.select_for_update().filter(desktop_user_id=person_id).order_by("hour"))
    locked = DesktopUser.objects.select_for_update().filter(pk=person_id).first()
    if locked is None:
        raise Refused(404, "unknown_person", "There is no such person any more.")
    return locked, Desktop.objects.select_for_update().filter(desktop_user=locked).first()


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
    person: DesktopUser, desktop: Desktop | None, *, words: list[str], wall: datetime
) -> None:
    """Everything but the raw samples and the person's own row, with what hangs on that."""
    for keeper in keepers():
        keeper.erase(person, desktop)
    for model in (Activity, ApplicationUse, Sighting):
        model.objects.filter(desktop_user=person).delete()
    for marks in (DirtyHour, Watermark):
        marks.objects.filter(desktop_user_id=person.pk).delete()
    _forget_quarantine(person, desktop)
    _forget_files(person, words)
    LogEntry.objects.filter(
        content_type__in=_content_types(DesktopUser, PersonName), object_id=str(person.pk)
    ).delete()
    if desktop is not None:
        _forget_behaviour(desktop, wall=wall)


def _content_types(*models: type[Model]) -> Iterable[ContentType]:
    return ContentType.objects.get_for_models(*models).values()


def _forget_quarantine(person: DesktopUser, desktop: Desktop | None) -> None:
    theirs = Q(desktop_user=person) | Q(row__person=person.pseudonym)
    if desktop is not None:
        names = {desktop.key, desktop.label, desktop.server_id} - {""}
        theirs |= Q(desktop=desktop) | Q(row__desktop__in=sorted(names))
    QuarantinedRow.objects.filter(theirs, source__dataset=person.dataset_id).delete()


def _forget_files(person: DesktopUser, words: list[str]) -> None:
    """The digest stays: the same file must not bring them back."""
    named = Q()
    for word in words:
        named |= Q(name__icontains=word)
    ImportedFile.objects.filter(named, dataset=person.dataset_id).update(name=F("sha256"))


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


def _release(desktop: Desktop | None) -> None:
    """Recorded history goes with the person; a desktop that runs stays, as nobody's.

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
    Desktop.objects.filter(pk=desktop.pk).update(desktop_user=None, label=desktop.key)


def _finish(erasure: Erasure, *, wall: datetime) -> None:
    for day in partition_days():
        since = datetime.combine(day, time.min, UTC)
        with connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {BY_NUMBER} WHERE at >= %s AND at < %s AND (desktop_user_id = %s"
                " OR desktop_user_id = 0 AND desktop_id = %s AND desktop_id > 0 AND at < %s)",
                [since, since + DAY, erasure.person_id, erasure.desktop_id, erasure.begun_at],
            )
    with transaction.atomic():
        left, _ = Erasure.objects.filter(pk=erasure.pk).delete()
        if left:
            events.record(
                kind="person.erased",
                subject=events.Subject("desktopuser", erasure.alias),
                at=wall,
                pool_id=erasure.pool_id,
                actor=erasure.actor,
            )


def set_opt_outs(
    *,
    person_id: int,
    is_predicted: bool | None = None,
    is_located: bool | None = None,
    actor: str,
    wall: datetime,
) -> DesktopUser:
    """Leave somebody out of predictions or places (False), or take them in again (True).

    What was kept of it so far is deleted at once; doing it again finishes what was interrupted.
    None leaves it as it is. Raises Refused.
    """
    wanted = {"is_predicted": is_predicted, "is_located": is_located}
    with transaction.atomic():
        person, desktop = _locked(person_id)
        changed = {
            name: value
            for name, value in wanted.items()
            if value is not None and value != getattr(person, name)
        }
        for name, value in changed.items():
            setattr(person, name, value)
        person.save(update_fields=list(changed))
        if is_predicted is False:
            for keeper in keepers():
                keeper.forget_prediction(person, desktop)
        if changed:
            events.record(
                kind="person.opt_outs_changed",
                subject=person,
                at=wall,
                pool_id=person.pool_id,
                actor=actor,
                **changed,
            )
    if is_located is False:
        _forget_places(person_id)
    return person


def _forget_places(person_id: int) -> None:
    """Raw samples first: hours computed anew after that bring no place back."""
    for day in partition_days():
        since = datetime.combine(day, time.min, UTC)
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {BY_NUMBER} SET site_id = 0"
                " WHERE at >= %s AND at < %s AND desktop_user_id = %s AND site_id > 0",
                [since, since + DAY, person_id],
            )
    with transaction.atomic():
        person, desktop = _locked(person_id)
        for keeper in keepers():
            keeper.forget_places(person, desktop)
        Activity.objects.filter(desktop_user=person, site__isnull=False).update(site=None)
        Sighting.objects.filter(desktop_user=person).delete()
        held = Q(desktop_user=person) | Q(row__person=person.pseudonym)
        for row in QuarantinedRow.objects.filter(held, row__has_key="site"):
            del row.row["site"]
            row.save(update_fields=["row"])
