"""Minutes that continuous integration takes in a fresh clone."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.clone import fresh_clone
from benchmarks.figures import Figures, Goal, NotMeasured, main

GOALS: dict[str, Goal] = {"ci_minutes": ("<", 15)}


def run() -> Figures:
    with fresh_clone() as (clone, env):
        started = time.monotonic()
        done = subprocess.run(
            [".ci/run"],
            cwd=clone,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            check=False,
        )
        minutes = (time.monotonic() - started) / 60
    if done.returncode != 0:
        raise NotMeasured(f"continuous integration failed with exit status {done.returncode}")
    return {"ci_minutes": minutes}


if __name__ == "__main__":
    main(sys.modules[__name__])
