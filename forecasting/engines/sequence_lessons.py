"""Questions of the past with what then happened, to train a sequence engine on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from forecasting.core.arrays import AnyArray, FloatArray, IntArray
from forecasting.core.location import moments_before
from forecasting.core.location_targets import targets_at
from forecasting.core.stays import Questions, Stays
from forecasting.core.whereabouts import Knowledge, Sightings
from forecasting.engines.sequence_network import Batch

MOMENTS = 64
MOST_PEOPLE = 1500
# Sightings of one person in one band of a week; more are much the same.
MOST_OF_CELL = 4


@dataclass(frozen=True)
class Lessons:
    """Questions in order of *asks*, each a person at a moment.

    Per ask, shape (n_asks, ...): stays, stay_place, see `Stays`; who, the person's number; first,
        n_questions, its slice of the questions
    Per question, shape (n, ...): context; importance; first_row, n_rows, its slice of the rows;
        happened, which of them, -1 for somewhere new
    places : shape (n_rows, N_PLACE_FACTS)
    """

    stays: AnyArray
    stay_place: IntArray
    who: IntArray
    context: AnyArray
    importance: FloatArray
    happened: IntArray
    places: AnyArray
    first: IntArray
    n_questions: IntArray
    first_row: IntArray
    n_rows: IntArray

    @classmethod
    def of(cls, seen: Sightings, until_s: float) -> Lessons:
        """Asked at earlier moments, of up to MOST_PEOPLE; nothing after `until_s` is looked at."""
        seen = seen.until(until_s).of_some(MOST_PEOPLE)
        parts = [_lessons(seen, each) for each in moments_before(seen, until_s, count=MOMENTS)]
        joined = [np.concatenate(each) for each in zip(*parts, strict=True)]
        stays, stay_place, who, n_questions, context, importance, happened, n_rows, places = joined
        return cls(
            stays,
            stay_place,
            who,
            context,
            importance,
            happened,
            places,
            np.cumsum(n_questions) - n_questions,
            n_questions,
            np.cumsum(n_rows) - n_rows,
            n_rows,
        )

    def take(self, asks: IntArray) -> tuple[Batch, torch.Tensor, torch.Tensor]:
        """Questions of some asks; of each the row of what happened, and importance."""
        question = ranges(self.first[asks], self.n_questions[asks])
        n_rows = self.n_rows[question]
        row = ranges(self.first_row[question], n_rows)
        first_row = np.cumsum(n_rows) - n_rows
        happened = self.happened[question]
        batch = Batch(
            torch.from_numpy(self.stays[asks]),
            torch.from_numpy(self.stay_place[asks]),
            torch.from_numpy(np.repeat(np.arange(len(asks)), self.n_questions[asks])),
            torch.from_numpy(self.context[question]),
            torch.from_numpy(first_row),
            torch.from_numpy(np.repeat(np.arange(len(question)), n_rows)),
            torch.from_numpy(self.places[row]),
        )
        wanted = np.where(happened >= 0, first_row + happened, -1)
        return batch, torch.from_numpy(wanted), torch.from_numpy(self.importance[question])


def _lessons(seen: Sightings, moment_s: float) -> tuple[AnyArray, ...]:
    """What is known at a moment, and where people were found in the week after: some arrays of
    `Lessons`, in the order of its `of`.

    As a person's week counts as much as another's, and the next hours as much as the next days,
    the sightings of one person in one band share one unit of importance.
    """
    known = Knowledge.of(seen, moment_s)
    stays = Stays.of(seen, known)
    targets = targets_at(seen, moment_s)
    cell = np.cumsum(targets.is_first) - 1
    count = np.bincount(cell)[cell] if len(cell) else cell
    # Of a cell, sightings evenly spread, the first among them.
    number = np.arange(len(cell)) - np.flatnonzero(targets.is_first)[cell]
    kept = np.minimum(count, MOST_OF_CELL)
    some = np.flatnonzero((number * kept) // count != ((number - 1) * kept) // count)
    user, place = targets.user[some], targets.place[some]
    asked = Questions.of(known, stays, user, targets.at_s[some])
    happened = np.full(len(some), -1)
    n_rows = known.n_pairs[user]
    is_it = np.flatnonzero(known.pair_place[asked.pair] == place[asked.case])
    happened[asked.case[is_it]] = asked.pair[is_it] - known.first_pair[user[asked.case[is_it]]]
    who, n_questions = np.unique(user, return_counts=True)
    return (
        stays.facts[who],
        stays.place[who],
        who,
        n_questions,
        asked.context.astype(np.float32),
        (1.0 / kept[some]).astype(np.float32),
        happened,
        n_rows,
        asked.places.astype(np.float32),
    )


def ranges(first: IntArray, count: IntArray) -> IntArray:
    """first[0], first[0] + 1, ... so many, then those from first[1] on, and so forth."""
    start = np.cumsum(count) - count
    result: IntArray = np.repeat(first - start, count) + np.arange(int(count.sum()))
    return result
