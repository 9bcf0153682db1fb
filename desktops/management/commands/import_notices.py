"""Import announcements: travel, leave, closures, busy periods (docs/sources/notices.md)."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from desktops.errors import InvalidFile
from desktops.models import Dataset, Pool
from desktops.services.notices import ImportReport, import_notices

LONGEST_PROVENANCE = 190


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ArgumentTypeError(f"a share between 0 and 1 is wanted, not {text!r}")
    return share


def _days(text: str) -> timedelta:
    if not text.isdecimal() or not 1 <= int(text) <= 731:
        raise ArgumentTypeError(f"a number of days from 1 to 731 is wanted, not {text!r}")
    return timedelta(days=int(text))


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, metavar="FILE")
        parser.add_argument("--dataset", required=True)
        parser.add_argument("--format", required=True, choices=("csv", "icalendar"))
        parser.add_argument("--pool", help="reach this pool alone, and what names no pool is its")
        parser.add_argument(
            "--from",
            dest="provenance",
            metavar="NAME",
            help="what the file is from, the same each time (default: the file's name)",
        )
        parser.add_argument(
            "--replace",
            action="store_true",
            help="withdraw what it said before, says no longer, and has not ended",
        )
        parser.add_argument(
            "--tolerance",
            type=_share,
            default=0.01,
            help="share of bad rows beyond which the file is refused (default 0.01)",
        )
        parser.add_argument(
            "--ahead",
            type=_days,
            default=timedelta(days=400),
            metavar="DAYS",
            help="how far what recurs is written down (icalendar; default 400)",
        )
        parser.add_argument(
            "--local-part",
            action="store_true",
            help="people sign in with what stands before the @ (icalendar)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        dataset = Dataset.objects.filter(name=options["dataset"]).first()
        if dataset is None:
            raise CommandError(f"There is no data set {options['dataset']}.")
        pool = None
        if options["pool"] and not (
            pool := Pool.objects.filter(dataset=dataset, name=options["pool"]).first()
        ):
            raise CommandError(f"{dataset.name} has no pool {options['pool']}.")
        provenance = options["provenance"] or options["path"].name
        try:
            report = import_notices(
                path=options["path"],
                format_name=options["format"],
                dataset=dataset,
                pool=pool,
                provenance=f"file:{provenance}"[:LONGEST_PROVENANCE],
                tolerance=options["tolerance"],
                replaces=options["replace"],
                ahead=options["ahead"],
                is_local_part=options["local_part"],
                wall=timezone.now(),
            )
        except (InvalidFile, OSError) as error:
            raise CommandError(f"Nothing was imported.\n{error}") from None
        self._summarise(report)

    def _summarise(self, report: ImportReport) -> None:
        for line in report.told:
            self.stderr.write(line)
        outcome = report.outcome
        self.stdout.write(
            f"{report.rows:,} rows: {outcome.added:,} notices added, {outcome.changed:,} changed,"
            f" {outcome.unchanged:,} unchanged, {outcome.withdrawn:,} withdrawn;"
            f" {report.bad:,} bad, {len(outcome.unknown_people):,} of people who are"
            f" not here, {outcome.opted_out:,} of people who opted out, {report.passed_over:,}"
            " passed over."
        )
