from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from tqdm import tqdm

from desktops.models import Dataset
from forecasting.errors import ForecastingError
from forecasting.models import Generation
from forecasting.services.forecasts import begin_forecast, finish_forecast
from forecasting.services.generations import running_generation


class Command(BaseCommand):
    help = (
        "Forecast every person and machine of a data set, 168 hours ahead; goes on with a forecast"
        " that was interrupted."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("dataset", help="name of the data set")
        parser.add_argument(
            "--processes", type=int, default=1, metavar="N", help="that work on it; default: 1"
        )
        parser.add_argument(
            "--join", action="store_true", help="help with the one in the making, start none"
        )

    def handle(self, *args: Any, dataset: str, **options: Any) -> None:
        try:
            row = Dataset.objects.get(name=dataset)
        except Dataset.DoesNotExist:
            known = ", ".join(Dataset.objects.values_list("name", flat=True)) or "none"
            raise CommandError(f"No data set {dataset!r}; there are: {known}.") from None
        try:
            made = self._made(row, options["processes"], must_join=options["join"])
        except ForecastingError as error:
            raise CommandError(str(error)) from error
        if made is None:
            self.stdout.write(f"No forecast of {dataset} is in the making.")
            return
        self.stdout.write(
            f"{made.profiles_done} profiles from {made.as_of:%Y-%m-%d %H:%M} UTC,"
            f" engine {made.engine}."
        )

    def _made(self, dataset: Dataset, processes: int, *, must_join: bool) -> Generation | None:
        if must_join:
            running = running_generation(dataset)
            is_ours = running is not None and running.kind == Generation.Kind.FULL
            return finish_forecast(running, clock=timezone.now) if running and is_ours else None
        generation = begin_forecast(dataset_id=dataset.pk, clock=timezone.now)
        with ExitStack() as stack:
            for _ in range(processes - 1):
                stack.enter_context(_helper(dataset))
            bar = stack.enter_context(tqdm(unit=" profiles", desc=str(dataset)))

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return finish_forecast(generation, clock=timezone.now, progress=progress)


@contextmanager
def _helper(dataset: Dataset) -> Iterator[None]:
    """Another process at the same forecast; what it leaves when it dies is done by the others."""
    manage = str(settings.BASE_DIR / "manage.py")
    command = [sys.executable, manage, "forecast", dataset.name, "--join"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
