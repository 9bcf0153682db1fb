"""`kill -9` of a real worker at every point of a move, of a way back and of a cancellation.

The plays are the long tests of tests/integration/test_worker_killed.py, each on a simulated cloud
and with a Celery worker of its own: how many were played, and in how many something was wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.figures import Figures, Goal, NotMeasured, main

ROOT = Path(__file__).resolve().parent.parent
PLAYS = "tests/integration/test_worker_killed.py"

GOALS: dict[str, Goal] = {"kill_points": (">", 40), "kill_failures": ("==", 0)}


def run() -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", PLAYS, "-m", "long", f"--junitxml={results}"]
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if done.returncode not in (0, 1):
            raise NotMeasured(f"pytest ended with exit status {done.returncode}")
        suite = next(ElementTree.parse(results).getroot().iter("testsuite"))
    played = int(suite.attrib["tests"]) - int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    return {"kill_points": played, "kill_failures": failed}


if __name__ == "__main__":
    main(sys.modules[__name__])
