"""Score the forecast engines on the recent past of a data set; the page of backtests shows it."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from tqdm import tqdm

from desktops.models import Dataset
from forecasting.engines import registry
from forecasting.errors import ForecastingError
from forecasting.management.commands.evaluate_demand import at_least_one
from forecasting.models import BacktestRun
from forecasting.services.backtests import SUBJECTS, run_backtest


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("dataset", help="name of the data set")
        parser.add_argument(
            "--engine",
            action="append",
            choices=[*registry.ENGINES, "all"],
            help="may be given several times; default: product",
        )
        parser.add_argument(
            "--subjects", type=at_least_one, default=SUBJECTS, help="people and machines, at most"
        )
        parser.add_argument("--json", action="store_true", help="end with one line of JSON")

    def handle(self, *args: Any, dataset: str, **options: Any) -> None:
        row = Dataset.objects.filter(name=dataset).first()
        if row is None:
            known = ", ".join(Dataset.objects.values_list("name", flat=True)) or "none"
            raise CommandError(f"No data set {dataset!r}; there are: {known}.")
        names = options["engine"] or ["product"]
        engines = registry.installed() if "all" in names else list(dict.fromkeys(names))
        with ExitStack() as bars:
            try:
                run = run_backtest(
                    dataset_id=row.pk,
                    engines=engines,
                    clock=timezone.now,
                    subjects=options["subjects"],
                    progress=_Bars(bars),
                )
            except ForecastingError as error:
                raise CommandError(str(error)) from error
        self._say(run)
        if options["json"]:
            self.stdout.write(json.dumps({"figures": _figures(run), "run": run.pk}))

    def _say(self, run: BacktestRun) -> None:
        self.stdout.write(
            f"{run.subjects} people and machines of {run.dataset}, {run.horizon_hours} h ahead from"
            f" {len(run.origins)} origins; losses are of the seasonal-naive forecast's."
        )
        heads = ("WQL", "scaled", "50 %", "80 %", "90 %")
        self.stdout.write(
            f"{'engine':<18}" + "".join(f"{each:>8}" for each in heads) + f"{'series/s':>10}"
        )
        for score in run.scores.all():
            if score.failure:
                self.stdout.write(f"{score.engine:<18}{score.failure}")
                continue
            numbers = (score.wql, score.scaled_loss)
            shares = (score.coverage_50, score.coverage_80, score.coverage_90)
            self.stdout.write(
                f"{score.engine:<18}"
                + "".join(f"{'-' if n is None else format(n, '.3f'):>8}" for n in numbers)
                + "".join(f"{'-' if n is None else format(n, '.1%'):>8}" for n in shares)
                + f"{score.series_per_s:>10,.0f}"
            )


class _Bars:
    """One progress bar an engine."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._bars: dict[str, tqdm[Any]] = {}

    def __call__(self, engine: str, done: int, total: int) -> None:
        if engine not in self._bars:
            bar = tqdm(desc=engine, unit=" forecasts", total=total, file=sys.stderr)
            self._bars[engine] = self._stack.enter_context(bar)
        self._bars[engine].update(done - self._bars[engine].n)


def _figures(run: BacktestRun) -> dict[str, float]:
    return {
        f"{name}_{score.engine}": value
        for score in run.scores.all()
        for name, value in (
            ("wql", score.wql),
            ("scaled", score.scaled_loss),
            ("cover50", score.coverage_50),
            ("cover80", score.coverage_80),
            ("cover90", score.coverage_90),
            ("series_per_s", score.series_per_s),
        )
        if value is not None
    }
