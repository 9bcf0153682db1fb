"""What is kept for ever knows a person by an alias alone, and the alias goes with its key."""

from __future__ import annotations

import hmac

from desktops.models import DesktopUser


def alias_of(person: DesktopUser) -> str:
    """The same for the same person; 64 hexadecimal digits.

    Made with the key in the person's row: once that is gone, nobody can say whose alias it was.
    """
    return hmac.digest(bytes(person.alias_key), b"person", "sha256").hex()
