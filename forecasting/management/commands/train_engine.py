from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from desktops.models import Dataset
from forecasting.errors import ForecastingError
from forecasting.services.training import ENGINES, train_engine


class Command(BaseCommand):
    help = "Train a neural engine on a data set's history, and score it on the days after."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("dataset", help="name of the data set")
        parser.add_argument("--engine", choices=ENGINES, required=True)
        parser.add_argument("--seed", type=int, default=0)

    def handle(self, *args: Any, dataset: str, engine: str, seed: int, **options: Any) -> None:
        try:
            row = Dataset.objects.get(name=dataset)
        except Dataset.DoesNotExist:
            known = ", ".join(Dataset.objects.values_list("name", flat=True)) or "none"
            raise CommandError(f"No data set {dataset!r}; there are: {known}.") from None
        with tqdm(unit=" steps", desc=f"{engine} on {row}") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                made = train_engine(
                    dataset_id=row.pk,
                    engine=engine,
                    seed=seed,
                    clock=timezone.now,
                    progress=progress,
                )
            except ForecastingError as error:
                raise CommandError(str(error)) from error
        loss = made.metrics["relative_wql"]
        self.stdout.write(
            f"{made.engine} {made.version}: {made.metrics['series']} series from"
            f" {made.window_start:%Y-%m-%d} to {made.window_end:%Y-%m-%d},"
            f" {made.metrics['steps']} steps; on the days after,"
            f" {'nothing to score' if loss is None else f'{loss:.3f} of seasonal naive'}."
            f" Kept in {made.file}."
        )
