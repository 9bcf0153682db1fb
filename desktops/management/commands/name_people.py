"""Say who is behind pseudonyms, and whose a desktop is (docs/privacy.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from desktops.errors import InvalidFile
from desktops.models import Dataset
from desktops.services.naming import name_people


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, metavar="FILE", help="CSV: person,name[,desktop]")
        parser.add_argument("--dataset", required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        dataset = Dataset.objects.filter(name=options["dataset"]).first()
        if dataset is None:
            raise CommandError(f"There is no data set {options['dataset']}.")
        try:
            done = name_people(path=options["path"], dataset=dataset, wall=timezone.now())
        except (InvalidFile, OSError) as error:
            raise CommandError(f"Nothing was changed.\n{error}") from None
        self.stdout.write(
            f"{done.named:,} people named, {done.added:,} of them new;"
            f" {done.assigned:,} desktops assigned."
        )
