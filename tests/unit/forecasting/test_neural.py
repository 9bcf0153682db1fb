"""The neural engines. They need PyTorch, an extra, and seconds to train."""

from __future__ import annotations

import io
import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.core.calendar import Event, event_flags
from forecasting.core.engines import Engine, Observed, Trainable
from forecasting.core.evaluation import answers_of, ask_of, score, spread_origins
from forecasting.core.naive import seasonal_naive
from forecasting.core.scores import weighted_quantile_loss
from forecasting.core.timeline import Timeline
from forecasting.core.wall import WallClock
from forecasting.engines import registry
from forecasting.errors import InvalidCheckpoint, InvalidHistory
from forecasting.traces import read_trace

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed: make neural"),
]

REPOSITORY = Path(__file__).resolve().parents[3]
DATASETS = Path(os.environ.get("FOREDESK_DATASETS", REPOSITORY.parent / "shared" / "datasets"))
MONDAY = datetime(2024, 3, 4, tzinfo=UTC)
HOUR = timedelta(hours=1)
LEVELS = [round(0.05 * i, 2) for i in range(1, 20)]
NAMES = ["lstm", "transformer"]


def settings(**changes: Any) -> Any:
    from forecasting.engines.neural_training import Settings  # PyTorch takes seconds to import

    return replace(Settings(steps=20, batch=16, check_every=10), **changes)


def engine(name: str, **changes: Any) -> Any:
    return type(registry.load(name))(settings(**changes))


def fleet(n_series: int = 12, days: int = 28, seed: int = 0) -> np.ndarray:
    """Office hours of different sizes with noise, quiet at weekends."""
    chance = np.random.default_rng(seed)
    hour = np.arange(days * 24)
    works = (hour % 24 >= 8) & (hour % 24 < 18) & (hour // 24 % 7 < 5)
    size = 10.0 ** chance.uniform(-2, 4, size=(n_series, 1))
    return size * (0.1 + works) * chance.lognormal(0, 0.3, size=(n_series, len(hour)))


def forecast(made: Engine, history: np.ndarray, **changes: Any) -> np.ndarray:
    asked: dict[str, Any] = {"start": MONDAY, "step": HOUR, "horizon": 24, "levels": LEVELS}
    return made.forecast(history, **(asked | changes))


@pytest.fixture(scope="module", params=NAMES)
def trained(request: pytest.FixtureRequest) -> Any:
    return engine(request.param).train([Observed(fleet(), MONDAY)], step=HOUR, horizon=48)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_history_gives_the_same_forecast_and_leaves_no_trace(name):
    import torch

    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = forecast(engine(name), fleet(4))
    torch.rand(3), np.random.rand(3), random.random()
    torch.random.set_rng_state(state)
    np.testing.assert_array_equal(first, forecast(engine(name), fleet(4)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert not np.array_equal(first, forecast(engine(name, seed=1), fleet(4)))


@pytest.mark.parametrize("name", NAMES)
def test_a_little_training_beats_yesterday(name):
    history = fleet(40, days=36)
    past, actual = history[:, :-24], history[:, -24:]
    made = engine(name, steps=150, batch=32).train([Observed(past, MONDAY)], step=HOUR, horizon=24)
    scale = past.mean(axis=1, keepdims=True)
    naive = seasonal_naive(past, lag=24, horizon=24, levels=np.array(LEVELS))
    losses = [
        weighted_quantile_loss(actual / scale, q / scale[:, :, None], levels=LEVELS)
        for q in (forecast(made, past), naive)
    ]
    assert losses[0] < 0.8 * losses[1]


def test_quantiles_rise_with_the_level_and_stay_above_zero(trained):
    quantiles = forecast(trained, fleet(seed=3))
    assert quantiles.shape == (12, 24, 19)
    assert (np.diff(quantiles, axis=2) >= 0).all()
    assert (quantiles >= 0).all()
    assert (forecast(trained, -fleet(seed=3)) < 0).any()


def test_odd_series_get_a_forecast_and_silent_ones_none(trained):
    history = fleet(7)
    history[0] = np.nan
    history[1] = 0.0
    history[2] = 5.0
    history[3, :300], history[3, 400:500] = np.nan, np.nan
    history[4, 10:] = np.nan  # silent for longer than the network looks back
    history[5, 600] = 1e12
    quantiles = forecast(trained, history)
    assert np.isnan(quantiles[0]).all()
    assert np.isfinite(quantiles[1:]).all()
    assert (quantiles[1] == 0).all()
    np.testing.assert_allclose(quantiles[2, :, 9], 5.0, rtol=0.2)


def test_units_and_order_of_the_series_do_not_matter(trained):
    history, order = fleet(), np.random.default_rng(1).permutation(12)
    quantiles = forecast(trained, history)
    np.testing.assert_allclose(forecast(trained, 1e6 * history), 1e6 * quantiles, rtol=1e-4)
    np.testing.assert_allclose(forecast(trained, history[order]), quantiles[order], rtol=1e-4)


def test_a_nearer_horizon_is_the_beginning_of_a_farther_one(trained):
    near, far = forecast(trained, fleet(), horizon=24), forecast(trained, fleet(), horizon=48)
    np.testing.assert_allclose(far[:, :24], near, rtol=1e-4)


def test_the_days_before_are_those_of_the_wall_clock(trained):
    autumn = datetime(2026, 10, 4, 22, tzinfo=UTC).astimezone(ZoneInfo("Europe/Paris"))
    spring = datetime(2026, 3, 8, 23, tzinfo=UTC).astimezone(ZoneInfo("Europe/Paris"))
    history = fleet(seed=5)
    for start in (autumn, spring):
        wall = WallClock.of(Timeline(start, HOUR, history.shape[1], 24))
        laid = forecast(trained, wall.history(history), start=wall.timeline.start)
        np.testing.assert_array_equal(forecast(trained, history, start=start), laid)
        assert wall.timeline.n_slots != history.shape[1]


def test_levels_between_those_of_the_network_are_interpolated(trained):
    low, between, high, outermost, beyond = np.moveaxis(
        forecast(trained, fleet(), levels=[0.9, 0.92, 0.95, 0.99, 0.9999]), 2, 0
    )
    np.testing.assert_allclose(between, 0.6 * low + 0.4 * high)
    np.testing.assert_array_equal(outermost, beyond)


def test_a_network_is_not_asked_for_what_it_was_not_trained_for(trained):
    with pytest.raises(InvalidHistory, match="48 slots of 1:00:00, not for 49"):
        forecast(trained, fleet(), horizon=49)
    with pytest.raises(InvalidHistory, match="of 0:30:00"):
        forecast(trained, fleet(), step=HOUR / 2)


@pytest.mark.parametrize("history", [fleet(days=2), np.full((3, 480), np.nan)])
def test_too_little_to_learn_from_is_refused(history):
    with pytest.raises(InvalidHistory, match="needs 3 days"):
        forecast(engine("lstm"), history)


def test_a_short_history_is_learnt_from_without_holding_days_back():
    made = engine("lstm").train([Observed(fleet(days=4), MONDAY)], step=HOUR, horizon=24)
    assert made.trained.about["held_back_loss"] is None
    assert np.isfinite(forecast(made, fleet(days=4))).all()


def test_nothing_at_or_after_an_origin_enters_its_window():
    import torch

    from forecasting.engines.neural_windows import Windows

    def cut(history: np.ndarray) -> Any:
        windows = Windows(history, timeline=Timeline(MONDAY, HOUR, 672, 24), holidays=None)
        return windows.cut(torch.arange(12), torch.full((12,), 500), torch.arange(24))

    history = fleet()
    poisoned = history.copy()
    poisoned[:, 500:] = 1e9
    clean, other = cut(history), cut(poisoned)
    for part in ("past", "leads", "lags", "lag_seen", "spread", "state", "scale"):
        assert torch.equal(getattr(clean, part), getattr(other, part)), part
    assert not torch.equal(clean.target, other.target)


def test_lags_are_the_same_time_on_the_days_and_weeks_before():
    import torch

    from forecasting.engines.neural_windows import CONTEXT_DAYS, Windows

    slots = np.arange(1.0, 24 * 30 + 1)[None]
    windows = Windows(slots, timeline=Timeline(MONDAY, HOUR, 720, 72), holidays=None)
    batch = windows.cut(torch.tensor([0]), torch.tensor([600]), torch.tensor([0, 30]))
    seen = (torch.sinh(batch.lags.double()) * batch.scale).numpy()[0].round() - 1
    assert seen[0, :2].tolist() == [576, 552]
    assert seen[1, :2].tolist() == [582, 558]
    assert seen[0, CONTEXT_DAYS:].tolist() == [600 - 168, 600 - 336]
    assert seen[1, CONTEXT_DAYS:].tolist() == [630 - 168, 630 - 336]


def test_days_off_reach_the_network_in_their_hours():
    import torch

    from forecasting.engines.neural_windows import N_LAGS, Windows

    timeline = Timeline(MONDAY, HOUR, 480, 48)
    tuesday = MONDAY + timedelta(days=21)
    off = Event("Closure", tuesday, tuesday + timedelta(days=1), is_day_off=True)
    holidays = event_flags([[], [off]], timeline=timeline, calendar=np.array([0, 1]))
    windows = Windows(fleet(2, days=20), timeline=timeline, holidays=holidays)
    batch = windows.cut(torch.arange(2), torch.full((2,), 480), torch.arange(48))
    flag = batch.leads[:, :, 2 * N_LAGS + 5]
    assert flag[0].sum() == 0
    assert flag[1].tolist() == [0.0] * 24 + [1.0] * 24


def test_the_days_held_back_teach_nothing():
    # One look, at the end: what is held back cannot choose between networks either.
    made = engine("lstm", steps=10, check_every=10)
    history = fleet(days=28)
    poisoned = history.copy()
    poisoned[:, -7 * 24 :] = np.random.default_rng(9).lognormal(5, 2, size=(12, 7 * 24))
    clean, other = (
        made.train([Observed(each, MONDAY)], step=HOUR, horizon=24).trained
        for each in (history, poisoned)
    )
    for name, weights in clean.network.state_dict().items():
        assert weights.equal(other.network.state_dict()[name]), name
    assert clean.about["held_back_loss"] != other.about["held_back_loss"]


def test_weeks_in_which_nothing_was_observed_yet_do_not_matter():
    early = np.pad(fleet(), ((0, 0), (70 * 24, 0)), constant_values=np.nan)
    made, other = (
        engine("lstm").train([Observed(each, start)], step=HOUR, horizon=24)
        for each, start in ((fleet(), MONDAY), (early, MONDAY - timedelta(days=70)))
    )
    np.testing.assert_allclose(forecast(made, fleet()), forecast(other, fleet()), rtol=1e-4)


def test_a_checkpoint_forecasts_what_the_engine_did(trained, tmp_path):
    from forecasting.engines.neural_checkpoints import load, save
    from forecasting.engines.neural_training import device

    path = tmp_path / "models" / "one.pt"
    save(trained, path)
    again = load(type(trained), path)
    np.testing.assert_array_equal(forecast(trained, fleet()), forecast(again, fleet()))
    assert again.settings == trained.settings
    assert again.trained.about == trained.trained.about
    assert again.trained.about["device"] == device().type
    assert [each.name for each in path.parent.iterdir()] == ["one.pt"]


def _stored(whole: bytes, **changes: Any) -> bytes:
    """A checkpoint that says something else of itself; without changes, no text at all."""
    import torch

    stored = torch.load(io.BytesIO(whole), weights_only=True)
    stored["about"] = json.dumps(json.loads(stored["about"]) | changes) if changes else 5
    changed = io.BytesIO()
    torch.save(stored, changed)
    return changed.getvalue()


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("went-off"),))


def test_a_checkpoint_of_another_engine_or_version_or_of_anything_else_is_refused(
    trained, tmp_path, monkeypatch
):
    import torch

    from forecasting.engines.neural_checkpoints import load, save

    monkeypatch.chdir(tmp_path)
    kind = type(trained)
    save(trained, Path("one.pt"))
    newer = type("Newer", (kind,), {"version": "3.0"})
    with pytest.raises(InvalidCheckpoint, match=r"version 2, this is .* version 3\.0"):
        load(newer, Path("one.pt"))
    whole = Path("one.pt").read_bytes()
    bomb = io.BytesIO()
    torch.save({"about": "{}", "weights": Bomb()}, bomb)
    odd = [_stored(whole, **each) for each in ({"step_s": 1e300}, {"settings": None}, {})]
    for content in (b"", b"nonsense", whole[: len(whole) // 2], bomb.getvalue(), *odd):
        Path("two.pt").write_bytes(content)
        with pytest.raises(InvalidCheckpoint, match=r"two\.pt is no checkpoint"):
            load(kind, Path("two.pt"))
    assert not Path("went-off").exists()
    with pytest.raises(InvalidCheckpoint, match="cannot be read"):
        load(kind, Path("three.pt"))
    with pytest.raises(InvalidCheckpoint, match="has not been trained"):
        save(kind(), Path("four.pt"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_real_machines_are_forecast_better_than_by_yesterday(name):
    folder = DATASETS / "bitbrains_dev"
    if not folder.is_dir():
        pytest.skip(f"data set bitbrains_dev is not in {DATASETS}")
    trace = read_trace(folder)
    origins = spread_origins(trace.n_slots, horizon=24, step=HOUR, count=5)
    questions = ask_of(
        trace.resources, start=trace.start, step=HOUR, origins=origins, window=1008, horizon=24
    )
    past = np.concatenate([each[:, : origins[0]] for each in trace.resources.values()])
    made = type(registry.load(name))(settings(steps=400, batch=128, check_every=100))
    made = made.train([Observed(past, trace.start)], step=HOUR, horizon=24)
    scores = score(questions, answers_of(made, questions, step=HOUR))
    # Stock Prophet is worse than yesterday here.
    assert scores.relative_wql < 0.85
    assert scores.share_beating_seasonal_naive > 0.7
    for interval, share in scores.coverage.items():
        assert abs(share - interval) < 0.08, interval


def test_neural_engines_can_be_trained_and_others_cannot():
    assert isinstance(registry.load("lstm"), Trainable)
    assert not isinstance(registry.load("seasonal"), Trainable)
