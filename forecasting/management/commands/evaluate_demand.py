"""Score the forecast engines on recorded machines, against naive methods in the same run."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentTypeError
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from forecasting.core.engines import Observed, Trainable
from forecasting.core.evaluation import Question, Scores, answers_of, ask_of, score, spread_origins
from forecasting.engines import registry
from forecasting.errors import ForecastingError
from forecasting.traces import HOUR, Trace, read_trace

PRODUCT = "product"
HORIZON = 24
HISTORY = 42 * 24


class Command(BaseCommand):
    help = __doc__
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
        parser.add_argument(
            "--engine",
            action="append",
            choices=[*registry.ENGINES, "all"],
            help="may be given several times; default: product",
        )
        parser.add_argument("--origins", type=at_least_one, default=5, help="in three weeks")
        parser.add_argument(
            "--machines", type=at_least_one, help="only so many, evenly spread; default all"
        )
        parser.add_argument(
            "--together",
            action="store_true",
            help="ask about all resources in one call, as profiles are made; default one by one",
        )
        parser.add_argument("--json", action="store_true", help="end with one line of JSON")

    def handle(self, *args: Any, data: Path, **options: Any) -> None:
        try:
            trace, questions = self._prepare(data, options["origins"], options["machines"])
            figures: dict[str, float] = {}
            losses: dict[str, float] = {}
            detail: dict[str, Any] = {}
            for name in _chosen(options["engine"] or [PRODUCT]):
                scores, seconds = _score(name, trace, questions, options["together"])
                self._say(name, scores, seconds)
                figures |= _figures(name, trace.name, scores)
                losses[name] = scores.relative_wql
                detail[name] = asdict(scores) | {"forecast_s": seconds}
        except ForecastingError as error:
            raise CommandError(str(error)) from error
        others = {name: loss for name, loss in losses.items() if name != PRODUCT}
        if PRODUCT in losses and others:
            best = min(others, key=others.__getitem__)
            behind = losses[PRODUCT] / others[best] - 1
            self.stdout.write(
                f"The product's loss is that of the best single engine ({best}) {behind:+.1%}."
            )
            figures[f"product_behind_best_{trace.name}"] = round(behind, 5)
        if options["json"]:
            self.stdout.write(json.dumps({"figures": figures, "detail": _known(detail)}))

    def _prepare(
        self, folder: Path, count: int, machines: int | None
    ) -> tuple[Trace, list[Question]]:
        with _bar("reading", "files") as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            trace = read_trace(folder, machines=machines, progress=progress)
        origins = spread_origins(trace.n_slots, horizon=HORIZON, step=HOUR, count=count)
        questions = ask_of(
            trace.resources,
            start=trace.start,
            step=HOUR,
            origins=origins,
            window=HISTORY,
            horizon=HORIZON,
        )
        days = [min(origin, HISTORY) / 24 for origin in origins]
        short = "" if min(days) == HISTORY / 24 else " (as much as there is)"
        self.stdout.write(
            f"{trace.name}: {trace.n_series} series of {', '.join(trace.resources)},"
            f" {HORIZON} h ahead from {', '.join(_moments(trace, origins))}"
            f" with {', '.join(f'{each:g}' for each in days)} days of history{short}."
        )
        return trace, questions

    def _say(self, name: str, scores: Scores, seconds: float) -> None:
        by_resource = ", ".join(f"{key} {value:.3f}" for key, value in scores.wql.items())
        self.stdout.write(
            f"{name}: WQL {scores.relative_wql:.4f} of seasonal naive ({by_resource});"
            f" per series {scores.scaled_loss:.4f};"
            f" better than the best naive {scores.share_beating_naive:.1%},"
            f" than the usual naive {scores.share_beating_usual_naive:.1%},"
            f" than yesterday {scores.share_beating_seasonal_naive:.1%};"
            f" silent {scores.silent_share:.2%}; {seconds:.1f} s"
        )
        for interval, share in scores.coverage.items():
            deciles = scores.decile_coverage[interval]
            self.stdout.write(
                f"  {interval:.0%} interval covers {share:.1%};"
                f" by volatility {' '.join(f'{each:.1%}' for each in deciles)}"
                f" (spread {max(deciles) - min(deciles):.1%})"
            )


def _chosen(names: list[str]) -> list[str]:
    return registry.installed() if "all" in names else list(dict.fromkeys(names))


def at_least_one(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"a whole number from 1 on is wanted, not {text!r}")
    return int(text)


def _known(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _score(
    name: str, trace: Trace, questions: list[Question], is_together: bool
) -> tuple[Scores, float]:
    engine = registry.load(name)
    if isinstance(engine, Trainable):
        engine = _trained(engine, trace, questions)
    with _bar(name, "forecasts", total=len(questions)) as bar:
        started = time.perf_counter()
        answers = answers_of(
            engine, questions, step=HOUR, is_together=is_together, progress=bar.update
        )
        seconds = time.perf_counter() - started
    return score(questions, answers), seconds


def _trained(engine: Trainable, trace: Trace, questions: list[Question]) -> Trainable:
    """Trained once, on all resources together as far as the first origin; never on what follows."""
    first = min(_origin(trace, question) for question in questions)
    past = np.concatenate([history[:, :first] for history in trace.resources.values()])
    with _bar(f"training {engine.name}", "steps") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return engine.train(
            [Observed(past, trace.start)], step=HOUR, horizon=HORIZON, progress=progress
        )


def _origin(trace: Trace, question: Question) -> int:
    fold = question.fold
    return round((fold.start - trace.start) / HOUR) + fold.history.shape[1]


def _figures(name: str, trace: str, scores: Scores) -> dict[str, float]:
    """The product's figures bear the trace's name alone, another engine's its own before it."""
    of = trace if name == PRODUCT else f"{name}_{trace}"
    figures = {
        f"wql_{of}": scores.relative_wql,
        f"scaled_{of}": scores.scaled_loss,
        f"share_beating_naive_{of}": scores.share_beating_naive,
        f"share_beating_usual_naive_{of}": scores.share_beating_usual_naive,
    }
    for interval, share in scores.coverage.items():
        deciles = scores.decile_coverage[interval]
        figures[f"cover{interval * 100:.0f}_{of}"] = share
        figures[f"cover{interval * 100:.0f}_spread_{of}"] = max(deciles) - min(deciles)
    if name == PRODUCT:
        figures["share_beating_naive"] = scores.share_beating_naive
    return {key: round(value, 5) for key, value in figures.items() if np.isfinite(value)}


def _moments(trace: Trace, origins: list[int]) -> list[str]:
    return [f"{trace.start + timedelta(hours=origin):%m-%d %H:%M}" for origin in origins]


def _bar(text: str, unit: str, total: int | None = None) -> tqdm[Any]:
    return tqdm(desc=text, unit=f" {unit}", total=total, file=sys.stderr)
