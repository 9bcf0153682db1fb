"""How good forecasts of whereabouts are, and how fast.

* logloss_*, ece_* of three recorded sets of people: `manage.py evaluate_locations`, its folder of
  data sets being FOREDESK_DATASETS, by default ../shared/datasets; what is not there is not
  measured. change_*: where people are at another place than before. behind_baseline_*: the log
  loss less that of the best baseline in the same run; worse_bands_*: bands of lead time in which
  some baseline is better
* excess_logloss_generated: of the product's model on invented people whose whereabouts follow a
  known law, what it loses beyond the truth, relative to the truth's own entropy; and by kind
* announced_logloss_ratio: on trips that were announced, the log loss with the notices to that
  without them; see `announced_travel`
* maps_10k_s: the maps of 168 hours of 10,000 invented people by a model fitted before
  (maps_10k_fit_s), the middle of three; maps_10k_gb: the most memory that the process of both held
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.announced_travel import announced_travel
from benchmarks.excess import measure_excess
from benchmarks.figures import Figures, Goal, main
from benchmarks.known_whereabouts import DAY_S, HOUR_S, START_S, WEEK_DAYS, invent_fleet
from forecasting.core.location import fit_locations

GOALS: dict[str, Goal] = {
    "logloss_gowalla": ("<=", 0.36),
    "logloss_git_roaming": ("<=", 0.165),
    "logloss_geolife": ("<=", 2.60),
    "ece_gowalla": ("<=", 0.02),
    "ece_git_roaming": ("<=", 0.02),
    "ece_geolife": ("<=", 0.02),
    "change_logloss_gowalla": ("<", 3.13),
    "change_logloss_git_roaming": ("<", 3.03),
    "change_logloss_geolife": ("<", 3.03),
    "change_accuracy_gowalla": (">=", 0.14),
    "worse_bands_gowalla": ("==", 0),
    "worse_bands_git_roaming": ("==", 0),
    "worse_bands_geolife": ("==", 0),
    "excess_logloss_generated": ("<=", 0.03),
    "announced_logloss_ratio": ("<=", 0.2),
    "maps_10k_s": ("<=", 10),
    "maps_10k_gb": ("<=", 2),
}
ROOT = Path(__file__).resolve().parents[1]
DATASETS = Path(os.environ.get("FOREDESK_DATASETS", ROOT.parent / "shared" / "datasets"))
SETS = {
    "gowalla": "gowalla_dev",
    "git_roaming": "git_roaming_dev",
    "geolife": "geolife_10min_dev",
}
SEED = 20260302
N_OF_KIND, WEEKS = 40, 52
# Days before the end, and the hour, of the moments asked at.
MOMENTS = ((24, 9), (20, 22), (15, 12), (9, 18))
MAP_PEOPLE, MAP_WEEKS, MAP_REPEATS = 10_000, 6, 3


def run() -> Figures:
    figures: Figures = {}
    for name, folder in SETS.items():
        if (DATASETS / folder).is_dir():
            figures |= _evaluated(name, DATASETS / folder)
        else:
            print(f"benchmarks.location: {DATASETS} holds no {folder}", file=sys.stderr)
    return figures | generated_excess() | generated_travel() | _maps_in_a_process_of_their_own()


def _evaluated(name: str, folder: Path) -> Figures:
    command = [sys.executable, "manage.py", "evaluate_locations", "--data", str(folder)]
    done = subprocess.run(
        [*command, "--format", name, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *lines, last = done.stdout.strip().splitlines()
    print("\n".join(lines), flush=True)
    figures: Figures = json.loads(last)["figures"]
    return figures


def generated_excess(n_of_kind: int = N_OF_KIND, weeks: int = WEEKS) -> Figures:
    fleet = invent_fleet(n_of_kind, weeks=weeks, seed=SEED)
    excess = measure_excess(fleet, _moments(weeks))
    return {
        "excess_logloss_generated" + ("" if kind == "all" else f"_{kind}"): round(of.ratio, 5)
        for kind, of in excess.items()
    }


def generated_travel(n_of_kind: int = N_OF_KIND, weeks: int = WEEKS) -> Figures:
    fleet = invent_fleet(n_of_kind, weeks=weeks, seed=SEED)
    return announced_travel(fleet, _moments(weeks), seed=SEED)


def _moments(weeks: int) -> list[float]:
    end_s = START_S + weeks * WEEK_DAYS * DAY_S
    return [end_s - days * DAY_S + hour * HOUR_S for days, hour in MOMENTS]


def _maps_in_a_process_of_their_own() -> Figures:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.location", "maps"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def measure_maps() -> Figures:
    fleet = invent_fleet(MAP_PEOPLE // 4, weeks=MAP_WEEKS, seed=SEED)
    until = datetime.fromtimestamp(START_S, UTC) + timedelta(weeks=MAP_WEEKS)
    started = time.perf_counter()
    model = fit_locations(fleet.user, fleet.at_s, fleet.place, until=until)
    figures = {"maps_10k_fit_s": time.perf_counter() - started}
    people = np.arange(MAP_PEOPLE)
    seconds = []
    for _ in range(MAP_REPEATS):
        started = time.perf_counter()
        _, maps = model.maps(people, until)
        seconds.append(time.perf_counter() - started)
        assert maps.shape[:2] == (MAP_PEOPLE, 168)
        del maps
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return figures | {"maps_10k_s": float(np.median(seconds)), "maps_10k_gb": peak_kib * 1024 / 1e9}


if __name__ == "__main__":
    if sys.argv[1:] == ["maps"]:
        print(json.dumps(measure_maps()))
    else:
        main(sys.modules[__name__])
