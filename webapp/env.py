"""Typed values from environment variables. A missing or bad one is reported by its name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})


class InvalidSetting(ImproperlyConfigured):
    """An environment variable is missing or cannot be understood."""


class Env:
    """Reads variables from a mapping; an empty value counts as not set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def is_set(self, name: str) -> bool:
        return bool(self._variables.get(name, "").strip())

    def text(self, name: str, default: str | None = None) -> str:
        """The value, stripped; `default` when not set; InvalidSetting when there is neither."""
        value = self._variables.get(name, "").strip()
        if value:
            return value
        if default is None:
            raise InvalidSetting(f"{name} is not set.")
        return default

    def flag(self, name: str, default: bool) -> bool:
        word = self.text(name, str(default)).lower()
        if word in TRUE_WORDS:
            return True
        if word in FALSE_WORDS:
            return False
        raise InvalidSetting(f"{name} must be true or false, not {word!r}.")

    def whole(self, name: str, default: int, *, minimum: int = 0) -> int:
        """A whole number of at least `minimum`."""
        value = self.text(name, str(default))
        try:
            number = int(value)
        except ValueError:
            raise InvalidSetting(f"{name} must be a whole number, not {value!r}.") from None
        if number < minimum:
            raise InvalidSetting(f"{name} must be at least {minimum}, not {number}.")
        return number

    def items(self, name: str, default: str = "") -> list[str]:
        """A comma-separated list without empty entries."""
        return [item for part in self.text(name, default).split(",") if (item := part.strip())]

    def origins(self, name: str) -> list[str]:
        """A comma-separated list of web origins such as `https://desk.example.org:8443`."""
        origins = self.items(name)
        for origin in origins:
            parts = urlsplit(origin)
            if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path:
                raise InvalidSetting(
                    f"{name}: {origin!r} is not an origin such as https://desk.example.org."
                )
        return origins

    def url(self, name: str, *, schemes: tuple[str, ...], default: str | None = None) -> str:
        """A URL of one of `schemes`. Its value is never shown: it may hold a password."""
        value = self.text(name, default)
        if value == default:
            return value
        try:
            parts = urlsplit(value)
            is_valid = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_valid = False
        if not is_valid:
            raise InvalidSetting(f"{name} must be a URL such as {schemes[0]}://host:port/name.")
        return value

    def secret(self, name: str, *, minimum_length: int) -> str:
        """A secret of at least `minimum_length` characters, never shown in an error."""
        value = self.text(name)
        if len(value) < minimum_length:
            raise InvalidSetting(f"{name} must have at least {minimum_length} characters.")
        return value

    def folder(self, name: str, default: Path) -> Path:
        """An absolute path; a leading ~ is the home directory. It need not exist."""
        path = Path(self.text(name, str(default))).expanduser()
        if path.exists() and not path.is_dir():
            raise InvalidSetting(f"{name}: {path} is not a folder.")
        return path.absolute()

    def existing_file(self, name: str) -> Path | None:
        """The path of a file that can be there, None when the variable is not set."""
        if not self.is_set(name):
            return None
        path = Path(self.text(name)).expanduser()
        if not path.is_file():
            raise InvalidSetting(f"{name}: there is no file {path}.")
        return path.absolute()

    def tables(self, name: str) -> dict[str, dict[str, object]]:
        """The tables of a TOML file, none when the variable is not set."""
        path = self.existing_file(name)
        if path is None:
            return {}
        try:
            content = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InvalidSetting(f"{name}: {path}: {error}") from error
        for key, value in content.items():
            if not isinstance(value, dict):
                raise InvalidSetting(f"{name}: {path}: {key} is not a table.")
        return content


def parse_env_file(text: str) -> dict[str, str]:
    """NAME=value lines; blank lines and lines that start with # are skipped."""
    variables = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            variables[name.strip()] = value.strip()
    return variables
