"""The version: the newest one CHANGELOG.md names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

CHANGELOG = Path(__file__).resolve().parent.parent / "CHANGELOG.md"


@cache
def version() -> str:
    """The first `## 1.2.3` heading's number; 0.0.0 before the first release."""
    if not CHANGELOG.is_file():
        return "0.0.0"
    heading = re.search(r"^## v?(\d+\.\d+\.\d+)", CHANGELOG.read_text("utf-8"), re.MULTILINE)
    return heading.group(1) if heading else "0.0.0"
