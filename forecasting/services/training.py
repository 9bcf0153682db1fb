"""Training a neural engine on a data set's history, and keeping what it learnt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from django.conf import settings
from django.db import transaction

from desktops import events
from desktops.core.zones import zone_named
from desktops.models import Dataset
from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.engines import Engine, Observed
from forecasting.core.naive import seasonal_naive
from forecasting.core.profiles import HORIZON_HOURS, HOUR, RESOURCES
from forecasting.core.scores import pinball_loss
from forecasting.engines import registry
from forecasting.errors import (
    EngineUnavailable,
    InvalidCheckpoint,
    InvalidHistory,
    TrainingSuperseded,
)
from forecasting.history import FleetHistory, read_history
from forecasting.models import TrainedEngine
from forecasting.services.calendars import holidays_of

if TYPE_CHECKING:
    from forecasting.engines.neural import NeuralEngine

ENGINES = ("lstm", "transformer")
HISTORY_DAYS = 70
SCORED_DAYS = 3
DAY_HOURS = 24
LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
# A network serves a fleet of any size, and learns no more from the ten-thousandth person.
SUBJECTS = 1000
KEPT_CHECKPOINTS = 3
STEPS_BETWEEN_WRITES = 20

Clock = Callable[[], datetime]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Group:
    """The subjects of one time zone, all resources one below the other.

    history : shape (n_resources * n_subjects, hours)
    holidays : of these hours and the horizon after them
    """

    history: FloatArray
    start: datetime
    holidays: Holidays | None

    def until(self, hour: int, horizon: int) -> Observed:
        holidays = self.holidays.between(0, hour + horizon) if self.holidays else None
        return Observed(self.history[:, :hour], self.start, holidays)


def train_engine(
    *,
    dataset_id: int,
    engine: str,
    clock: Clock,
    seed: int = 0,
    progress: Progress | None = None,
    **changes: Any,
) -> TrainedEngine:
    """Train an engine on a data set's last weeks and score it on the days after them.

    progress : told steps done of how many; changes : to `neural_training.Settings`

    Raises EngineUnavailable for another engine or without PyTorch, InvalidHistory when there is
    too little to learn from, TrainingSuperseded when another training of the same engine began
    meanwhile. One that fails says why in its row; the one before it stays in use.
    """
    dataset = Dataset.objects.get(pk=dataset_id)
    untrained = _untrained(engine, seed, changes)
    row = _begin(dataset, untrained, clock=clock)
    try:
        _train(row, untrained, clock=clock, progress=progress)
    except Exception as error:
        _path_of(row.file).unlink(missing_ok=True)
        TrainedEngine.objects.filter(pk=row.pk, state=TrainedEngine.State.RUNNING).update(
            state=TrainedEngine.State.FAILED,
            failure=f"{type(error).__name__}: {error}"[:500],
            finished_at=clock(),
        )
        raise
    _drop_old(dataset, engine)
    row.refresh_from_db()
    return row


def load_trained(row: TrainedEngine) -> Engine:
    """The engine as it was trained. Raises EngineUnavailable, InvalidCheckpoint."""
    kind = type(_untrained(row.engine, row.seed, {}))
    if row.state != TrainedEngine.State.COMPLETE:
        raise InvalidCheckpoint(f"the training of {row} is {row.get_state_display().lower()}")
    # Imported late, here and below: PyTorch takes seconds, and is an extra.
    from forecasting.engines.neural_checkpoints import load

    return load(kind, _path_of(row.file))


def _untrained(engine: str, seed: int, changes: Mapping[str, Any]) -> NeuralEngine:
    if engine not in ENGINES:
        raise EngineUnavailable(f"{engine!r} cannot be trained; there are: {', '.join(ENGINES)}.")
    kind: Any = type(registry.load(engine))
    from forecasting.engines.neural_training import Settings

    made: NeuralEngine = kind(Settings(seed=seed, **changes))
    return made


def _begin(dataset: Dataset, engine: NeuralEngine, *, clock: Clock) -> TrainedEngine:
    """A new row; one that is still running belongs to a worker that died, or is overtaken."""
    now = clock()
    end = dataset.clock(wall=now).replace(minute=0, second=0, microsecond=0)
    learnt_until = end - timedelta(days=SCORED_DAYS)
    with transaction.atomic():
        Dataset.objects.select_for_update().get(pk=dataset.pk)
        TrainedEngine.objects.filter(
            dataset=dataset, engine=engine.name, state=TrainedEngine.State.RUNNING
        ).update(
            state=TrainedEngine.State.FAILED,
            failure="Another training of this engine began.",
            finished_at=now,
        )
        row = TrainedEngine.objects.create(
            dataset=dataset,
            engine=engine.name,
            version=engine.version,
            seed=engine.settings.seed,
            settings=asdict(engine.settings),
            window_start=end - timedelta(days=HISTORY_DAYS),
            window_end=learnt_until,
            steps_total=engine.settings.steps,
            created_at=now,
        )
        row.file = f"{dataset.pk}/{engine.name}-{row.pk}.pt"
        row.save(update_fields=["file"])
    return row


def _train(
    row: TrainedEngine, untrained: NeuralEngine, *, clock: Clock, progress: Progress | None
) -> None:
    from forecasting.engines.neural_checkpoints import save

    end = row.window_end + timedelta(days=SCORED_DAYS)
    groups = list(_groups(read_history(row.dataset, until=end, days=HISTORY_DAYS), row.seed))
    if not groups:
        raise InvalidHistory(f"{row.dataset} has nobody to learn from: import activity first.")
    learnt_hours = (HISTORY_DAYS - SCORED_DAYS) * DAY_HOURS

    def tell(done: int, total: int) -> None:
        if done % STEPS_BETWEEN_WRITES == 0 or done == total:
            _update(row, steps_done=done, steps_total=total)
        if progress:
            progress(done, total)

    past = [group.until(learnt_hours, HORIZON_HOURS) for group in groups]
    trained = untrained.train(past, step=HOUR, horizon=HORIZON_HOURS, progress=tell)
    assert trained.trained is not None
    about = trained.trained.about
    metrics = {key: about[key] for key in ("series", "steps", "held_back_loss")}
    metrics |= _scores(trained, groups)
    save(trained, _path_of(row.file))
    _publish(row, metrics, at=clock())


def _update(row: TrainedEngine, **values: Any) -> None:
    """Raises TrainingSuperseded when the row is no longer this training's."""
    mine = TrainedEngine.objects.filter(pk=row.pk, state=TrainedEngine.State.RUNNING)
    if not mine.update(**values):
        raise TrainingSuperseded(f"another training of {row.engine} began")


def _publish(row: TrainedEngine, metrics: dict[str, Any], *, at: datetime) -> None:
    with transaction.atomic():
        _update(row, state=TrainedEngine.State.COMPLETE, metrics=metrics, finished_at=at)
        for pool_id in row.dataset.pools.values_list("pk", flat=True):
            events.record(
                kind="engine.trained",
                subject=row,
                at=at,
                pool_id=pool_id,
                dataset=row.dataset.name,
                engine=row.engine,
                relative_wql=metrics["relative_wql"],
            )


def _groups(history: FleetHistory, seed: int) -> Iterator[Group]:
    """By time zone, as rhythms follow the wall clock; of a large fleet, some chosen at random."""
    n_subjects = len(history.subjects)
    chosen = np.arange(n_subjects)
    if n_subjects > SUBJECTS:
        chosen = np.sort(np.random.default_rng(seed).choice(n_subjects, SUBJECTS, replace=False))
    by_zone: dict[str, list[int]] = defaultdict(list)
    for row in chosen.tolist():
        by_zone[history.subjects[row].time_zone].append(row)
    for zone, rows in sorted(by_zone.items()):
        start = history.start.astimezone(zone_named(zone))
        subjects = [history.subjects[row] for row in rows]
        holidays = holidays_of(subjects, start, history.hours + HORIZON_HOURS)
        every = np.tile(np.arange(len(rows)), len(RESOURCES))
        demand = [history.demand[name][rows].astype(np.float64) for name in RESOURCES]
        yield Group(np.concatenate(demand), start, holidays.take(every) if holidays else None)


def _scores(engine: Engine, groups: list[Group]) -> dict[str, Any]:
    """Weighted quantile loss of the days nothing was learnt from, relative to seasonal naive's.

    One origin a day, a day ahead. By resource, None where nothing was observed, and as geometric
    mean of the resources that were.
    """
    ours, naive = np.zeros(len(RESOURCES)), np.zeros(len(RESOURCES))
    level = np.array(LEVELS)
    for group in groups:
        hours = group.history.shape[1]
        for origin in range(hours - SCORED_DAYS * DAY_HOURS, hours, DAY_HOURS):
            past = group.until(origin, DAY_HOURS)
            said = engine.forecast(
                past.history,
                start=past.start,
                step=HOUR,
                horizon=DAY_HOURS,
                levels=LEVELS,
                holidays=past.holidays,
            )
            yesterday = seasonal_naive(past.history, lag=24, horizon=DAY_HOURS, levels=level)
            actual = group.history[:, origin : origin + DAY_HOURS]
            known = np.isfinite(said).all(axis=2) & np.isfinite(yesterday).all(axis=2)
            actual = np.where(known, actual, np.nan)
            for total, quantiles in ((ours, said), (naive, yesterday)):
                loss = np.nansum(pinball_loss(actual, quantiles, levels=level), axis=(1, 2))
                total += loss.reshape(len(RESOURCES), -1).sum(axis=1)
    ratio = [float(a / b) if b > 0 else None for a, b in zip(ours, naive, strict=True)]
    known_ratios = [each for each in ratio if each]
    mean = float(np.exp(np.mean(np.log(known_ratios)))) if known_ratios else None
    return {"relative_wql": mean, "wql": dict(zip(RESOURCES, ratio, strict=True))}


def _path_of(file: str) -> Path:
    return Path(settings.MODELS_FOLDER) / file


def _drop_old(dataset: Dataset, engine: str) -> None:
    """Keep the newest of this engine, and no file that has no row: its data set may be gone."""
    complete = dataset.trained_engines.filter(engine=engine, state=TrainedEngine.State.COMPLETE)
    old = list(complete.values_list("pk", flat=True)[KEPT_CHECKPOINTS:])
    TrainedEngine.objects.filter(pk__in=old).delete()
    kept = set(TrainedEngine.objects.values_list("file", flat=True))
    for path in _path_of("").glob("*/*.pt"):
        if str(path.relative_to(_path_of(""))) not in kept:
            path.unlink(missing_ok=True)
