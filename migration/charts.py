"""What relays have carried, as Plotly figures: JSON-able dicts, ready for `Plotly.newPlot`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migration.models import Pass

BLUE, AMBER, INK = "#206bc4", "#f59f00", "#182433"
GRID = "#e6e8ec"
MB = 1e6


def passes_figure(passes: Sequence[Pass]) -> dict[str, Any]:
    """The oldest first: bytes that had changed beside those on the wire, and what each pass took.

    passes : finished ones, annotated with `took`
    """
    ends = [one.finished_at.isoformat() if one.finished_at else None for one in passes]
    return {
        "data": [
            _bars("changed", ends, [one.changed_bytes / MB for one in passes], BLUE),
            _bars("sent on the wire", ends, [one.sent_bytes / MB for one in passes], AMBER),
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "duration",
                "x": ends,
                "y": [_seconds(one) for one in passes],
                "yaxis": "y2",
                "line": {"color": INK, "width": 1},
                "hovertemplate": "%{y:.1f} s<extra>duration</extra>",
            },
        ],
        "layout": {
            "barmode": "group",
            "height": 280,
            "margin": {"l": 60, "r": 60, "t": 10, "b": 50},
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "y": 1.15},
            "xaxis": {"title": {"text": "end of the pass (UTC)"}, "gridcolor": GRID},
            "yaxis": {"title": {"text": "MB"}, "rangemode": "tozero", "gridcolor": GRID},
            "yaxis2": {
                "title": {"text": "seconds"},
                "overlaying": "y",
                "side": "right",
                "rangemode": "tozero",
                "showgrid": False,
            },
        },
    }


def _bars(name: str, x: list[str | None], y: list[float], colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": x,
        "y": y,
        "marker": {"color": colour},
        "hovertemplate": "%{y:.3g} MB<extra>" + name + "</extra>",
    }


def _seconds(one: Pass) -> float | None:
    took = getattr(one, "took", None)
    return None if took is None else took.total_seconds()
