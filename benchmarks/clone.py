"""A fresh clone of what is committed, and the surroundings of somebody who just made it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "TERM")
PREFIXES = ("PIP_", "NPM_", "npm_", "HTTP_", "HTTPS_PROXY", "http_", "https_", "NO_PROXY")


def _cache(command: list[str], fallback: Path) -> str:
    """Where a package manager keeps what it fetched."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or str(fallback)


def empty_home(home: Path) -> dict[str, str]:
    """An environment with an empty home, apart from the caches of pip and npm."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(PREFIXES)
    }
    caches = Path.home() / ".cache"
    return {
        **kept,
        "HOME": str(home),
        "PIP_CACHE_DIR": _cache(["python3", "-m", "pip", "cache", "dir"], caches / "pip"),
        "npm_config_cache": _cache(["npm", "config", "get", "cache"], Path.home() / ".npm"),
    }


@contextmanager
def fresh_clone() -> Iterator[tuple[Path, dict[str, str]]]:
    """A clone below a folder closed to others, and the environment to use it in."""
    with tempfile.TemporaryDirectory(prefix="foredesk-benchmark-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        clone = home / "foredesk"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        yield clone, empty_home(home)
