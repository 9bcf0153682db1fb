"""The file that says which sources are asked: one table of TOML each, credentials included."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from desktops.errors import InvalidFile

OTHERS_MAY_READ = 0o007
LONGEST_NAME = 80
LONGEST_S = 366 * 86_400


@dataclass(slots=True)
class Options:
    """What one entry says, read key by key. A bad or unknown key is told with the entry's name.

    Values are never part of a message where they may hold a password.
    """

    source: str
    table: Mapping[str, Any]
    _seen: set[str] = field(default_factory=set)

    def wrong(self, key: str, why: str) -> InvalidFile:
        return InvalidFile(f"Source {self.source!r}: {key} {why}.")

    def has(self, key: str) -> bool:
        return key in self.table

    def text(self, key: str, default: str | None = None) -> str:
        """`default` when there is none; an empty text counts as none."""
        self._seen.add(key)
        value = self.table.get(key, "")
        if not isinstance(value, str):
            raise self.wrong(key, "must be text in quotes")
        if value:
            return value
        if default is None:
            raise self.wrong(key, "is missing")
        return default

    def one_of(self, key: str, words: Iterable[str], default: str | None = None) -> str:
        value, words = self.text(key, default), sorted(words)
        if value not in words and value != default:
            raise self.wrong(key, f"must be one of {', '.join(words)}, not {value!r}")
        return value

    def whole(self, key: str, default: int, *, minimum: int = 1, maximum: int = LONGEST_S) -> int:
        self._seen.add(key)
        value = self.table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, "must be a whole number")
        if not minimum <= value <= maximum:
            raise self.wrong(key, f"must be between {minimum} and {maximum}, not {value}")
        return value

    def url(self, key: str) -> str:
        """An http(s) address without a user, a query or a slash at its end."""
        value = self.text(key)
        try:
            parts = urlsplit(value)
            is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            is_plain = not (parts.username or parts.query or parts.fragment)
        except ValueError:
            is_good = is_plain = False
        if not is_good:
            raise self.wrong(key, "must be an address such as https://prometheus.example.org:9090")
        if not is_plain:
            raise self.wrong(
                key, "must hold no user, password or query; they have keys of their own"
            )
        return value.rstrip("/")

    def pattern(self, key: str, default: str) -> re.Pattern[str]:
        """A regular expression with one group: the part that counts."""
        text = self.text(key, default)
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise self.wrong(key, f"is no regular expression: {error}") from None
        if pattern.groups != 1:
            raise self.wrong(key, "must have one group in parentheses, the part that counts")
        return pattern

    def file(self, key: str) -> Path | None:
        text = self.text(key, "")
        if not text:
            return None
        path = Path(text).expanduser()
        if not path.is_file():
            raise self.wrong(key, f"names {path}, and there is no such file")
        return path

    def texts(self, key: str, names: Iterable[str]) -> dict[str, str]:
        """A table of texts whose keys are among `names`."""
        self._seen.add(key)
        table = self.table.get(key, {})
        if not isinstance(table, dict):
            raise self.wrong(key, "must be a table")
        names = sorted(names)
        for name, value in table.items():
            if name not in names:
                raise self.wrong(f"{key}.{name}", f"means nothing; {', '.join(names)} do")
            if not isinstance(value, str) or not value.strip():
                raise self.wrong(f"{key}.{name}", "must be text in quotes")
        return dict(table)

    def finish(self) -> None:
        """Raises InvalidFile when there is a key that nothing asked for."""
        if unknown := sorted(self.table.keys() - self._seen):
            raise self.wrong(unknown[0], "means nothing here; is it misspelt?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One source to ask.

    first_days : how far back its first question reaches
    settle_s : what happened less long ago may still change there, and is asked for later
    """

    name: str
    kind: str
    pool: str
    first_days: int | None
    settle_s: int | None
    options: Mapping[str, Any]

    def read_options(self) -> Options:
        return Options(self.name, self.options)

    def settle(self, default_s: int) -> timedelta:
        return timedelta(seconds=default_s if self.settle_s is None else self.settle_s)


COMMON = ("kind", "pool", "first_days", "settle_s")


def read_entries(path: Path, *, kinds: Iterable[str]) -> dict[str, Entry]:
    """The entries of a sources file, by name. Raises InvalidFile, naming entry and key."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{path}: {error}") from None
    if mode & OTHERS_MAY_READ:
        raise InvalidFile(f"{path} holds passwords and everybody may read it: chmod o-rwx {path}")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidFile(f"{path}: {error}") from None
    return {name: _entry(name, table, kinds) for name, table in tables.items()}


def _entry(name: str, table: object, kinds: Iterable[str]) -> Entry:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or len(name) > LONGEST_NAME:
        raise InvalidFile(
            f"Source {name[:LONGEST_NAME]!r}: a name is letters, digits, - and _,"
            f" {LONGEST_NAME} at most."
        )
    if not isinstance(table, dict):
        raise InvalidFile(f"{name!r} stands outside of any source: begin with a line [name].")
    options = Options(name, table)
    return Entry(
        name=name,
        kind=options.one_of("kind", kinds),
        pool=options.text("pool"),
        first_days=options.whole("first_days", 1, maximum=3650) if "first_days" in table else None,
        settle_s=options.whole("settle_s", 0, minimum=0) if "settle_s" in table else None,
        options={key: value for key, value in table.items() if key not in COMMON},
    )
