from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

from benchmarks.__main__ import known
from benchmarks.figures import Figures, NotMeasured, is_reached, measure, report


@pytest.mark.parametrize(
    ("value", "goal", "reached"),
    [(9.9, ("<", 10), True), (10, ("<", 10), False), (0, ("==", 0), True), (2, (">=", 3), False)],
)
def test_a_goal_is_reached_or_missed(value: float, goal: tuple, reached: bool) -> None:
    assert is_reached(value, goal) is reached


def test_every_figure_stands_beside_its_goal() -> None:
    lines = report({"a_s": 12.5, "extra": 3}, {"a_s": ("<", 10), "b_s": ("<", 5)}).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "a_s 12.5 goal < 10, missed",
        "b_s not measured goal < 5",
        "extra 3",
    ]


def test_what_cannot_be_measured_is_absent(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> Figures:
        raise NotMeasured("no room")

    module = ModuleType("broken")
    module.run = run  # type: ignore[attr-defined]
    assert measure(module) == {}
    assert capsys.readouterr().err == "broken: no room\n"


@pytest.mark.parametrize("name", sorted(known()))
def test_every_benchmark_measures_towards_goals(name: str) -> None:
    module = import_module(f"benchmarks.{name}")
    assert callable(module.run)
    assert module.GOALS
