from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from desktops.models import Dataset
from forecasting.errors import ForecastingError
from forecasting.services.forecasts import run_forecast


class Command(BaseCommand):
    help = "Forecast every person and machine of a data set, 168 hours ahead."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("dataset", help="name of the data set")

    def handle(self, *args: Any, dataset: str, **options: Any) -> None:
        try:
            row = Dataset.objects.get(name=dataset)
        except Dataset.DoesNotExist:
            known = ", ".join(Dataset.objects.values_list("name", flat=True)) or "none"
            raise CommandError(f"No data set {dataset!r}; there are: {known}.") from None
        with tqdm(unit=" profiles", desc=str(row)) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                made = run_forecast(dataset_id=row.pk, clock=timezone.now, progress=progress)
            except ForecastingError as error:
                raise CommandError(str(error)) from error
        self.stdout.write(
            f"{made.profiles_done} profiles from {made.as_of:%Y-%m-%d %H:%M} UTC,"
            f" engine {made.engine}."
        )
