"""Typed reading of JSON objects that people and seeders write."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from desktops.clouds.simulator.errors import BadRequest

LARGEST = 2**62  # fits SQLite's integers with room for sums


class InvalidInput(BadRequest):
    """A description is wrong; the message says where and why."""


_REQUIRED: Any = object()


class Fields:
    """Typed reading of one JSON object; every complaint names the path."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise InvalidInput(f"{path}: an object is wanted, not {type(value).__name__}")
        self.values: dict[str, Any] = value
        self.path = path
        self._read: set[str] = set()

    def _get(self, name: str, default: Any, wanted: tuple[type, ...]) -> Any:
        self._read.add(name)
        value = self.values.get(name, default)
        if value is _REQUIRED:
            raise InvalidInput(f"{self.path}.{name}: missing")
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            names = " or ".join(t.__name__ for t in wanted)
            raise InvalidInput(f"{self.path}.{name}: {names} is wanted, not {value!r:.60}")
        return value

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        value: str = self._get(name, default, (str,))
        if default is _REQUIRED and not value:
            raise InvalidInput(f"{self.path}.{name}: empty")
        return value

    def texts(self, name: str) -> list[str]:
        values: list[Any] = self._get(name, _REQUIRED, (list,))
        if not all(isinstance(v, str) for v in values):
            raise InvalidInput(f"{self.path}.{name}: only strings are wanted")
        return values

    def number(
        self, name: str, default: Any = _REQUIRED, *, low: float, high: float = 1e18
    ) -> float:
        value: float = self._get(name, default, (int, float))
        if not low <= value <= high:
            raise InvalidInput(f"{self.path}.{name}: {value} is not in [{low:g}, {high:g}]")
        return float(value)

    def whole(
        self, name: str, default: Any = _REQUIRED, *, low: int = 0, high: int = LARGEST
    ) -> int:
        value: int = self._get(name, default, (int,))
        if not low <= value <= high:
            raise InvalidInput(f"{self.path}.{name}: {value} is not in [{low}, {high}]")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value: bool = self._get(name, default, (bool,))
        return value

    def limit(self, name: str) -> int | None:
        if self.values.get(name) is None:
            self._read.add(name)
            return None
        return self.whole(name)

    def object(self, name: str, default: Any = _REQUIRED) -> Fields:
        return Fields(self._get(name, default, (dict,)), f"{self.path}.{name}")

    def objects(self, name: str, default: Any = _REQUIRED) -> list[Fields]:
        values = self._get(name, default, (list,))
        return [Fields(value, f"{self.path}.{name}[{n}]") for n, value in enumerate(values)]

    def need_region(self, name: str, regions: Container[str]) -> None:
        if name not in regions:
            raise InvalidInput(f"{self.path}: no region {name!r} among the world's regions")

    def refuse_others(self) -> None:
        unknown = sorted(set(self.values) - self._read)
        if unknown:
            raise InvalidInput(f"{self.path}.{unknown[0]}: not a known field")
