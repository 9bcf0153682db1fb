"""People's names become pseudonyms at the door, by a keyed hash."""

from __future__ import annotations

from django.conf import settings
from django.utils.crypto import salted_hmac

SALT = "desktops.pseudonyms"
LENGTH = 32  # hexadecimal digits, 128 bits


def pseudonym(identity: str) -> str:
    """The same for the same person; says nothing without the key.

    The key is PSEUDONYM_KEY, else SECRET_KEY: set PSEUDONYM_KEY before the secret key is ever
    changed, or everybody becomes somebody else. Case and blanks around do not matter, as in the
    sign-in names of most directories.
    """
    key = settings.PSEUDONYM_KEY or settings.SECRET_KEY
    value = identity.strip().casefold()
    return salted_hmac(SALT, value, secret=key, algorithm="sha256").hexdigest()[:LENGTH]
