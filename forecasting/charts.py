"""Profiles as Plotly figures: JSON-able dicts of plain lists, ready for `Plotly.newPlot`.

Times are shown on the wall clock of the zone named in the title of the time axis. The map draws
coastlines and countries from the topojson that the page serves, nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from desktops.core.zones import zone_named
from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Event
from forecasting.core.profiles import ResourceDemandProfile

Figure = dict[str, Any]


@dataclass(frozen=True)
class Unit:
    """How a resource is shown: values are divided by `divisor` into `symbol`."""

    title: str
    symbol: str
    divisor: float


@dataclass(frozen=True)
class SitePoint:
    """Where a site lies, degrees WGS84."""

    name: str
    latitude: float
    longitude: float


UNITS = {
    "cpu_cores": Unit("Processor", "cores", 1.0),
    "memory_bytes": Unit("Memory", "GiB", 2.0**30),
    "network_bytes_per_s": Unit("Network", "MB/s", 1e6),
    "storage_bytes_per_s": Unit("Storage", "MB/s", 1e6),
}
# Lower level, upper level, label, fill.
BANDS = (
    (0.05, 0.95, "9 of 10 hours", "rgba(32, 107, 196, 0.12)"),
    (0.10, 0.90, "8 of 10 hours", "rgba(32, 107, 196, 0.18)"),
    (0.25, 0.75, "half of the hours", "rgba(32, 107, 196, 0.28)"),
)
INK, BLUE, GREY, AMBER = "#182433", "#206bc4", "#8a97a8", "rgba(247, 103, 7, 0.10)"
PALETTE = ("#206bc4", "#f59f00", "#2fb344", "#d6336c", "#4299e1", "#ae3ec9", "#0ca678", "#74b816")
OTHER_PLACES, ELSEWHERE = "other sites", "elsewhere"
COMPONENTS = {
    "trend": "Trend",
    "weekly": "Over the week, around the trend",
    "daily": "Over the day, around the trend",
    "holidays": "Holidays and events",
}
TICKS = {"weekly": "%a %-d %b", "daily": "%H:%M"}
# A map moves by the hour for two days, and by six hours after that.
HOURLY_H, MAP_STEP_H = 48, 6
# A map of one town says nothing: show at least this much around the sites, degrees.
MAP_MARGIN = 12.0
LARGEST_MARKER_PX = 46.0


def demand_figure(
    profile: ResourceDemandProfile,
    resource: str,
    *,
    history: FloatArray,
    history_start: datetime,
    as_of: datetime,
    time_zone: str,
    source: str,
    events: Iterable[Event] = (),
) -> Figure:
    """What was used, and the bands of what will be.

    resource : one of `profiles.RESOURCES`
    history : shape (n_hours,), hourly from `history_start`, unit of the resource, NaN where idle
    as_of : the moment up to which observations were used
    source : where the numbers come from, shown under the chart ("simulated", "bitbrains")
    events : holidays and the organisation's, marked where they fall into the chart
    """
    unit, zone = UNITS[resource], zone_named(time_zone)
    seen = _wall_hours(history_start, len(history), zone)
    quantile = np.asarray(getattr(profile, resource), dtype=np.float64) / unit.divisor
    ahead = _wall_hours(profile.starts_at, len(quantile), zone)
    hover = f"%{{y:.3~g}} {unit.symbol}"
    figure = go.Figure()
    for lower, upper, label, fill in BANDS:
        low, high = _level(profile, quantile, lower), _level(profile, quantile, upper)
        if low is None or high is None:
            continue
        edge = {"x": ahead, "mode": "lines", "line": {"width": 0}, "legendgroup": label}
        figure.add_scatter(**edge, y=_plain(low), showlegend=False, hoverinfo="skip")
        figure.add_scatter(
            **edge, y=_plain(high), fill="tonexty", fillcolor=fill, name=label, hoverinfo="skip"
        )
    median = _level(profile, quantile, 0.5)
    if median is not None:
        figure.add_scatter(
            x=ahead,
            y=_plain(median),
            mode="lines",
            name="expected (median)",
            line={"color": BLUE, "width": 2},
            hovertemplate=hover,
        )
    figure.add_scatter(
        x=seen,
        y=_plain(np.asarray(history, dtype=np.float64) / unit.divisor),
        mode="lines",
        name="observed",
        line={"color": INK, "width": 1.2},
        hovertemplate=hover,
    )
    given = " during a session" if profile.p_active is not None else ""
    _dress(
        figure,
        title=f"{unit.title} demand{given}",
        y_title=f"{unit.title} ({unit.symbol})",
        time_zone=time_zone,
        source=source if profile.enough_history else f"{source}; forecast of the pool",
    )
    figure.update_yaxes(rangemode="tozero")
    _mark_moment(figure, _wall(as_of, zone), "as of")
    end = profile.starts_at + len(quantile) * profile.step
    _mark_events(figure, events, min(history_start, profile.starts_at), end, zone)
    return _plain_figure(figure)


def components_figure(
    resource: str,
    components: Mapping[str, FloatArray],
    *,
    start: datetime,
    n_slots: int,
    time_zone: str,
    source: str,
) -> Figure:
    """What Prophet makes of a history: its trend, its week and its day, one below the other.

    components : by name, shape (n_slots + a week,), hourly from `start`, unit of the resource
    n_slots : how many of the hours are past
    """
    # In UTC: adding hours to a wall clock that changes in between lands an hour off.
    unit, zone, start = UNITS[resource], zone_named(time_zone), start.astimezone(UTC)
    shown = [name for name in COMPONENTS if name in components]
    figure = make_subplots(
        rows=len(shown),
        cols=1,
        subplot_titles=[COMPONENTS[name] for name in shown],
        vertical_spacing=0.13,
    )
    for row, name in enumerate(shown, start=1):
        first, hours = {"weekly": (n_slots, 168), "daily": (n_slots, 24)}.get(
            name, (0, len(components[name]))
        )
        values = components[name][first : first + hours] / unit.divisor
        figure.add_scatter(
            x=_wall_hours(start + timedelta(hours=first), len(values), zone),
            y=_plain(values),
            mode="lines",
            line={"color": BLUE, "width": 1.6},
            hovertemplate=f"%{{y:.3~g}} {unit.symbol}",
            showlegend=False,
            row=row,
            col=1,
        )
    _dress(
        figure,
        title=f"{unit.title}: what repeats, and where it is going",
        y_title="",
        time_zone=time_zone,
        source=source,
    )
    figure.update_xaxes(title=None)
    for row, name in enumerate(shown, start=1):
        figure.update_xaxes(tickformat=TICKS.get(name, "%-d %b"), row=row)
    figure.update_xaxes(title={"text": f"Time ({time_zone})"}, row=len(shown))
    figure.update_yaxes(title=unit.symbol)
    return _plain_figure(figure)


def words_figure(words: str, *, source: str) -> Figure:
    """Why there is nothing to draw, where the chart would have been."""
    figure = go.Figure()
    _dress(figure, title=words, y_title="", time_zone="UTC", source=source)
    figure.add_annotation(text=words, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return _plain_figure(figure)


def activity_figure(
    profile: ResourceDemandProfile, *, time_zone: str, source: str, events: Iterable[Event] = ()
) -> Figure:
    """The probability of a session, hour by hour; an empty chart when sessions are not observed."""
    zone = zone_named(time_zone)
    chance = [] if profile.p_active is None else _plain(profile.p_active)
    figure = go.Figure()
    figure.add_scatter(
        x=_wall_hours(profile.starts_at, len(chance), zone),
        y=chance,
        mode="lines",
        name="session",
        line={"color": BLUE, "width": 1.5, "shape": "hv"},
        fill="tozeroy",
        fillcolor=BANDS[0][3],
        hovertemplate="%{y:.0%}",
    )
    _dress(
        figure,
        title="Probability of a session",
        y_title="Probability of a session (%)",
        time_zone=time_zone,
        source=source,
    )
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    figure.update_layout(showlegend=False)
    end = profile.starts_at + len(chance) * profile.step
    _mark_events(figure, events, profile.starts_at, end, zone)
    return _plain_figure(figure)


def location_shares_figure(
    profile: ResourceDemandProfile,
    *,
    site_names: Mapping[str, str],
    time_zone: str,
    source: str,
) -> Figure:
    """Probability of each place over time, stacked to one; the likeliest places at the bottom."""
    ranked = _ranked_places(profile)
    shown, rest = ranked[: len(PALETTE)], ranked[len(PALETTE) :]
    stack = [(site_names.get(code, code), chance) for code, chance in shown]
    if rest:
        stack.append((OTHER_PLACES, np.sum([chance for _, chance in rest], axis=0)))
    if ELSEWHERE in profile.location:
        stack.append((ELSEWHERE, np.asarray(profile.location[ELSEWHERE])))
    figure = go.Figure()
    for (name, chance), colour in zip(
        stack, [*PALETTE[: len(shown)], GREY, "#c8d0da"], strict=False
    ):
        figure.add_scatter(
            x=_wall_hours(profile.starts_at, len(chance), zone_named(time_zone)),
            y=_plain(chance),
            name=name,
            mode="lines",
            line={"width": 0, "color": colour},
            stackgroup="places",
            hovertemplate="%{y:.0%}",
        )
    _dress(
        figure,
        title="Where, over the week ahead",
        y_title="Probability (%)",
        time_zone=time_zone,
        source=source,
    )
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    return _plain_figure(figure)


def location_map_figure(
    profile: ResourceDemandProfile,
    *,
    sites: Mapping[str, SitePoint],
    time_zone: str,
    source: str,
) -> Figure:
    """Map of the week ahead, hour by hour for two days and then in steps of six hours; a marker's
    area is the site's probability.

    sites : where each place lies; what is not among them counts as elsewhere
    """
    codes = [code for code, _ in _ranked_places(profile) if code in sites]
    points = [sites[code] for code in codes]
    hours = min((len(chance) for chance in profile.location.values()), default=0)
    chance = np.array([profile.location[code] for code in codes]).reshape(len(codes), hours)
    figure = go.Figure()
    figure.add_scattergeo(
        lat=[point.latitude for point in points],
        lon=[point.longitude for point in points],
        mode="markers+text",
        textposition="top center",
        hoverinfo="text",
        marker={
            "color": BLUE,
            "opacity": 0.75,
            "sizemode": "area",
            "sizeref": 2.0 / LARGEST_MARKER_PX**2,
            "line": {"color": "white", "width": 1},
        },
    )
    steps = [
        (
            (profile.starts_at + hour * profile.step).astimezone(zone_named(time_zone)),
            *_map_step(points, chance[:, hour]),
        )
        for hour in (*range(min(HOURLY_H, hours)), *range(HOURLY_H, hours, MAP_STEP_H))
    ]
    if steps:
        _, areas, labels, note = steps[0]
        figure.update_traces(marker_size=areas, text=labels)
        figure.add_annotation(
            text=note,
            showarrow=False,
            xref="paper",
            yref="paper",
            x=0,
            y=1.02,
            xanchor="left",
            yanchor="bottom",
        )
        figure.update_layout(sliders=[_slider(steps, time_zone)])
    figure.update_layout(
        title={"text": "Expected whereabouts", "subtitle": {"text": source}},
        template=None,
        showlegend=False,
        margin={"l": 0, "r": 0, "t": 84, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        geo=_view(points),
    )
    return _plain_figure(figure)


@dataclass(frozen=True)
class FleetRow:
    """How many people are expected at a place, hour by hour.

    point : None where it is no place on a map
    people : shape (n_hours,), NaN where it may not be said
    """

    name: str
    point: SitePoint | None
    people: FloatArray


def fleet_whereabouts_figure(
    rows: Sequence[FleetRow], *, starts_at: datetime, step: timedelta, source: str
) -> Figure:
    """Map of the people expected at each place; a marker's area is their number.

    Every step of the slider has, beside the markers, the numbers of all rows as words, in their
    order, for a table that says the same; None where there is nothing to say.
    """
    placed = [row for row in rows if row.point]
    points = [row.point for row in placed if row.point]
    largest = max((float(np.nanmax(row.people, initial=0.0)) for row in placed), default=1.0)
    figure = go.Figure()
    figure.add_scattergeo(
        lat=[point.latitude for point in points],
        lon=[point.longitude for point in points],
        mode="markers",
        hoverinfo="text",
        marker={
            "color": BLUE,
            "opacity": 0.75,
            "sizemode": "area",
            "sizeref": 2.0 * max(largest, 1.0) / LARGEST_MARKER_PX**2,
            "line": {"color": "white", "width": 1},
        },
    )
    hours = len(rows[0].people) if rows else 0
    steps = [_fleet_step(rows, hour, starts_at + hour * step) for hour in range(hours)]
    figure.update_layout(
        title={"text": "People expected by place", "subtitle": {"text": source}},
        template=None,
        showlegend=False,
        margin={"l": 0, "r": 0, "t": 84, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        geo=_view(points),
    )
    plain = _plain_figure(figure)
    if steps:
        (trace,) = plain["data"]
        trace["marker"]["size"], trace["text"] = (
            steps[0]["args"][0][name][0] for name in ("marker.size", "text")
        )
        # Not by way of Plotly's own slider, which knows no tables.
        plain["layout"]["sliders"] = [
            {"active": 0, "currentvalue": {"prefix": "At ", "suffix": " UTC"}, "steps": steps}
        ]
    return plain


def expected_people(people: float) -> str | None:
    """In words; None where it may not be said."""
    if not np.isfinite(people):
        return None
    return "< 0.1" if 0 < people < 0.05 else f"{people:,.1f}"


def _fleet_step(rows: Sequence[FleetRow], hour: int, moment: datetime) -> dict[str, Any]:
    told = [expected_people(float(row.people[hour])) for row in rows]
    placed = [(row, words) for row, words in zip(rows, told, strict=True) if row.point]
    return {
        "label": moment.astimezone(UTC).strftime("%a %d %b %H:%M"),
        "method": "update",
        "args": [
            {
                "marker.size": [[_size(row.people[hour]) for row, _ in placed]],
                "text": [[f"{row.name}: {words} people" if words else "" for row, words in placed]],
            },
            {},
        ],
        "table": told,
    }


def _size(people: float) -> float:
    return round(float(people), 2) if np.isfinite(people) else 0.0


def _slider(
    steps: Sequence[tuple[datetime, list[float], list[str], str]], time_zone: str
) -> dict[str, Any]:
    """A slider whose steps (moment, areas, labels, note) change the markers and the note."""
    return {
        "active": 0,
        "pad": {"t": 12},
        "currentvalue": {"prefix": "At ", "suffix": f" ({time_zone})"},
        "steps": [
            {
                "label": moment.strftime("%a %d %b %H:%M"),
                "method": "update",
                "args": [
                    {"marker.size": [areas], "text": [labels]},
                    {"annotations[0].text": note},
                ],
            }
            for moment, areas, labels, note in steps
        ],
    }


def _map_step(
    points: Sequence[SitePoint], chance: FloatArray
) -> tuple[list[float], list[str], str]:
    """Marker areas, labels and the note of one step."""
    labels = [
        f"{point.name} {p:.0%}" if p >= 0.02 else ""
        for point, p in zip(points, chance, strict=True)
    ]
    elsewhere = max(1.0 - float(chance.sum()), 0.0)
    return [round(float(p), 4) for p in chance], labels, f"Elsewhere: {elsewhere:.0%}"


def _view(points: Sequence[SitePoint]) -> dict[str, Any]:
    """The part of the world that holds the sites."""
    view: dict[str, Any] = {
        "projection": {"type": "natural earth"},
        "resolution": 110,
        "showland": True,
        "landcolor": "#eef1f5",
        "showcountries": True,
        "countrycolor": "#c8d0da",
        "coastlinecolor": "#a5b0bd",
        "showframe": False,
        "bgcolor": "rgba(0,0,0,0)",
    }
    if points:
        latitudes = [point.latitude for point in points]
        longitudes = [point.longitude for point in points]
        south, north = min(latitudes) - MAP_MARGIN, max(latitudes) + MAP_MARGIN
        west, east = min(longitudes) - 2 * MAP_MARGIN, max(longitudes) + 2 * MAP_MARGIN
        view["lataxis"] = {"range": [max(south, -85.0), min(north, 85.0)]}
        view["lonaxis"] = {"range": [max(west, -180.0), min(east, 180.0)]}
    return view


def _ranked_places(profile: ResourceDemandProfile) -> list[tuple[str, FloatArray]]:
    """Places but `elsewhere`, the likeliest over the week first."""
    places = [
        (code, np.asarray(chance, dtype=np.float64))
        for code, chance in profile.location.items()
        if code != ELSEWHERE
    ]
    return sorted(places, key=lambda place: (-float(place[1].sum()), place[0]))


def share_inside(profile: ResourceDemandProfile, resource: str, actual: FloatArray) -> float | None:
    """Share of the hours observed that lay between the 10 % and the 90 % quantile.

    actual : shape (n_hours,), from the first hour of the profile on, NaN where not observed
    """
    quantile = np.asarray(getattr(profile, resource), dtype=np.float64)[: len(actual)]
    low, high = _level(profile, quantile, 0.1), _level(profile, quantile, 0.9)
    seen = np.isfinite(actual)
    if low is None or high is None or not seen.any():
        return None
    return float(((actual >= low) & (actual <= high))[seen].mean())


def _level(profile: ResourceDemandProfile, quantile: FloatArray, level: float) -> FloatArray | None:
    """The forecast at one level, or None when the profile lacks it."""
    at = np.flatnonzero(np.abs(np.asarray(profile.levels) - level) < 1e-6)
    return quantile[:, at[0]] if len(at) else None


def _dress(figure: go.Figure, *, title: str, y_title: str, time_zone: str, source: str) -> None:
    figure.update_layout(
        title={"text": title, "subtitle": {"text": source}},
        template=None,
        hovermode="x unified",
        legend={"orientation": "h", "y": -0.25},
        margin={"l": 64, "r": 16, "t": 64, "b": 64},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_xaxes(title={"text": f"Time ({time_zone})"}, type="date", gridcolor="#e6e8ec")
    figure.update_yaxes(title={"text": y_title}, gridcolor="#e6e8ec", zeroline=False)


def _mark_moment(figure: go.Figure, moment: str, label: str) -> None:
    figure.add_shape(
        type="line",
        x0=moment,
        x1=moment,
        y0=0,
        y1=1,
        yref="paper",
        line={"color": GREY, "width": 1, "dash": "dot"},
    )
    figure.add_annotation(
        x=moment, y=1, yref="paper", text=label, showarrow=False, yanchor="bottom", xanchor="left"
    )


def _mark_events(
    figure: go.Figure, events: Iterable[Event], start: datetime, end: datetime, zone: ZoneInfo
) -> None:
    for event in events:
        if event.ends_at <= start or event.starts_at >= end:
            continue
        first, last = max(event.starts_at, start), min(event.ends_at, end)
        figure.add_shape(
            type="rect",
            x0=_wall(first, zone),
            x1=_wall(last, zone),
            y0=0,
            y1=1,
            yref="paper",
            fillcolor=AMBER,
            line={"width": 0},
            layer="below",
        )
        figure.add_annotation(
            x=_wall(first, zone),
            y=0.98,
            yref="paper",
            text=event.name,
            showarrow=False,
            xanchor="left",
            yanchor="top",
            font={"size": 10, "color": GREY},
        )


def _wall(moment: datetime, zone: ZoneInfo) -> str:
    """A moment as Plotly's axis wants it: wall clock, without an offset."""
    return moment.astimezone(zone).replace(tzinfo=None).isoformat()


def _wall_hours(start: datetime, hours: int, zone: ZoneInfo) -> list[str]:
    first = start.astimezone(UTC)
    return [_wall(first + timedelta(hours=hour), zone) for hour in range(hours)]


def _plain(values: FloatArray) -> list[float | None]:
    """A list for JSON: None where missing, five significant digits, which is finer than a pixel."""
    return [
        float(f"{value:.5g}") if np.isfinite(value) else None
        for value in np.asarray(values).tolist()
    ]


def _plain_figure(figure: go.Figure) -> Figure:
    """The figure as data; lists stay lists (arrays would be sent in base64)."""
    plain: Figure = figure.to_plotly_json()
    return plain
