"""Runs every benchmark, or those named: python -m benchmarks [--json] [NAME ...]"""

from __future__ import annotations

import argparse
import json
import pkgutil
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Figures, Goal, measure, report

HELPERS = {
    "__main__",
    "clone",
    "excess",
    "figures",
    "fleet_read",
    "fleets",
    "known_whereabouts",
    "peers",
    "servers",
    "settling",
    "soak",
}


def main() -> None:
    known = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])} - HELPERS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(sorted(known)))
    options = parser.parse_args()
    if unknown := set(options.names) - known:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    figures: Figures = {}
    goals: dict[str, Goal] = {}
    for name in sorted(options.names or known):
        print(f"== {name}", flush=True)
        module = import_module(f"benchmarks.{name}")
        measured = measure(module)
        print(report(measured, module.GOALS), flush=True)
        figures |= measured
        goals |= module.GOALS
    print("\n" + report(figures, goals))
    if options.json:
        print(json.dumps({"figures": figures}))


if __name__ == "__main__":
    main()
