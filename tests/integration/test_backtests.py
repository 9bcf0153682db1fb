"""Engines are scored on a data set's recent past, and the page shows it to those who may see."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from desktops.models import Activity, DesktopUser, Pool
from forecasting.errors import EngineUnavailable, InvalidHistory
from forecasting.models import BacktestExample, BacktestRun
from forecasting.services.backtests import KEPT_RUNS, run_backtest
from tests.support.history import write_history
from tests.support.rows import Rows, make_rows

pytestmark = pytest.mark.django_db

ENGINES = ["seasonal", "seasonal_naive"]


@pytest.fixture
def rows() -> Rows:
    """Three people at work from nine to five, seen for six weeks up to the data set's clock."""
    rows = make_rows()
    rows.add_people(3)
    write_history(rows)
    return rows


def backtest(rows: Rows, engines: list[str] = ENGINES, **options) -> BacktestRun:
    return run_backtest(dataset_id=rows.dataset.pk, engines=engines, clock=timezone.now, **options)


def numbers(run: BacktestRun) -> dict[str, tuple[float, ...]]:
    return {
        s.engine: (s.wql, s.scaled_loss, s.coverage_50, s.coverage_90) for s in run.scores.all()
    }


def test_every_engine_gets_its_row_and_the_naive_one_is_what_the_others_are_held_against(rows):
    run = backtest(rows)
    scores = {score.engine: score for score in run.scores.all()}
    assert set(scores) == set(ENGINES)
    assert scores["seasonal_naive"].wql == pytest.approx(1.0)
    assert 0 < scores["seasonal"].wql < 1
    assert 0.6 < scores["seasonal"].coverage_90 <= 1
    assert set(scores["seasonal"].wql_by_resource) == {
        "cpu_cores",
        "memory_bytes",
        "network_bytes_per_s",
        "storage_bytes_per_s",
    }
    assert run.finished_at and run.subjects == 3 and len(run.origins) == 5


def test_what_is_observed_after_the_clock_changes_nothing(rows):
    before = backtest(rows)
    as_of = before.as_of
    person = DesktopUser.objects.filter(dataset=rows.dataset).first()
    Activity.objects.bulk_create(
        Activity(
            dataset=rows.dataset,
            desktop_user=person,
            desktop=person.desktop,
            hour=as_of + timedelta(hours=h),
            active_ratio=1.0,
            cpu_cores=1e6,
        )
        for h in range(48)
    )
    assert numbers(backtest(rows)) == numbers(before)


def test_of_many_people_a_sample_is_drawn_and_the_same_again(rows):
    first, second = backtest(rows, subjects=2), backtest(rows, subjects=2)
    assert first.subjects == second.subjects == 2
    assert numbers(first) == numbers(second)


def test_who_opted_out_is_not_drawn(rows):
    DesktopUser.objects.filter(pk=DesktopUser.objects.earliest("pk").pk).update(is_predicted=False)
    assert backtest(rows).subjects == 2


def test_an_engine_that_fails_says_why_and_keeps_nobody_from_being_scored(rows, monkeypatch):
    from forecasting.engines.seasonal import Seasonal

    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Seasonal, "forecast", fail)
    scores = {score.engine: score for score in backtest(rows).scores.all()}
    assert scores["seasonal"].failure == "RuntimeError: out of luck"
    assert scores["seasonal_naive"].wql == pytest.approx(1.0)


def test_too_little_to_score_and_an_unknown_engine_are_refused(rows):
    with pytest.raises(EngineUnavailable, match="oracle"):
        backtest(rows, ["oracle"])
    Activity.objects.all().delete()
    with pytest.raises(InvalidHistory, match="nothing to compare"):
        backtest(rows)
    assert not BacktestRun.objects.exists()


def test_only_the_newest_runs_are_kept(rows):
    runs = [backtest(rows, ["seasonal_naive"]) for _ in range(KEPT_RUNS + 1)]
    kept = set(BacktestRun.objects.values_list("pk", flat=True))
    assert kept == {run.pk for run in runs[1:]}


def test_the_command_prints_a_table_and_figures(rows, capsys):
    call_command("backtest", rows.dataset.name, engine=ENGINES, json=True)
    out = capsys.readouterr().out
    assert "seasonal_naive" in out
    figures = json.loads(out.splitlines()[-1])["figures"]
    assert figures["wql_seasonal_naive"] == pytest.approx(1.0)
    with pytest.raises(CommandError, match="No data set 'none'"):
        call_command("backtest", "none")


def viewer(rows: Rows, *roles: str, name: str = "vera") -> Client:
    client = Client()
    client.force_login(rows.account(name, *roles))
    return client


def test_the_page_shows_the_table_and_what_the_product_would_have_said(rows):
    run = backtest(rows, ["product", "seasonal"], origins=1)
    client = viewer(rows, "viewer")
    page = client.get("/accuracy/").content.decode()
    assert "seasonal" in page and "3 people and machines" in page
    example = run.examples.first()
    figure = client.get(f"/accuracy/examples/{example.pk}/cpu_cores.json").json()["figure"]
    drawn = {trace.get("name"): trace for trace in figure["data"]}
    assert len(drawn["expected (median)"]["y"]) == 24
    assert set(drawn["expected (median)"]["x"]) < set(drawn["observed"]["x"])
    assert client.get(f"/accuracy/examples/{example.pk}/money.json").status_code == 404


def test_before_the_first_run_the_page_says_how_to_get_one(rows):
    assert "Not measured yet" in viewer(rows, "viewer").get("/accuracy/").content.decode()


def test_examples_of_other_pools_and_of_those_who_opted_out_are_not_shown(rows):
    run = backtest(rows, ["product"], origins=1)
    here = run.examples.first()
    other = Pool.objects.create(dataset=rows.dataset, name="elsewhere", label="Elsewhere")
    elsewhere = run.examples.last()
    BacktestExample.objects.filter(pk=elsewhere.pk).update(pool=other)
    client = viewer(rows, "viewer")
    assert client.get(f"/accuracy/examples/{here.pk}/cpu_cores.json").status_code == 200
    assert client.get(f"/accuracy/examples/{elsewhere.pk}/cpu_cores.json").status_code == 404
    DesktopUser.objects.filter(pk=here.desktop_user_id).update(is_predicted=False)
    assert client.get(f"/accuracy/examples/{here.pk}/cpu_cores.json").status_code == 404
    stranger = viewer(make_rows("other"), "viewer", name="stan")
    assert "Not measured yet" in stranger.get("/accuracy/").content.decode()


def test_looking_at_a_persons_example_names_nobody(rows):
    backtest(rows, ["product"], origins=1)
    assert "Name 0" not in viewer(rows, "viewer").get("/accuracy/").content.decode()
