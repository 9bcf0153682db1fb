"""Score the forecast of whereabouts on recorded people, against simple methods in the same run.

Every person is asked about at several moments in the last quarter of their records; of the week
after each, the first sighting in each of three bands of lead time is scored.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from forecasting.core.location_evaluation import (
    PRODUCT,
    Difference,
    Result,
    Scores,
    compare,
    difference,
    evaluate,
    hold_out,
    score,
    sightings_of,
)
from forecasting.core.location_targets import BANDS
from forecasting.core.whereabouts import Sightings
from forecasting.engines import registry
from forecasting.errors import ForecastingError
from forecasting.location_traces import READERS, read_locations
from forecasting.management.commands.evaluate_demand import at_least_one


class Command(BaseCommand):
    help = __doc__
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--data", type=Path, required=True, help="folder or file")
        parser.add_argument("--format", choices=list(READERS), required=True)
        parser.add_argument(
            "--regions",
            type=Path,
            help="table of regions and coordinates (gowalla); default: cloud_costs beside the data",
        )
        parser.add_argument("--people", type=at_least_one, help="only so many, evenly spread")
        parser.add_argument("--origins", type=at_least_one, default=24, help="for each person")
        parser.add_argument(
            "--fits", type=at_least_one, default=32, help="how often the fleet's ways are learned"
        )
        parser.add_argument(
            "--held-out",
            type=share,
            help="ask about this share of the people, and learn how to weigh guesses from the rest",
        )
        parser.add_argument(
            "--engine",
            action="append",
            default=[],
            choices=list(registry.LOCATION_ENGINES),
            help="score this beside the product, and both together; trains for minutes",
        )
        parser.add_argument("--json", action="store_true", help="end with one line of JSON")

    def handle(self, *args: Any, data: Path, **options: Any) -> None:
        name = options["format"]
        try:
            beside = {name: registry.load_location(name) for name in options["engine"]}
            seen = self._read(data, options)
            started = time.perf_counter()
            with _bar("asking", "questions") as bar:
                result = evaluate(
                    seen,
                    per_person=options["origins"],
                    fits=options["fits"],
                    held_out=hold_out(seen, options["held_out"]) if options["held_out"] else None,
                    beside=beside,
                    progress=_advance(bar),
                )
            seconds = time.perf_counter() - started
        except ForecastingError as error:
            raise CommandError(str(error)) from error
        scores = score(result)
        self._say(name, result, scores, seconds)
        behind = self._compare(result, scores, list(beside))
        if options["json"]:
            detail = {each: asdict(of) for each, of in scores.items()}
            figures = _figures(name, scores[PRODUCT], behind)
            behind_detail = {each: asdict(of) for each, of in behind.items()}
            whole = {"figures": figures, "detail": detail, "behind_baseline": behind_detail}
            self.stdout.write(json.dumps(_known(whole)))

    def _read(self, path: Path, options: dict[str, Any]) -> Sightings:
        with tqdm(desc="reading", unit="B", unit_scale=True, file=sys.stderr) as bar:
            trace = read_locations(
                path, options["format"], regions=options["regions"], advance=bar.update
            )
        if options["people"]:
            trace = trace.of_people(options["people"])
        return sightings_of(trace.user, trace.at_s, trace.place)

    def _say(self, name: str, result: Result, scores: dict[str, Scores], seconds: float) -> None:
        every = result.targets
        n_first = sum(int(each.is_first.sum()) for each in every)
        n_changes = sum(int((each.is_first & (each.place != each.last)).sum()) for each in every)
        n_people = len(np.unique(np.concatenate([each.user for each in every])))
        self.stdout.write(
            f"{name}: {n_people:,} people, {len(every):,} moments with sightings in the week after,"
            f" {n_first:,} first sightings in a band, {n_changes:,} of them changes,"
            f" {sum(map(len, every)):,} sightings in all; {seconds:.0f} s"
        )
        self._table(
            ("log loss", *BANDS, "Brier", "accuracy", "ECE", "every"),
            {
                method: (of.log_loss, *of.by_band, of.brier, of.accuracy, of.ece, of.every_log_loss)
                for method, of in scores.items()
            },
        )
        self.stdout.write(
            "Perfectly calibrated forecasts of so many sightings would be measured to have an ECE"
            f" of {scores[PRODUCT].ece_by_chance:.4f}."
        )
        self._table(
            ("on changes", *BANDS, "accuracy"),
            {
                method: (of.change_log_loss, *of.change_by_band, of.change_accuracy)
                for method, of in scores.items()
            },
        )

    def _table(self, headings: Sequence[str], rows: Mapping[str, Sequence[float]]) -> None:
        self.stdout.write(" " * 22 + "".join(f"{each:>11}" for each in headings))
        for name, values in rows.items():
            self.stdout.write(f"{name:<22}" + "".join(f"{each:>11.4f}" for each in values))

    def _compare(
        self, result: Result, scores: dict[str, Scores], beside: Sequence[str]
    ) -> dict[str, Difference]:
        behind = {"all": compare(result, scores)} | {
            name: compare(result, scores, band=band) for band, name in enumerate(BANDS)
        }
        self._differences("that of the best baseline", behind)
        for other in beside:
            self._differences(
                f"that of {other}",
                {"all": difference(result, other)}
                | {name: difference(result, other, band=band) for band, name in enumerate(BANDS)},
            )
        return behind

    def _differences(self, what: str, behind: Mapping[str, Difference]) -> None:
        self.stdout.write(f"The product's log loss less {what}:")
        for name, of in behind.items():
            self.stdout.write(
                f"  {name:<9} {of.mean:+.4f} (standard error {of.standard_error:.4f}) {of.best}"
            )


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise ArgumentTypeError(f"a share between 0 and 1 is wanted, not {text!r}")
    return value


def _figures(name: str, scores: Scores, behind: Mapping[str, Difference]) -> dict[str, float]:
    figures = {
        f"logloss_{name}": scores.log_loss,
        f"ece_{name}": scores.ece,
        f"change_logloss_{name}": scores.change_log_loss,
        f"change_accuracy_{name}": scores.change_accuracy,
        f"logloss_every_{name}": scores.every_log_loss,
        f"behind_baseline_{name}": behind["all"].mean,
        f"worse_bands_{name}": sum(behind[band].mean > 0 for band in BANDS),
    }
    return {key: round(value, 5) for key, value in figures.items() if np.isfinite(value)}


def _known(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _bar(text: str, unit: str) -> tqdm[Any]:
    return tqdm(desc=text, unit=f" {unit}", file=sys.stderr)


def _advance(bar: tqdm[Any]) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress
