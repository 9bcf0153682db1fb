"""Everything held about one person, as JSON that explains itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import OuterRef, QuerySet, Subquery

from desktops.aliases import alias_of
from desktops.keeping import Section, keepers
from desktops.models import (
    Activity,
    AgentCommand,
    ApplicationUse,
    Batch,
    Desktop,
    DesktopUser,
    DiskRead,
    Event,
    Look,
    Notice,
    PersonName,
    Sample,
    Sighting,
    Site,
)
from desktops.services.people import edits_of, files_of, quarantine_of
from desktops.sources.samples import MEASURES

ROWS_AT_ONCE = 2000
UNITS = (
    "active_ratio: share of the time with a session, 0 to 1; cpu_cores: cores in use;"
    " memory_bytes: bytes in use; network and storage: bytes per second; null: not observed"
)


def sections_of(person: DesktopUser, *, with_name: bool) -> Iterator[Section]:
    """What every app keeps of a person, their row first."""
    desktop: Desktop | None = getattr(person, "desktop", None)
    yield from _about(person, with_name=with_name)
    yield from _observed(person, desktop)
    if desktop is not None:
        yield from _of_desktop(desktop)
    for keeper in reversed(keepers()):
        yield from keeper.sections(person, desktop)
    yield from _by_alias(person)


def held_rows(person: DesktopUser) -> dict[str, int]:
    """Section → number of rows."""
    return {section.name: section.rows.count() for section in sections_of(person, with_name=True)}


def export_person(person: DesktopUser, *, wall: datetime, with_name: bool) -> Iterator[str]:
    """A JSON object in pieces: section → {"about", "rows"}; times are ISO 8601 in UTC."""
    yield f'{{"exported_at": {_json(wall)}, "data_set": {_json(person.dataset.name)}'
    for section in sections_of(person, with_name=with_name):
        yield f',\n{_json(section.name)}: {{"about": {_json(section.about)}, "rows": ['
        for n, row in enumerate(section.rows.iterator(chunk_size=ROWS_AT_ONCE)):
            yield (",\n" if n else "\n") + _json({key: _known(v) for key, v in row.items()})
        yield "]}"
    yield "}\n"


def _json(value: Any) -> str:
    return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)


def _known(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _known(value.tolist())
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _about(person: DesktopUser, *, with_name: bool) -> Iterator[Section]:
    yield Section(
        "person",
        "Who it is about: the pseudonym is a keyed hash of the name they sign in with.",
        DesktopUser.objects.filter(pk=person.pk).values(
            "pseudonym",
            "pool__label",
            "home_site__label",
            "time_zone",
            "is_predicted",
            "is_located",
        ),
    )
    if with_name:
        yield Section(
            "name",
            "The name behind the pseudonym, for those who may see names.",
            PersonName.objects.filter(desktop_user=person).values("name"),
        )
    yield Section(
        "desktop",
        "The virtual desktop that is theirs now.",
        Desktop.objects.filter(desktop_user=person).values(
            "key", "label", "state", "region__label", "flavor__name", "server_id", "volume_id"
        ),
    )


def _observed(person: DesktopUser, desktop: Desktop | None) -> Iterator[Section]:
    theirs = {"desktop_user": person}
    yield Section(
        "activity",
        f"What was observed, hour by hour. {UNITS}.",
        Activity.objects.filter(**theirs)
        .order_by("hour")
        .values("hour", "desktop__label", *MEASURES, "site__label"),
    )
    yield Section(
        "samples",
        f"The observations that hours are computed from, kept for days. {UNITS}. site_code: where"
        " they were, as the list of sites has it.",
        _samples(desktop_user_id=person.pk),
    )
    yield Section(
        "applications",
        "Processor time of an application in an hour: cpu_core_s are seconds of one core.",
        ApplicationUse.objects.filter(**theirs)
        .order_by("hour")
        .values("hour", "desktop__label", "application", "cpu_core_s"),
    )
    yield Section(
        "sightings",
        "Where they were last seen, and by which source.",
        Sighting.objects.filter(**theirs).values("at", "site__label", "source__name"),
    )
    yield Section(
        "notices",
        "What was announced of them: travel, leave.",
        Notice.objects.filter(**theirs)
        .order_by("pk")
        .values("kind", "starts_at", "ends_at", "site__label", "provenance", "withdrawn_at"),
    )
    yield Section(
        "quarantine",
        "Observations that were refused, and why.",
        quarantine_of(person, desktop)
        .order_by("pk")
        .values("received_at", "source__name", "reason", "detail", "row", "state"),
    )
    yield Section(
        "files",
        "Imported files whose name may mean them.",
        files_of(person).values("name", "imported_at"),
    )
    yield Section(
        "edits",
        "Edits of their row in the admin pages.",
        edits_of(person).values("action_time", "user__username", "change_message"),
    )


def _samples(**whose: int) -> QuerySet[Sample, dict[str, Any]]:
    """The table has no foreign keys; the site's code is looked up row by row of few sites."""
    code = Site.objects.filter(pk=OuterRef("site_id")).values("code")
    return (
        Sample.objects.filter(**whose)
        .order_by("at")
        .annotate(site_code=Subquery(code))
        .values("at", *MEASURES, "site_code")
    )


def _of_desktop(desktop: Desktop) -> Iterator[Section]:
    alone = {"desktop": desktop, "desktop_user": None}
    yield Section(
        "desktop_activity",
        f"What was observed of their desktop without anybody, hour by hour. {UNITS}.",
        Activity.objects.filter(**alone).order_by("hour").values("hour", *MEASURES, "site__label"),
    )
    yield Section(
        "desktop_samples",
        f"The observations of their desktop without anybody, kept for days. {UNITS}.",
        _samples(desktop_id=desktop.pk, desktop_user_id=0),
    )
    yield Section(
        "desktop_applications",
        "The same as applications, of their desktop without anybody.",
        ApplicationUse.objects.filter(**alone)
        .order_by("hour")
        .values("hour", "application", "cpu_core_s"),
    )
    yield Section(
        "disk_reads",
        "Which parts of their desktop's disk were read on a day: read_bytes of the part that begins"
        " at extents * extent_bytes.",
        DiskRead.objects.filter(desktop=desktop)
        .order_by("day")
        .values("day", "extent_bytes", "extents", "read_bytes"),
    )
    yield Section(
        "deliveries",
        "When the agent in their desktop delivered observations, and how many.",
        Batch.objects.filter(desktop=desktop)
        .order_by("pk")
        .values("received_at", "settled_at", "rows", "rejected_rows"),
    )
    yield Section(
        "commands",
        "What the agent in their desktop was asked to do.",
        AgentCommand.objects.filter(desktop=desktop)
        .order_by("pk")
        .values("kind", "arguments", "created_at", "created_by", "outcome", "detail"),
    )


def _by_alias(person: DesktopUser) -> Iterator[Section]:
    alias = alias_of(person)
    yield Section(
        "looks",
        "Which accounts and programs opened their page, whereabouts or export, once an hour each.",
        Look.objects.filter(alias=alias).values("hour", "viewer", "what"),
    )
    yield Section(
        "events",
        "What is kept for ever about them, under an alias that nobody can resolve once they are"
        " erased.",
        Event.objects.filter(object_type="desktopuser", object_id=alias).values(
            "at", "kind", "actor", "payload"
        ),
    )
