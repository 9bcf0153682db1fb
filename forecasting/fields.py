"""Columns that hold arrays of numbers as bytes: neither side writes or reads digits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from django.db import models

from forecasting.core.arrays import AnyArray
from forecasting.core.profiles import HORIZON_HOURS

# Single precision in network order, as PostgreSQL's float4send writes it.
NUMBER = np.dtype(">f4")
DIGITS = 7


class HoursField(models.BinaryField):
    """Numbers for every hour ahead: an array of shape (HORIZON_HOURS,), or, with `is_table`,
    (HORIZON_HOURS, n). Whatever numpy makes an array of is taken; arrays of float32 come back.
    """

    def __init__(self, *args: Any, is_table: bool = False, **kwargs: Any) -> None:
        self.is_table = is_table
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, kwargs | ({"is_table": True} if self.is_table else {})

    def from_db_value(self, value: Any, *args: Any) -> AnyArray | None:
        if value is None:
            return None
        shape = (HORIZON_HOURS, -1) if self.is_table else (HORIZON_HOURS,)
        return np.frombuffer(value, NUMBER).reshape(shape).astype(np.float32)

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        packed = value if value is None or isinstance(value, bytes) else pack(value)
        return super().get_db_prep_value(packed, connection, prepared)


class PlacesField(models.BinaryField):
    """Places with a number for every hour ahead: dict of name → array (HORIZON_HOURS,).

    Kept as a line of JSON, the names in their order, and the numbers of each after it.
    """

    def from_db_value(self, value: Any, *args: Any) -> dict[str, AnyArray]:
        return unpack_places(bytes(value))

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        packed = pack_places(value) if isinstance(value, Mapping) else value
        return super().get_db_prep_value(packed, connection, prepared)


def pack(values: Any) -> bytes:
    return np.asarray(values, dtype=NUMBER).tobytes()


def pack_places(places: Mapping[str, Any]) -> bytes:
    return json.dumps(list(places)).encode() + b"\n" + b"".join(map(pack, places.values()))


def unpack_places(packed: bytes) -> dict[str, AnyArray]:
    names, _, numbers = packed.partition(b"\n")
    chances = np.frombuffer(numbers, NUMBER).reshape(-1, HORIZON_HOURS).astype(np.float32)
    return dict(zip(json.loads(names), chances, strict=True))


def unpack_rows(packed: Sequence[bytes]) -> tuple[AnyArray, list[str], AnyArray]:
    """Many rows' places at once: number of the row of each place, its name, and its numbers, shape
    (n, HORIZON_HOURS)."""
    parts = [row.partition(b"\n") for row in packed]
    # Many have the same places in the same order.
    named = {line: json.loads(line) for line in {line for line, _, _ in parts}}
    names = [named[line] for line, _, _ in parts]
    numbers = np.frombuffer(b"".join(numbers for _, _, numbers in parts), NUMBER)
    row = np.repeat(np.arange(len(parts)), [len(each) for each in names])
    chances = numbers.reshape(-1, HORIZON_HOURS).astype(np.float32)
    return row, [name for each in names for name in each], chances


def shortened(values: Any) -> AnyArray:
    """The shortest numbers that are these in single precision, as doubles: 0.1, where the bare
    double would be 0.10000000149."""
    doubles = np.asarray(values, dtype=np.float64)
    size = np.floor(np.log10(np.abs(doubles), out=np.zeros_like(doubles), where=doubles != 0))
    digits = 10.0 ** (DIGITS - 1 - size)
    return np.round(doubles * digits) / digits
