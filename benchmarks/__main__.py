"""Runs every benchmark, or those named: python -m benchmarks [--json] [NAME ...]"""

from __future__ import annotations

import argparse
import json
import pkgutil
from importlib import import_module
from pathlib import Path

from benchmarks.figures import Figures, Goal, measure, report

HERE = Path(__file__).parent


def known() -> set[str]:
    """The modules here that measure something; the others help them."""
    names = (module.name for module in pkgutil.iter_modules([str(HERE)]))
    return {name for name in names if "\nGOALS: " in (HERE / f"{name}.py").read_text()}


def main() -> None:
    names = known()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(sorted(names)))
    options = parser.parse_args()
    if unknown := set(options.names) - names:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    figures: Figures = {}
    goals: dict[str, Goal] = {}
    for name in sorted(options.names or names):
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
