"""Reads eight weeks of a data set as the forecaster does, in a process of its own.

`python -m benchmarks.fleet_read DATASET`, with the settings in the environment, prints one line of
JSON: seconds, the most memory that was resident, and the shape of what was read.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import django


def main(name: str) -> None:
    django.setup()
    from django.utils import timezone

    from desktops.models import Dataset
    from forecasting.history import read_history

    dataset = Dataset.objects.get(name=name)
    started = time.perf_counter()
    history = read_history(dataset, until=timezone.now(), days=56)
    seconds = time.perf_counter() - started
    demand = history.demand["cpu_cores"].base
    print(
        json.dumps(
            {
                "seconds": seconds,
                "resident_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
                "shape": demand.shape,
                "observed": int((demand == demand).sum()),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
