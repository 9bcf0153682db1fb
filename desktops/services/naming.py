"""Whose pseudonym is whose, and whose desktop: told by a file, all of it or nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.db import transaction
from django.db.models import Q

from desktops.errors import InvalidFile
from desktops.models import Dataset, Desktop, DesktopUser, PersonName
from desktops.pseudonyms import pseudonym

COLUMNS = {"person", "name"}
LONGEST_NAME = PersonName._meta.get_field("name").max_length
PROBLEMS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Naming:
    """One line of the file. desktop : key, server id or label; "" to leave it as it is"""

    line: int
    pseudonym: str
    name: str
    desktop: str


@dataclass(frozen=True, slots=True)
class Named:
    named: int
    added: int
    assigned: int


def name_people(*, path: Path, dataset: Dataset, wall: datetime) -> Named:
    """Columns person (as they sign in), name, and if wanted desktop, which becomes theirs and
    makes them a person of its pool where they are none yet. Raises InvalidFile."""
    rows, problems = _read(path)
    with transaction.atomic():
        Dataset.objects.select_for_update(no_key=True).get(pk=dataset.pk)
        desktops = _desktops(dataset, rows, problems)
        people = {
            p.pseudonym: p
            for p in DesktopUser.objects.filter(
                dataset=dataset, pseudonym__in=[row.pseudonym for row in rows]
            )
        }
        new = _new_people(dataset, rows, people, desktops, problems)
        if problems:
            shown = "\n  ".join(
                f"line {n}: {what}" for n, what in sorted(problems)[:PROBLEMS_SHOWN]
            )
            raise InvalidFile(f"{path.name}: {len(problems)} bad lines\n  {shown}")
        for person in DesktopUser.objects.bulk_create(new):
            people[person.pseudonym] = person
        PersonName.objects.bulk_create(
            (PersonName(desktop_user=people[row.pseudonym], name=row.name) for row in rows),
            update_conflicts=True,
            unique_fields=("desktop_user",),
            update_fields=("name",),
        )
        assigned = _assign(rows, people, desktops, at=dataset.clock(wall=wall))
    return Named(named=len(rows), added=len(new), assigned=assigned)


def _read(path: Path) -> tuple[list[Naming], set[tuple[int, str]]]:
    rows: list[Naming] = []
    problems: set[tuple[int, str]] = set()
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := COLUMNS - set(reader.fieldnames or ()):
            raise InvalidFile(f"{path.name} line 1: no column {', '.join(sorted(missing))}")
        try:
            for given in reader:
                row = _row(reader.line_num, given)
                rows.append(row)
                if problem := _problem(row, given, seen):
                    problems.add((row.line, problem))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InvalidFile(f"{path.name} line {reader.line_num + 1}: {error}") from None
    return rows, problems


def _row(line: int, given: dict[str, str | None]) -> Naming:
    person, name, desktop = (
        (given.get(column) or "").strip() for column in ("person", "name", "desktop")
    )
    return Naming(line, pseudonym(person) if person else "", name, desktop)


def _problem(row: Naming, given: dict[str, str | None], seen: dict[str, int]) -> str:
    if not row.pseudonym or not row.name:
        return "person and name are wanted"
    if (LONGEST_NAME and len(row.name) > LONGEST_NAME) or "\0" in row.name + row.desktop:
        return f"a name has at most {LONGEST_NAME} characters"
    if row.pseudonym in seen:
        return f"the same person as in line {seen[row.pseudonym]}"
    seen[row.pseudonym] = row.line
    return ""


def _desktops(
    dataset: Dataset, rows: Iterable[Naming], problems: set[tuple[int, str]]
) -> dict[str, Desktop]:
    """As the file names them → the desktops; one that two lines name is a problem."""
    names = {row.desktop for row in rows if row.desktop}
    found: dict[str, set[Desktop]] = {name: set() for name in names}
    columns = Q(key__in=names) | Q(label__in=names) | Q(server_id__in=names)
    for desktop in Desktop.objects.select_for_update().filter(columns, dataset=dataset):
        for name in {desktop.key, desktop.label, desktop.server_id} & names:
            found[name].add(desktop)
    used: dict[int, int] = {}
    for row in rows:
        matches = found.get(row.desktop, set())
        if row.desktop and len(matches) != 1:
            count = "several desktops" if matches else "no desktop"
            problems.add((row.line, f"{count} called {row.desktop!r} in {dataset.name}"))
        for desktop in matches if len(matches) == 1 else ():
            if (other := used.setdefault(desktop.pk, row.line)) != row.line:
                problems.add((row.line, f"the same desktop as in line {other}"))
    return {name: next(iter(each)) for name, each in found.items() if len(each) == 1}


def _new_people(
    dataset: Dataset,
    rows: Iterable[Naming],
    people: dict[str, DesktopUser],
    desktops: dict[str, Desktop],
    problems: set[tuple[int, str]],
) -> list[DesktopUser]:
    new = []
    for row in rows:
        if not row.pseudonym or row.pseudonym in people:
            continue
        if desktop := desktops.get(row.desktop):
            new.append(
                DesktopUser(dataset=dataset, pool_id=desktop.pool_id, pseudonym=row.pseudonym)
            )
        elif not row.desktop:
            problems.add((row.line, "nobody is known by that name, and no desktop says which pool"))
    return new


def _assign(
    rows: Iterable[Naming],
    people: dict[str, DesktopUser],
    desktops: dict[str, Desktop],
    *,
    at: datetime,
) -> int:
    """Whoever had one of these desktops, or these people another, no longer have it.

    What was observed of a desktop before `at`, while it was somebody else's, does not become its
    new owner's. Of one that never was anybody's, everything does.
    """
    owners = {desktops[row.desktop].pk: people[row.pseudonym].pk for row in rows if row.desktop}
    given = [d for d in desktops.values() if owners.get(d.pk) not in (None, d.desktop_user_id)]
    Desktop.objects.filter(
        Q(pk__in=[d.pk for d in given]) | Q(desktop_user__in=[owners[d.pk] for d in given]),
        desktop_user__isnull=False,
    ).update(desktop_user=None, owned_since=at)
    for desktop in given:
        if desktop.desktop_user_id or desktop.owned_since:
            desktop.owned_since = at
        desktop.desktop_user_id = owners[desktop.pk]
    Desktop.objects.bulk_update(given, ("desktop_user", "owned_since"), batch_size=1000)
    return len(given)
