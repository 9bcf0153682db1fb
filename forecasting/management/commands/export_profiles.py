"""Write the current forecast of a data set to a file (docs/forecasting.md)."""

from __future__ import annotations

import getpass
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from desktops.models import Dataset
from forecasting.errors import ForecastingError
from forecasting.models import ResourceDemandProfile
from forecasting.selectors import latest_generation
from forecasting.services.exporting import FORMS, export_profiles


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("dataset", help="name of the data set")
        parser.add_argument("--format", choices=sorted(FORMS), default="csv")
        parser.add_argument("--places", action="store_true", help="where people are expected, too")
        parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")

    def handle(self, *args: Any, dataset: str, **options: Any) -> None:
        found = Dataset.objects.filter(name=dataset).first()
        generation = latest_generation(found) if found else None
        if generation is None:
            raise CommandError(f"No data set {dataset!r} with a complete forecast.")
        try:
            pieces = export_profiles(
                ResourceDemandProfile.objects.all(),
                generation=generation,
                form=options["format"],
                with_places=options["places"],
                viewer=f"{getpass.getuser()} at the console",
                at=timezone.now(),
            )
        except ForecastingError as error:
            raise CommandError(str(error)) from error
        if options["output"] is None:
            sys.stdout.buffer.writelines(pieces)
            return
        with options["output"].open("wb") as file:
            file.writelines(pieces)
