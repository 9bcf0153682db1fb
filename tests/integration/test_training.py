"""Training a neural engine on a data set: the row, the file, and what is told of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from desktops.models import Activity, Dataset, DesktopUser, Event, Pool, Site
from forecasting.core.profiles import HORIZON_HOURS, HOUR
from forecasting.errors import (
    EngineUnavailable,
    InvalidCheckpoint,
    InvalidHistory,
    TrainingSuperseded,
)
from forecasting.models import TrainedEngine
from forecasting.services.training import load_trained, train_engine

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed: make neural"),
    pytest.mark.django_db(transaction=True),
]

AS_OF = datetime(2026, 3, 6, 18, tzinfo=UTC)
QUICK = {"steps": 20, "batch": 16, "check_every": 10}


@pytest.fixture
def models(settings: Any, tmp_path: Path) -> Path:
    settings.MODELS_FOLDER = tmp_path / "models"
    return tmp_path / "models"


@pytest.fixture
def dataset(models: Path) -> Dataset:
    """Six people in two time zones, at work from nine to five for eight weeks."""
    dataset = Dataset.objects.create(
        name="office", label="Office", kind=Dataset.Kind.SIMULATED, as_of=AS_OF, source="a test"
    )
    pool = Pool.objects.create(dataset=dataset, name="pool", label="Pool")
    chance = np.random.default_rng(0)
    rows = []
    for number in range(6):
        zone = ("Europe/Paris", "America/Chicago")[number % 2]
        site, _ = Site.objects.get_or_create(
            code=zone.split("/")[1].lower(),
            defaults={"label": zone, "country": "FR", "latitude": 0, "longitude": 0},
        )
        person = DesktopUser.objects.create(
            dataset=dataset, pool=pool, pseudonym=f"p{number}", home_site=site, time_zone=zone
        )
        for back in range(56 * 24):
            hour = AS_OF - timedelta(hours=back + 1)
            if hour.weekday() < 5 and 9 <= hour.hour < 17:
                rows.append(
                    Activity(
                        dataset=dataset,
                        desktop_user=person,
                        hour=hour,
                        active_ratio=1,
                        cpu_cores=(number + 1) * chance.lognormal(0, 0.2),
                        memory_bytes=4e9,
                    )
                )
    Activity.objects.bulk_create(rows)
    return dataset


def now() -> datetime:
    return datetime(2026, 4, 1, tzinfo=UTC)


def train(dataset: Dataset, **changes: Any) -> TrainedEngine:
    asked: dict[str, Any] = {"engine": "lstm", "clock": now, **QUICK}
    return train_engine(dataset_id=dataset.pk, **(asked | changes))


def test_a_training_is_kept_scored_and_told(dataset, models):
    seen: list[tuple[int, int]] = []
    row = train(dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 20) for n in range(1, 21)]
    assert (row.state, row.steps_done, row.seed) == ("complete", 20, 0)
    assert row.settings["steps"] == 20
    assert row.window_end == AS_OF - timedelta(days=3)
    assert row.metrics["series"] == 12
    assert 0 < row.metrics["relative_wql"] < 3
    assert row.metrics["wql"]["network_bytes_per_s"] is None
    assert (models / row.file).is_file()
    event = Event.objects.get(kind="engine.trained")
    assert event.pool == dataset.pools.get()
    assert event.payload["relative_wql"] == row.metrics["relative_wql"]
    history = np.random.default_rng(0).lognormal(size=(3, 400))
    levels = [0.1, 0.5, 0.9]
    said = load_trained(row).forecast(
        history, start=AS_OF, step=HOUR, horizon=HORIZON_HOURS, levels=levels
    )
    assert said.shape == (3, HORIZON_HOURS, 3)
    assert np.isfinite(said).all()


def test_the_same_seed_trains_the_same_engine(dataset):
    first, second, other = (train(dataset, seed=seed) for seed in (0, 0, 1))
    assert first.metrics == second.metrics != other.metrics


def test_a_training_that_fails_says_why_and_leaves_no_file(models):
    empty = Dataset.objects.create(
        name="empty", label="Empty", kind=Dataset.Kind.SIMULATED, as_of=AS_OF, source="a test"
    )
    with pytest.raises(InvalidHistory, match="nobody to learn from"):
        train(empty)
    row = TrainedEngine.objects.get()
    assert row.state == "failed"
    assert row.failure.startswith("InvalidHistory: ")
    assert not list(models.glob("*/*"))
    with pytest.raises(InvalidCheckpoint, match="is failed"):
        load_trained(row)


def test_a_newer_training_ends_the_one_before_it(dataset, models):
    newer = []

    def overtake(done: int, total: int) -> None:
        if done == 5:
            newer.append(train(dataset))

    with pytest.raises(TrainingSuperseded):
        train(dataset, progress=overtake)
    assert set(TrainedEngine.objects.values_list("pk", "state")) == {
        (newer[0].pk, "complete"),
        (newer[0].pk - 1, "failed"),
    }
    assert [path.name for path in models.glob("*/*")] == [Path(newer[0].file).name]


def test_the_last_three_are_kept_and_files_without_a_row_are_not(dataset, models):
    stray = models / "999" / "lstm-1.pt"
    stray.parent.mkdir(parents=True)
    stray.touch()
    rows = [train(dataset, steps=2) for _ in range(4)]
    kept = {row.file for row in rows[1:]}
    assert set(TrainedEngine.objects.values_list("file", flat=True)) == kept
    assert {str(path.relative_to(models)) for path in models.glob("*/*")} == kept


def test_other_engines_cannot_be_trained(dataset):
    with pytest.raises(EngineUnavailable, match="'seasonal' cannot be trained"):
        train(dataset, engine="seasonal")
    assert not TrainedEngine.objects.exists()


def test_the_command_needs_a_data_set_that_exists():
    with pytest.raises(CommandError, match="No data set 'nowhere'"):
        call_command("train_engine", "nowhere", engine="lstm", stdout=StringIO())
