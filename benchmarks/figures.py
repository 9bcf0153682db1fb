"""What a benchmark measures, and what it should reach.

A benchmark module has `GOALS`, its figures' names to goals, and `run()`, which returns the figures
it could measure. One that could not be measured is absent, never zero.
"""

from __future__ import annotations

import argparse
import json
import operator
import sys
from collections.abc import Callable, Mapping
from types import ModuleType

Goal = tuple[str, float]
Figures = dict[str, float]

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
    "+-0.02": lambda value, wanted: abs(value - wanted) <= 0.02,
}


class NotMeasured(Exception):
    """Why a benchmark could not measure what it is for."""


def is_reached(value: float, goal: Goal) -> bool:
    sign, bound = goal
    return OPERATORS[sign](value, bound)


def report(figures: Figures, goals: Mapping[str, Goal]) -> str:
    """One line a figure: its name, what was measured, and the goal."""
    lines = []
    for name, goal in goals.items():
        wanted = f"goal {goal[0]} {goal[1]:g}"
        if name not in figures:
            lines.append(f"{name:<28} {'not measured':>14}   {wanted}")
            continue
        verdict = "reached" if is_reached(figures[name], goal) else "missed"
        lines.append(f"{name:<28} {figures[name]:>14,.4g}   {wanted}, {verdict}")
    lines += [f"{name:<28} {figures[name]:>14,.4g}" for name in figures if name not in goals]
    return "\n".join(lines)


def measure(module: ModuleType) -> Figures:
    try:
        figures: Figures = module.run()
    except NotMeasured as reason:
        print(f"{module.__name__}: {reason}", file=sys.stderr)
        return {}
    return figures


def main(module: ModuleType) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=module.__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    figures = measure(module)
    print(report(figures, module.GOALS))
    if options.json:
        print(json.dumps({"figures": figures}))
