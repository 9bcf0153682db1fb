"""A map of whereabouts in words: where somebody most likely is, from when until when, and how often
the same came true when it was said before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray, IntArray
from forecasting.core.location import ELSEWHERE_KEY

# What was said before is the same if it was said with a probability and a lead not further off.
SAME_CHANCE = 0.10
SAME_LEAD_H = 6


@dataclass(frozen=True)
class Span:
    """Hours `first` to `end` (exclusive), in which one place is the likeliest.

    place : its row; chance : mean over the hours
    """

    first: int
    end: int
    place: int
    chance: float


def likeliest_spans(p_place: FloatArray) -> list[Span]:
    """The hours ahead, cut where the likeliest place changes.

    p_place : shape (n_hours, n_places), probability of each place
    """
    if not p_place.size:
        return []
    likeliest = p_place.argmax(axis=1)
    cuts = [0, *(np.flatnonzero(np.diff(likeliest)) + 1).tolist(), len(p_place)]
    return [
        Span(first, end, int(likeliest[first]), float(p_place[first:end, likeliest[first]].mean()))
        for first, end in pairwise(cuts)
    ]


@dataclass(frozen=True)
class Foretold:
    """What an earlier forecast said of one person, and where they were then seen.

    location : place → probability by hour; seen : hour of the forecast → place
    """

    location: Mapping[str, FloatArray]
    seen: Mapping[int, str]


@dataclass(frozen=True)
class Kept:
    """Of `hours` in which something like it was said, in `came_true` it was so."""

    hours: int
    came_true: int


@dataclass(frozen=True)
class Record:
    """Everything that was said of hours that were then observed; shape (n,) each.

    lead_h : how far ahead; chance : how likely it was called; came_true : whether it was so
    """

    lead_h: IntArray
    chance: FloatArray
    came_true: BoolArray

    @classmethod
    def of(cls, foretold: Iterable[Foretold]) -> Record:
        """A person seen at a place that a forecast does not name was `elsewhere`."""
        parts = [_compared(each) for each in foretold if each.location and each.seen]
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0), np.empty(0, bool))
        lead_h, chance, came_true = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cls(lead_h, chance, came_true)

    def like(self, span: Span, *, lead_h: int = 0) -> Kept:
        """How the same turned out before: any place called about as likely, about as far ahead.

        lead_h : how far the first of the span's hours was ahead when it was foretold
        """
        first, end = span.first + lead_h - SAME_LEAD_H, span.end + lead_h + SAME_LEAD_H
        same = (
            (np.abs(self.chance - span.chance) <= SAME_CHANCE)
            & (self.lead_h >= first)
            & (self.lead_h < end)
        )
        return Kept(int(same.sum()), int(self.came_true[same].sum()))


def _compared(each: Foretold) -> tuple[IntArray, FloatArray, BoolArray]:
    names = list(each.location)
    hours = np.array(list(each.seen), dtype=np.int64)
    number = {name: row for row, name in enumerate(names)}
    unnamed = number.get(ELSEWHERE_KEY, -1)
    there = np.array([number.get(place, unnamed) for place in each.seen.values()])
    chance = np.array([each.location[name] for name in names], dtype=np.float64)[:, hours]
    came_true = np.arange(len(names))[:, None] == there
    return np.tile(hours, len(names)), chance.ravel(), came_true.ravel()
