"""How well each engine would have forecast a fleet over its last three weeks.

A sample of the people and machines of a data set is forecast again from where the past stood, by
one engine after the other, and compared with what came. What is measured is kept with the run, so
that a page can show the newest one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from django.db import transaction

from desktops.core.zones import zone_named
from desktops.models import Dataset, Desktop, DesktopUser
from forecasting.core import evaluation
from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.engines import Engine, Observed, Trainable
from forecasting.core.evaluation import Question, Scores
from forecasting.core.profiles import HOUR, RESOURCES, hours_that_count
from forecasting.engines import registry
from forecasting.errors import InvalidHistory
from forecasting.history import Crowd, FleetHistory, Subject, crowds_of, read_history
from forecasting.models import BacktestExample, BacktestRun, BacktestScore
from forecasting.services.calendars import holidays_of

log = logging.getLogger(__name__)

SUBJECTS, SEED = 100, 1
ORIGINS, HORIZON_H, HISTORY_DAYS, SPAN_DAYS = 5, 24, 42, 21
KEPT_RUNS = 5
EXAMPLES_PER_POOL = 3
EXAMPLES_BY = "product"
EXAMPLE_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

# Told which engine has answered how many questions of how many.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """What the engines are asked, and whose series they are.

    past : what was known at the first origin, for engines that learn once
    subjects : by group of questions, in the order of their series
    """

    questions: list[Question]
    past: list[Observed]
    subjects: dict[str, list[Subject]]
    as_of: datetime
    origins: list[datetime]


def run_backtest(
    *,
    dataset_id: int,
    engines: Sequence[str],
    clock: Callable[[], datetime],
    subjects: int = SUBJECTS,
    origins: int = ORIGINS,
    progress: Progress = lambda engine, done, total: None,
    stopwatch: Callable[[], float] = time.perf_counter,
) -> BacktestRun:
    """Score engines on at most `subjects` people and machines, drawn at random, at `origins`
    moments of the last three weeks.

    Every engine's scores are kept as soon as it is done; one that fails leaves its reason and
    does not keep the others from being scored. Raises InvalidHistory when there is too little to
    score anything, EngineUnavailable for an engine that cannot be had.
    """
    dataset = Dataset.objects.get(pk=dataset_id)
    loaded = [registry.load(name) for name in engines]
    trial = _trial(dataset, as_of=_this_hour(dataset, clock), most=subjects, origins=origins)
    run = BacktestRun.objects.create(
        dataset=dataset,
        as_of=trial.as_of,
        started_at=clock(),
        origins=trial.origins,
        horizon_hours=HORIZON_H,
        history_days=HISTORY_DAYS,
        subjects=sum(len(each) for each in trial.subjects.values()),
    )
    for engine in loaded:
        started = stopwatch()
        try:
            answers = _answers(engine, trial, progress)
        except Exception as error:
            log.exception("engine %s failed in %s", engine.name, run)
            reason = f"{type(error).__name__}: {error}"[:400]
            BacktestScore.objects.create(
                run=run, engine=engine.name, version=engine.version, failure=reason
            )
            continue
        n_series = sum(len(question.actual) for question in trial.questions)
        rate = n_series / max(stopwatch() - started, 1e-9)
        scores = evaluation.score(trial.questions, answers)
        with transaction.atomic():
            _keep_scores(run, engine.name, engine.version, scores, rate)
            if engine.name == EXAMPLES_BY:
                _keep_examples(run, trial, answers)
    return _finish(run, at=clock())


def _this_hour(dataset: Dataset, clock: Callable[[], datetime]) -> datetime:
    return dataset.clock(wall=clock()).replace(minute=0, second=0, microsecond=0)


def _trial(dataset: Dataset, *, as_of: datetime, most: int, origins: int) -> Trial:
    questions: list[Question] = []
    past: list[Observed] = []
    subjects: dict[str, list[Subject]] = {}
    n_slots = (HISTORY_DAYS + SPAN_DAYS) * 24
    moments = evaluation.spread_origins(n_slots, horizon=HORIZON_H, step=HOUR, count=origins)
    start = as_of - n_slots * HOUR
    for crowd in _sample(dataset, as_of, most):
        history = read_history(dataset, until=as_of, days=HISTORY_DAYS + SPAN_DAYS, crowd=crowd)
        rows = _seen_before(history, moments[-1])
        if not len(rows):
            continue
        group = crowd.time_zone
        subjects[group] = [history.subjects[row] for row in rows]
        begin = history.start.astimezone(zone_named(group))
        holidays = holidays_of(subjects[group], begin, n_slots)
        demand = _demand(history, rows)
        questions += evaluation.ask_of(
            demand,
            start=begin,
            step=HOUR,
            origins=moments,
            window=HISTORY_DAYS * 24,
            horizon=HORIZON_H,
            holidays=holidays,
            group=group,
        )
        past.append(_known_at(moments[0], demand, begin, holidays))
    if not any(question.comparable.any() for question in questions):
        raise InvalidHistory(
            f"{dataset} was not observed in the three weeks before {as_of:%Y-%m-%d %H:%M} UTC:"
            " there is nothing to compare a forecast with."
        )
    return Trial(questions, past, subjects, as_of, [start + each * HOUR for each in moments])


def _sample(dataset: Dataset, as_of: datetime, most: int) -> Iterator[Crowd]:
    """Some of everybody, one crowd a time zone; the same ones every time while nobody comes."""
    people = DesktopUser.objects.filter(dataset=dataset, is_predicted=True)
    machines = Desktop.objects.filter(dataset=dataset, desktop_user=None)
    everybody = [("person", pk) for pk in people.order_by("pk").values_list("pk", flat=True)]
    everybody += [("machine", pk) for pk in machines.order_by("pk").values_list("pk", flat=True)]
    drawn = np.random.default_rng(SEED).permutation(len(everybody))[:most]
    chosen = {everybody[i] for i in drawn}
    used_by = dict(Desktop.objects.filter(dataset=dataset).values_list("pk", "desktop_user_id"))
    for crowd in crowds_of(dataset, at=as_of, most=max(len(everybody), 1) * 2):
        some = Crowd(
            crowd.time_zone,
            [pk for pk in crowd.people if ("person", pk) in chosen],
            [
                pk
                for pk in crowd.desktops
                if ("machine", pk) in chosen or ("person", used_by.get(pk)) in chosen
            ],
        )
        if some.people or some.desktops:
            yield some


def _demand(history: FleetHistory, rows: np.ndarray) -> dict[str, FloatArray]:
    """Demand given a session, as it is forecast: by resource, shape (n, hours)."""
    active = history.active_ratio[rows].astype(np.float64)
    counts = hours_that_count(active, active.shape)
    return {
        name: np.where(counts, history.demand[name][rows].astype(np.float64), np.nan)
        for name in RESOURCES
    }


def _known_at(
    origin: int, demand: dict[str, FloatArray], start: datetime, holidays: Holidays | None
) -> Observed:
    """All resources together, up to an origin."""
    past = np.concatenate([values[:, :origin] for values in demand.values()])
    if holidays:
        subjects = np.tile(np.arange(len(past) // len(demand)), len(demand))
        holidays = holidays.take(subjects).between(0, origin + HORIZON_H)
    return Observed(past, start, holidays)


def _seen_before(history: FleetHistory, origin: int) -> np.ndarray:
    """Who has anything to be forecast from."""
    seen = [np.isfinite(values[:, :origin]).any(axis=1) for values in history.demand.values()]
    return np.flatnonzero(np.any(seen, axis=0))


def _answers(engine: Engine, trial: Trial, progress: Progress) -> list[FloatArray]:
    done, total = 0, len(trial.questions)

    def advance(answered: int) -> None:
        nonlocal done
        done += answered
        progress(engine.name, done, total)

    advance(0)
    if isinstance(engine, Trainable):
        engine = engine.train(trial.past, step=HOUR, horizon=HORIZON_H)
    return evaluation.answers_of(
        engine, trial.questions, step=HOUR, is_together=True, progress=advance
    )


def _keep_scores(
    run: BacktestRun, engine: str, version: str, scores: Scores, series_per_s: float
) -> None:
    known = {name: value for name, value in scores.wql.items() if np.isfinite(value)}
    BacktestScore.objects.create(
        run=run,
        engine=engine,
        version=version,
        wql=_known(scores.relative_wql),
        wql_by_resource=known,
        scaled_loss=_known(scores.scaled_loss),
        coverage_50=_known(scores.coverage[0.5]),
        coverage_80=_known(scores.coverage[0.8]),
        coverage_90=_known(scores.coverage[0.9]),
        share_beating_naive=_known(scores.share_beating_naive),
        silent_share=scores.silent_share,
        series_per_s=series_per_s,
    )


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _keep_examples(run: BacktestRun, trial: Trial, answers: Sequence[FloatArray]) -> None:
    """The newest origin's forecasts of the first few of each pool who were seen in its hours."""
    starts_at = trial.origins[-1]
    columns = [evaluation.LEVELS.index(level) for level in EXAMPLE_LEVELS]
    shown: dict[int, int] = {}
    for group, subjects in trial.subjects.items():
        newest = {
            question.resource: (question, answer[:, :, columns])
            for question, answer in zip(trial.questions, answers, strict=True)
            if question.group == group
        }
        for row, subject in enumerate(subjects):
            seen = any(question.comparable[row].any() for question, _ in newest.values())
            if not seen or shown.get(subject.pool_id, 0) >= EXAMPLES_PER_POOL:
                continue
            shown[subject.pool_id] = shown.get(subject.pool_id, 0) + 1
            BacktestExample.objects.create(
                run=run,
                pool_id=subject.pool_id,
                desktop_user_id=subject.desktop_user_id,
                desktop_id=subject.desktop_id,
                starts_at=starts_at,
                levels=list(EXAMPLE_LEVELS),
                quantiles={
                    name: answer[row].tolist()
                    for name, (_, answer) in newest.items()
                    if np.isfinite(answer[row]).all()
                },
            )


def _finish(run: BacktestRun, *, at: datetime) -> BacktestRun:
    """Show the run, and drop those nobody looks at any more."""
    run.finished_at = at
    run.save(update_fields=["finished_at"])
    runs = BacktestRun.objects.filter(dataset=run.dataset_id).values_list("pk", flat=True)
    BacktestRun.objects.filter(dataset=run.dataset_id).exclude(
        pk__in=list(runs[:KEPT_RUNS])
    ).delete()
    return run
