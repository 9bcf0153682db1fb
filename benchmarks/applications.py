"""What is gained by knowing which applications ran.

In the invented fleet a tenth of the people plan on one day, in an application that takes next to
nothing, what their desktops compute on the next. `application_gain` is the pinball loss of their
forecasts of a day of CPU, made at eight in the morning, with application use known, divided by the
loss without, in the same run and on the same days; `application_gain_others` is that of everybody
else, for whom the applications of yesterday say nothing and must do no harm.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from benchmarks.figures import Figures, Goal, main
from desktops.core.demo.facts import world_facts
from desktops.core.demo.fleet import Fleet, make_fleet
from forecasting.core.fleet import forecast_fleet
from forecasting.core.profiles import LEVELS
from forecasting.core.related import Related
from forecasting.core.scores import pinball_loss

GOALS: dict[str, Goal] = {"application_gain": ("<", 0.95), "application_gain_others": ("<", 1.02)}
SEED = 20260302
ZONE, COUNTRY = "Europe/Paris", "FR"
HISTORY_DAYS, ORIGINS_DAYS = 42, 4
HORIZON_H = 24
END = datetime(2026, 3, 20, 7, tzinfo=UTC)  # a Friday, eight o'clock on the wall


def run() -> Figures:
    fleet = _make_fleet()
    without, known = np.sum([_losses(fleet, back) for back in range(ORIGINS_DAYS)], axis=0)
    plans = np.array([person.plans_ahead for person in fleet.people])
    return {
        "application_gain": float(known[plans].sum() / without[plans].sum()),
        "application_gain_others": float(known[~plans].sum() / without[~plans].sum()),
    }


def _make_fleet() -> Fleet:
    """Everybody by one clock, as people are forecast together with those who share theirs."""
    sites = [
        replace(site, time_zone=ZONE, country=COUNTRY) for site in world_facts().calendar_sites
    ]
    return make_fleet(sites=sites, end=END, seed=SEED)


def _losses(fleet: Fleet, days_back: int) -> np.ndarray:
    """Pinball loss of each person without and with application use, shape (2, n_people)."""
    origin = fleet.history_hours - 24 * days_back
    past = slice(origin - 24 * HISTORY_DAYS, origin)
    demand = np.where(fleet.is_observed & (fleet.active_ratio > 0), fleet.demand.cpu_cores, np.nan)
    use = np.where(fleet.is_observed[:, past, None], fleet.demand.app_cpu_core_s[:, past], np.nan)
    related = Related(use, np.arange(len(use)))
    start = (fleet.calendar.start + past.start * timedelta(hours=1)).astimezone(ZoneInfo(ZONE))
    ahead = slice(origin, origin + HORIZON_H)
    came = np.where(fleet.active_ratio[:, ahead] > 0, fleet.demand.cpu_cores[:, ahead], np.nan)
    lost = []
    for beside in (None, related):
        said = forecast_fleet(
            demand[:, past],
            start=start,
            step=timedelta(hours=1),
            horizon=HORIZON_H,
            levels=LEVELS,
            related=beside,
        )
        lost.append(np.nansum(pinball_loss(came, said, levels=np.array(LEVELS)), axis=(1, 2)))
    print(
        f"  {days_back} days before the end: {lost[1].sum() / lost[0].sum():.3f}",
        file=sys.stderr,
        flush=True,
    )
    return np.array(lost)


if __name__ == "__main__":
    main(sys.modules[__name__])
