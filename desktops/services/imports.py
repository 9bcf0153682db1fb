"""Files of recorded activity into the tables: each whole or not at all, and never twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from django.db import connection, transaction

from desktops import events
from desktops.errors import InvalidFile
from desktops.models import Dataset, ImportedFile, Pool, Site
from desktops.pseudonyms import pseudonym
from desktops.services import datasets
from desktops.services.bulk import column, copy_rows, hours
from desktops.sources.checks import believable
from desktops.sources.formats import FORMATS
from desktops.sources.hourly import HOUR_S, HourSums, sum_by_hour
from desktops.sources.options import Advance, FileFormat, ReadOptions
from desktops.sources.samples import MEASURES, IntArray, Labels, Rejections, Samples

STAGING = "import_hour"
OWNERS = "import_owner"
HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileReport:
    """What one file brought. hours : activity rows that were not there before"""

    name: str
    was_imported_before: bool = False
    rows: int = 0
    rejected_rows: int = 0
    problems: list[str] = field(default_factory=list)
    hours: int = 0


def import_file(
    *,
    path: Path,
    format_name: str,
    dataset_name: str,
    pool_name: str,
    options: ReadOptions,
    tolerance: float,
    wall: datetime,
    advance: Advance = lambda n_bytes: None,
    actor: str = "",
) -> FileReport:
    """Import one file of FORMATS[format_name] in one transaction.

    tolerance : share of rows that may be refused, in 0..1; one more and nothing is kept
    advance : told the bytes of the file that were read

    Raises InvalidFile, NameTaken.
    """
    form = FORMATS[format_name]
    sha256 = _digest(path)
    with transaction.atomic():
        dataset = datasets.open_dataset(name=dataset_name, source=f"Imported ({format_name})")
        if ImportedFile.objects.filter(dataset=dataset, sha256=sha256).exists():
            advance(path.stat().st_size)
            return FileReport(path.name, was_imported_before=True)
        pool = datasets.open_pool(name=pool_name, dataset=dataset)
        rejections = Rejections()
        staging = _Staging(dataset, pool, form, options)
        for samples in form.read(path, options, rejections, advance):
            staging.add(believable(samples, wall=wall, sites=staging.sites, rejections=rejections))
        _check(path, form, rejections, tolerance)
        n_hours = staging.merge()
        datasets.advance_clock(dataset=dataset, to=staging.end)
        imported = ImportedFile.objects.create(
            dataset=dataset,
            name=path.name,
            sha256=sha256,
            rows=rejections.rows,
            rejected_rows=rejections.rejected,
            hours=n_hours,
            imported_at=wall,
        )
        events.record(
            kind="activity.imported",
            subject=imported,
            at=wall,
            pool_id=pool.pk,
            actor=actor,
            dataset=dataset.name,  # not the file's name: it may be a person's
            rows=rejections.rows,
            rejected_rows=rejections.rejected,
            hours=n_hours,
        )
    return FileReport(
        path.name,
        rows=rejections.rows,
        rejected_rows=rejections.rejected,
        problems=rejections.describe(form.ROW),
        hours=n_hours,
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _check(path: Path, form: FileFormat, rejections: Rejections, tolerance: float) -> None:
    if rejections.short_end:
        raise InvalidFile(
            f"{path.name} {form.ROW} {rejections.short_end}: the file ends with too few values;"
            " is it truncated?"
        )
    if rejections.rejected > tolerance * rejections.rows:
        problems = "\n  ".join(rejections.describe(form.ROW))
        raise InvalidFile(
            f"{path.name}: {rejections.rejected:,} of {rejections.rows:,} rows are bad, more than"
            f" {tolerance:.2%}\n  {problems}"
        )
    if rejections.rejected == rejections.rows:
        raise InvalidFile(f"{path.name} {form.ROW} 1: no rows")


class _Staging:
    """A temporary table of sums per hour, gathered while the file is read."""

    def __init__(
        self, dataset: Dataset, pool: Pool, form: FileFormat, options: ReadOptions
    ) -> None:
        self.sites = frozenset(
            {metro.code for metro in options.metros}
            | set(Site.objects.values_list("code", flat=True))
        )
        self.end = datasets.NEVER
        self._dataset = dataset
        as_pseudonym = str if form.IDS_ARE_ANONYMOUS else pseudonym
        self._people = _Ids(
            lambda new: _renamed(
                new,
                as_pseudonym,
                lambda names: datasets.ensure_people(dataset=dataset, pool=pool, pseudonyms=names),
            )
        )
        self._machines = _Ids(
            lambda new: datasets.ensure_machines(dataset=dataset, pool=pool, identities=new)
        )
        self._site_ids = _Ids(lambda new: datasets.ensure_sites(metros=options.metros, codes=new))
        with connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {STAGING}, {OWNERS}")
            cursor.execute(
                f"CREATE TEMPORARY TABLE {STAGING} ("
                " desktop_user_id bigint, desktop_id bigint, hour timestamptz,"
                + "".join(f" {name}_sum float8, {name}_count bigint," for name in MEASURES)
                + " site_id bigint, site_s bigint) ON COMMIT DROP"
            )

    def add(self, samples: Samples) -> None:
        if not len(samples):
            return
        rows = sum_by_hour(samples)
        end_s = int(rows.hour_s.max()) + HOUR_S
        self.end = max(self.end, datetime.fromtimestamp(end_s, UTC))
        copy_rows(STAGING, dict(self._columns(samples, rows)))

    def _columns(self, samples: Samples, rows: HourSums) -> Iterator[tuple[str, pa.Array]]:
        yield "desktop_user_id", _foreign_key(self._people, samples.person, rows.person)
        yield "desktop_id", _foreign_key(self._machines, samples.desktop, rows.desktop)
        yield "hour", hours(rows.hour_s)
        for name in MEASURES:
            yield f"{name}_sum", column(rows.sums[name])
            yield f"{name}_count", column(rows.counts[name])
        yield "site_id", _foreign_key(self._site_ids, samples.site, rows.site)
        yield "site_s", column(rows.site_s)

    def merge(self) -> int:
        """Means per hour into the activity; returns the number of hours that are new."""
        with connection.cursor() as cursor:
            cursor.execute(f"ANALYZE {STAGING}")
            cursor.execute(FORGET_PLACES)
            cursor.execute(INSERT_HOURS, [self._dataset.pk])
            n_hours = int(cursor.rowcount)
            cursor.execute(FIND_OWNERS)
            cursor.execute(f"ANALYZE {OWNERS}, desktops_desktop, desktops_desktopuser")
            cursor.execute(LINK_DESKTOPS)
            cursor.execute(SETTLE_PEOPLE)
            cursor.execute(f"DROP TABLE {STAGING}, {OWNERS}")
        return n_hours


# Where somebody is who opted out of that leaves no trace.
FORGET_PLACES = f"""
UPDATE {STAGING} SET site_id = NULL, site_s = NULL
FROM desktops_desktopuser person
WHERE person.id = desktop_user_id AND NOT person.is_located AND site_id IS NOT NULL
"""
INSERT_HOURS = f"""
INSERT INTO desktops_activity
    (dataset_id, desktop_user_id, desktop_id, hour, {", ".join(MEASURES)}, site_id)
SELECT %s, desktop_user_id, desktop_id, hour,
    {", ".join(f"sum({m}_sum) / nullif(sum({m}_count), 0)" for m in MEASURES)},
    (array_agg(site_id ORDER BY site_s DESC) FILTER (WHERE site_id IS NOT NULL))[1]
FROM {STAGING} GROUP BY desktop_user_id, desktop_id, hour
ON CONFLICT DO NOTHING
"""
# A desktop belongs to the person seen most on it, when neither has another. The pairs are put
# aside and counted first: guessing how few they are, the planner would join them row by row.
FIND_OWNERS = f"""
CREATE TEMPORARY TABLE {OWNERS} ON COMMIT DROP AS
SELECT desktop_id, desktop_user_id FROM (
    SELECT desktop_id, desktop_user_id,
        row_number() OVER (PARTITION BY desktop_id ORDER BY n DESC, desktop_user_id) AS of_desktop,
        row_number() OVER (PARTITION BY desktop_user_id ORDER BY n DESC, desktop_id) AS of_person
    FROM (
        SELECT desktop_id, desktop_user_id, count(*) AS n FROM {STAGING}
        WHERE desktop_id IS NOT NULL AND desktop_user_id IS NOT NULL GROUP BY 1, 2
    ) seen
) ranked WHERE of_desktop = 1 AND of_person = 1
"""
LINK_DESKTOPS = f"""
UPDATE desktops_desktop desktop SET desktop_user_id = owner.desktop_user_id
FROM {OWNERS} owner
WHERE desktop.id = owner.desktop_id AND desktop.desktop_user_id IS NULL
    AND NOT EXISTS (
        SELECT FROM desktops_desktop other WHERE other.desktop_user_id = owner.desktop_user_id
    )
"""
# Somebody without a home is at home where they are seen most.
SETTLE_PEOPLE = f"""
UPDATE desktops_desktopuser person SET home_site_id = site.id, time_zone = site.time_zone
FROM (
    SELECT desktop_user_id, mode() WITHIN GROUP (ORDER BY site_id) AS site_id
    FROM {STAGING} WHERE site_id IS NOT NULL GROUP BY 1
) usual JOIN desktops_site site ON site.id = usual.site_id
WHERE person.id = usual.desktop_user_id AND person.home_site_id IS NULL
"""


class _Ids(dict[str, int]):
    """Names in the file → row ids, asked of the database once each."""

    def __init__(self, ensure: Callable[[list[str]], dict[str, int]]) -> None:
        super().__init__()
        self._ensure = ensure

    def learn(self, names: Iterable[str]) -> None:
        if new := [name for name in names if name not in self]:
            self.update(self._ensure(new))


def _renamed(
    names: list[str],
    rename: Callable[[str], str],
    ensure: Callable[[Iterable[str]], dict[str, int]],
) -> dict[str, int]:
    ids = ensure({rename(name) for name in names})
    return {name: ids[rename(name)] for name in names}


def _foreign_key(ids: _Ids, labels: Labels, codes: IntArray) -> pa.Array:
    """A column of row ids, NULL where the code is -1."""
    ids.learn(labels.used())
    keys = np.array([ids.get(value, -1) for value in labels.values] + [-1])[codes]
    return pa.array(keys, mask=keys < 0)
