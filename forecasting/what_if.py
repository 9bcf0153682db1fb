"""What a trip would change of where somebody is expected. Nothing of it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

import numpy as np
from django import forms
from django.utils import timezone

from desktops.core.zones import zone_named
from desktops.models import Region, Site
from desktops.selectors import sites_for
from forecasting.core.announced import with_trip
from forecasting.core.profiles import HORIZON_HOURS, HOUR
from forecasting.models import ResourceDemandProfile
from forecasting.whereabouts import Ground, Location

if TYPE_CHECKING:
    from desktops.selectors import Viewer

PREFIX = "trip"
LEAST_CHANCE = 0.01
CLOCK = forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M")


class TripForm(forms.Form):
    """A trip within the week of a profile, by the clock of the person's zone."""

    site = forms.ModelChoiceField(
        queryset=None,
        to_field_name="code",
        empty_label="Choose a site",
        label="To",
        error_messages={"invalid_choice": "There is no such site."},
    )
    start = forms.DateTimeField(label="From", widget=CLOCK)
    until = forms.DateTimeField(label="Until", widget=CLOCK)

    def __init__(
        self,
        data: Mapping[str, Any],
        *,
        viewer: Viewer,
        profile: ResourceDemandProfile,
        time_zone: str,
    ) -> None:
        self.zone: tzinfo = zone_named(time_zone)
        self.week = (profile.starts_at, profile.starts_at + HORIZON_HOURS * HOUR)
        asked = any(key.startswith(f"{PREFIX}-") for key in data)
        super().__init__(data if asked else None, prefix=PREFIX)
        self.fields["site"].queryset = sites_for(viewer)
        first, last = (f"{moment.astimezone(self.zone):%Y-%m-%dT%H:%M}" for moment in self.week)
        for name in ("start", "until"):
            self.fields[name].widget.attrs |= {"min": first, "max": last}

    def full_clean(self) -> None:
        with timezone.override(self.zone):
            super().full_clean()

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        for name in ("start", "until"):
            moment = given.get(name)
            if moment and not self.week[0] <= moment <= self.week[1]:
                self.add_error(name, f"The forecast reaches {self._reach()}.")
        start, until = self.cleaned_data.get("start"), self.cleaned_data.get("until")
        if start and until and start >= until:
            self.add_error("until", "It must be after the beginning.")
        return self.cleaned_data

    def _reach(self) -> str:
        first, last = (moment.astimezone(self.zone) for moment in self.week)
        return f"from {first:%a %-d %b %H:%M} until {last:%a %-d %b %H:%M} ({self.zone})"


@dataclass(frozen=True, slots=True)
class Change:
    """Something without the trip and with it: a probability, or a round trip in ms."""

    without: float | None
    with_it: float | None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would change in the hours of the trip, on average.

    places : labels, the likeliest with the trip first
    regions : expected round trip (ms), and how likely it is within the SLO at least
    """

    site: Site
    starts_at: datetime
    ends_at: datetime
    places: list[tuple[str, Change]]
    regions: list[tuple[Region, Change, Change]]


def what_if(profile: ResourceDemandProfile, ground: Ground, trip: Mapping[str, Any]) -> WhatIf:
    """The week with a trip and without. `trip` : cleaned by the form; `ground` knows its site."""
    site, start, until = trip["site"], trip["start"], trip["until"]
    changed = with_trip(
        profile.location, starts_at=profile.starts_at, place=site.code, start=start, end=until
    )
    first = (start - profile.starts_at) // HOUR
    hours = slice(first, max(-((profile.starts_at - until) // HOUR), first + 1))
    return WhatIf(
        site=site,
        starts_at=start,
        ends_at=until,
        places=_places(profile.location, changed, hours, ground.labels),
        regions=_regions(profile.location, changed, hours, ground),
    )


def _places(
    without: Location, with_it: Location, hours: slice, labels: Mapping[str, str]
) -> list[tuple[str, Change]]:
    means = [
        {place: float(np.mean(chance[hours])) for place, chance in location.items()}
        for location in (without, with_it)
    ]
    changes = [
        (labels.get(place, place), Change(means[0].get(place, 0.0), means[1].get(place, 0.0)))
        for place in {**means[1], **means[0]}
        if max(each.get(place, 0.0) for each in means) >= LEAST_CHANCE
    ]
    return sorted(changes, key=lambda each: -(each[1].with_it or 0.0))


def _regions(
    without: Location, with_it: Location, hours: slice, ground: Ground
) -> list[tuple[Region, Change, Change]]:
    before, after = (ground.outlook(location, [hours]) for location in (without, with_it))
    rows = [
        (
            region,
            Change(_known(before.rtt_ms[0, column]), _known(after.rtt_ms[0, column])),
            Change(float(before.within[0, column]), float(after.within[0, column])),
        )
        for column, region in enumerate(ground.regions)
    ]
    return sorted(rows, key=lambda row: np.inf if row[1].with_it is None else row[1].with_it)


def _known(rtt_ms: float) -> float | None:
    return float(rtt_ms) if np.isfinite(rtt_ms) else None
