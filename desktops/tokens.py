"""Tokens of programs: made here, shown once, known afterwards by their digest alone."""

from __future__ import annotations

import hashlib
import secrets


def new_token(prefix: str) -> tuple[str, str]:
    """A new token and its digest; the prefix says to people and scanners what it is."""
    token = f"{prefix}_{secrets.token_urlsafe(32)}"
    return token, digest_of(token)


def digest_of(token: str) -> str:
    """Plain SHA-256: 256 random bits need no slow hash, and every request asks for this."""
    return hashlib.sha256(token.encode()).hexdigest()
