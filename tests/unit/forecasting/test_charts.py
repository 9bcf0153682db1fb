"""Figures a browser can draw as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.charts import (
    SitePoint,
    activity_figure,
    components_figure,
    demand_figure,
    location_map_figure,
    location_shares_figure,
    share_inside,
    words_figure,
)
from forecasting.core.calendar import Event
from forecasting.core.profiles import LEVELS, RESOURCES, ResourceDemandProfile

AS_OF = datetime(2024, 2, 26, tzinfo=UTC)
HOUR = timedelta(hours=1)
ZONE = "Europe/Paris"


@pytest.fixture
def profile() -> ResourceDemandProfile:
    quantiles = np.tile(np.linspace(1, 7, len(LEVELS)), (168, 1))
    return ResourceDemandProfile(
        starts_at=AS_OF,
        step=HOUR,
        levels=LEVELS,
        cpu_cores=quantiles,
        memory_bytes=quantiles * 2**30,
        network_bytes_per_s=quantiles * 1e6,
        storage_bytes_per_s=quantiles * np.nan,
        p_active=np.linspace(0, 1, 168),
        location={
            "par": np.linspace(0.9, 0.1, 168),
            "lys": np.linspace(0.05, 0.85, 168),
            "elsewhere": np.full(168, 0.05),
        },
        engine="combined",
        enough_history=True,
        history_hours=1000,
    )


def demand(profile, resource, **changes):
    arguments = {
        "history": np.where(np.arange(48) % 24 < 8, np.nan, 2.0),
        "history_start": AS_OF - 48 * HOUR,
        "as_of": AS_OF,
        "time_zone": ZONE,
        "source": "simulated",
    }
    return demand_figure(profile, resource, **(arguments | changes))


def strict_json(figure) -> str:
    return json.dumps(figure, allow_nan=False)


@pytest.mark.parametrize("resource", RESOURCES)
def test_figures_are_plain_json(profile, resource):
    sites = {"par": SitePoint("Paris", 48.9, 2.4), "lys": SitePoint("Lyon", 45.8, 4.8)}
    for figure in (
        demand(profile, resource),
        activity_figure(profile, time_zone=ZONE, source="simulated"),
        location_shares_figure(profile, site_names={}, time_zone=ZONE, source="simulated"),
        location_map_figure(profile, sites=sites, time_zone=ZONE, source="simulated"),
    ):
        text = strict_json(figure)
        assert "bdata" not in text
        assert "simulated" in text


def test_demand_shows_bands_median_history_and_the_moment_of_knowledge(profile):
    figure = demand(profile, "memory_bytes")
    by_name = {trace.get("name"): trace for trace in figure["data"]}
    assert {"9 of 10 hours", "8 of 10 hours", "half of the hours"} <= set(by_name)
    assert by_name["expected (median)"]["y"][0] == 4.0
    assert by_name["observed"]["y"][:9] == [None] * 8 + [pytest.approx(2 / 2**30, rel=1e-3)]
    assert figure["layout"]["yaxis"]["title"]["text"] == "Memory (GiB)"
    assert figure["layout"]["xaxis"]["title"]["text"] == "Time (Europe/Paris)"
    # Midnight UTC is one o'clock in Paris.
    assert by_name["expected (median)"]["x"][0] == "2024-02-26T01:00:00"
    assert figure["layout"]["shapes"][0]["x0"] == "2024-02-26T01:00:00"


def test_holidays_in_view_are_marked_and_others_are_not(profile):
    events = [
        Event("Holiday", AS_OF + 24 * HOUR, AS_OF + 48 * HOUR, is_day_off=True),
        Event("Long ago", AS_OF - 900 * HOUR, AS_OF - 800 * HOUR),
    ]
    layout = demand(profile, "cpu_cores", events=events)["layout"]
    words = [note["text"] for note in layout["annotations"]]
    assert "Holiday" in words and "Long ago" not in words


def test_a_forecast_borrowed_from_the_pool_says_so(profile):
    borrowed = demand(replace(profile, enough_history=False), "cpu_cores")
    assert "forecast of the pool" in borrowed["layout"]["title"]["subtitle"]["text"]
    assert (
        "forecast of the pool"
        not in demand(profile, "cpu_cores")["layout"]["title"]["subtitle"]["text"]
    )


def test_the_map_sizes_its_markers_by_probability_at_each_step(profile):
    sites = {"par": SitePoint("Paris", 48.9, 2.4), "lys": SitePoint("Lyon", 45.8, 4.8)}
    figure = location_map_figure(profile, sites=sites, time_zone=ZONE, source="simulated")
    (trace,) = figure["data"]
    (slider,) = figure["layout"]["sliders"]
    assert len(slider["steps"]) == 48 + 20
    assert slider["steps"][0]["label"] == "Mon 26 Feb 01:00"
    order = trace["lat"]
    first, last = (slider["steps"][i]["args"][0]["marker.size"][0] for i in (0, -1))
    assert list(trace["marker"]["size"]) == first
    paris = list(order).index(48.9)
    assert first[paris] == pytest.approx(0.9)
    assert last[1 - paris] > last[paris]
    assert slider["steps"][0]["args"][1]["annotations[0].text"] == "Elsewhere: 5%"


def test_sites_without_coordinates_count_as_elsewhere_on_the_map(profile):
    figure = location_map_figure(
        profile, sites={"lys": SitePoint("Lyon", 45.8, 4.8)}, time_zone=ZONE, source="simulated"
    )
    (slider,) = figure["layout"]["sliders"]
    assert slider["steps"][0]["args"][1]["annotations[0].text"] == "Elsewhere: 95%"


def test_profiles_without_sessions_or_places_give_empty_charts(profile):
    machine = replace(profile, p_active=None, location={})
    strict_json(activity_figure(machine, time_zone=ZONE, source="bitbrains"))
    shares = location_shares_figure(machine, site_names={}, time_zone=ZONE, source="bitbrains")
    assert shares["data"] == []
    strict_json(location_map_figure(machine, sites={}, time_zone=ZONE, source="bitbrains"))


def test_shares_stack_the_likeliest_place_first_and_elsewhere_last(profile):
    figure = location_shares_figure(
        profile, site_names={"par": "Paris"}, time_zone=ZONE, source="simulated"
    )
    assert [trace["name"] for trace in figure["data"]] == ["Paris", "lys", "elsewhere"]


def components(**changes):
    """Five days past and a week ahead; each value is its own hour, in GiB."""
    hour = np.arange(5 * 24 + 168, dtype=np.float64)
    arguments = {
        "components": {"trend": hour * 2**30, "weekly": hour * 2**30, "daily": hour * 2**30},
        "start": AS_OF - 120 * HOUR,
        "n_slots": 120,
        "time_zone": ZONE,
        "source": "simulated",
    }
    return components_figure("memory_bytes", **(arguments | changes))


def test_components_show_the_whole_trend_but_one_week_and_one_day_ahead():
    figure = components()
    assert "simulated" in strict_json(figure)
    trend, week, day = figure["data"]
    assert [len(each["y"]) for each in (trend, week, day)] == [288, 168, 24]
    assert [each["y"][0] for each in (trend, week, day)] == [0, 120, 120]
    assert week["x"][0] == day["x"][0] == "2024-02-26T01:00:00"
    assert {note["text"] for note in figure["layout"]["annotations"]} == {
        "Trend",
        "Over the week, around the trend",
        "Over the day, around the trend",
    }
    assert figure["layout"]["yaxis3"]["title"]["text"] == "GiB"


def test_the_week_of_components_begins_at_its_hour_though_clocks_changed_before():
    # On 31 March 2024 Paris goes from one o'clock to three.
    before = datetime(2024, 3, 29, tzinfo=UTC)
    for start in (before, before.astimezone(ZoneInfo(ZONE))):
        assert components(start=start)["data"][1]["x"][0] == "2024-04-03T02:00:00"


def test_the_share_inside_counts_only_the_hours_that_were_observed(profile):
    low, high = (profile.cpu_cores[0][LEVELS.index(level)] for level in (0.1, 0.9))
    actual = np.array([low, high, high + 0.1, low - 0.1, np.nan])
    assert share_inside(profile, "cpu_cores", actual) == 0.5
    assert share_inside(profile, "cpu_cores", np.full(5, np.nan)) is None


def test_where_nothing_can_be_drawn_words_say_why():
    figure = words_figure("3 hours were observed", source="simulated")
    assert figure["layout"]["annotations"][0]["text"] == "3 hours were observed"
    strict_json(figure)
