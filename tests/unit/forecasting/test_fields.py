from __future__ import annotations

import numpy as np

from forecasting.core.profiles import HORIZON_HOURS
from forecasting.fields import pack, pack_places, shortened, unpack_places


def test_places_come_back_as_they_went() -> None:
    chance = np.linspace(0, 1, HORIZON_HOURS, dtype=np.float32)
    places = {"paris": chance, "são paulo\n": 1 - chance}
    read = unpack_places(pack_places(places))
    assert list(read) == list(places)
    assert all(np.array_equal(read[name], places[name]) for name in places)
    assert unpack_places(pack_places({})) == {}


def test_numbers_take_four_bytes_each() -> None:
    assert pack([1.0, 2.0]) == b"\x3f\x80\0\0\x40\0\0\0"


def test_numbers_are_shown_as_short_as_they_are_known() -> None:
    values = np.array([0.1, 3e9, 0, 1 / 3, -2.5, 1e-9], dtype=np.float32)
    assert shortened(values).tolist() == [0.1, 3e9, 0, 0.3333333, -2.5, 1e-9]
