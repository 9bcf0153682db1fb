"""A map of whereabouts in words, and how often the same came true before."""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.core.spans import Foretold, Kept, Record, Span, likeliest_spans


def test_hours_are_cut_where_the_likeliest_place_changes() -> None:
    p_place = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])
    assert likeliest_spans(p_place) == [
        Span(0, 2, 0, pytest.approx(0.7)),
        Span(2, 3, 1, pytest.approx(0.7)),
        Span(3, 4, 0, pytest.approx(0.9)),
    ]


def test_no_hours_and_no_places_have_no_spans() -> None:
    assert likeliest_spans(np.zeros((0, 2))) == likeliest_spans(np.zeros((5, 0))) == []


def foretold(seen: dict[int, str], **location: float) -> Foretold:
    return Foretold({place: np.full(168, chance) for place, chance in location.items()}, seen)


def test_what_was_said_counts_where_it_was_as_likely_and_as_far_ahead() -> None:
    seen = {1: "paris", 2: "lyon", 100: "paris"}
    record = Record.of([foretold(seen, paris=0.8, lyon=0.2)])
    assert record.like(Span(0, 4, 0, 0.75)) == Kept(hours=2, came_true=1)
    assert record.like(Span(0, 4, 0, 0.25)) == Kept(hours=2, came_true=1)
    assert record.like(Span(0, 4, 0, 0.5)) == Kept(hours=0, came_true=0)
    assert record.like(Span(98, 99, 0, 0.8)) == Kept(hours=1, came_true=1)
    assert record.like(Span(0, 4, 0, 0.8), lead_h=98) == Kept(hours=1, came_true=1)


def test_somebody_seen_at_a_place_nobody_named_was_elsewhere() -> None:
    record = Record.of([foretold({0: "oslo"}, paris=0.2, elsewhere=0.8)])
    assert record.like(Span(0, 1, 0, 0.8)) == Kept(hours=1, came_true=1)
    unnamed = Record.of([foretold({0: "oslo"}, paris=0.8)])
    assert unnamed.like(Span(0, 1, 0, 0.8)) == Kept(hours=1, came_true=0)


def test_forecasts_without_places_or_sightings_say_nothing() -> None:
    for nothing in ([], [foretold({}, paris=0.8)], [foretold({0: "paris"})]):
        assert Record.of(nothing).like(Span(0, 48, 0, 0.8)) == Kept(hours=0, came_true=0)
