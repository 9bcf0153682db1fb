"""The fleet on a map, as a Plotly figure. The browser gives it the page's colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LARGEST_PX = 34.0
SMALLEST_PX = 7.0


def fleet_map_figure(
    *, sites: Iterable[Mapping[str, Any]], regions: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """People as discs whose area follows their number, regions as squares beside them.

    sites : name, latitude, longitude, people; those without a position are left out
    regions : name, latitude, longitude, total; those without a position are left out
    """
    people = [site for site in sites if site["latitude"] is not None]
    placed = [region for region in regions if region["latitude"] is not None]
    return {
        "data": [
            _trace("People", people, number="people", noun="people", symbol="circle"),
            _trace("Desktops", placed, number="total", noun="desktops", symbol="square"),
        ],
        "layout": {
            "geo": {
                "scope": "world",
                "projection": {"type": "natural earth"},
                "showland": True,
                "landcolor": "#eef1f5",
                "showcountries": True,
                "countrycolor": "#c8d0da",
                "coastlinecolor": "#a5b0bd",
                "showframe": False,
                "bgcolor": "rgba(0,0,0,0)",
                "lataxis": {"range": [-58, 80]},
            },
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "legend": {"orientation": "h", "y": 0},
            "showlegend": True,
        },
    }


def _trace(
    name: str, places: Iterable[Mapping[str, Any]], *, number: str, noun: str, symbol: str
) -> dict[str, Any]:
    rows = list(places)
    largest = max((row[number] for row in rows), default=1)
    return {
        "type": "scattergeo",
        "mode": "markers",
        "name": name,
        "lat": [row["latitude"] for row in rows],
        "lon": [row["longitude"] for row in rows],
        "text": [f"{row['name']}: {row[number]} {noun}" for row in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": symbol if symbol == "circle" else "square-open",
            "size": [_size(row[number] / largest) for row in rows],
            "opacity": 0.75,
            "line": {"width": 2 if symbol == "square" else 0},
        },
    }


def _size(share: float) -> float:
    return max(SMALLEST_PX, LARGEST_PX * share**0.5)
