"""How a resource carries the key it was created with, so that it is found again.

Servers, volumes and snapshots keep the key in their metadata. Nova filters by metadata for
administrators only and ignores the filter of anybody else, so a server also has a tag. Images
that Cinder uploads can be given a name and nothing more, so images are known by their name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

KEY = "foredesk:key"  # the resource the caller asked for
COPY = "foredesk:copy"  # what a copy leaves behind until it is done
QUARANTINE = "foredesk:quarantine"  # on a server created fenced: its security group
BYTES = "foredesk:bytes"  # on a copied volume: how much was sent

MAX_KEY_LENGTH = 200  # metadata values and names hold 255 characters


def checked(key: str) -> str:
    """The key itself, or ValueError where no cloud could store it."""
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise ValueError(
            f"A key has 1 to {MAX_KEY_LENGTH} printable characters; this one has {len(key)}: "
            f"{key[:40]!r}"
        )
    return key


def tag(key: str) -> str:
    """A server tag for any key: tags hold 60 characters, without comma and slash."""
    return "foredesk:" + hashlib.sha256(key.encode()).hexdigest()[:40]


def name(key: str) -> str:
    return f"foredesk {key}"


def copy_name(key: str) -> str:
    return f"foredesk copy {key}"


def is_marked(body: Json, key: str, *, mark: str = KEY) -> bool:
    return (body.get("metadata") or {}).get(mark) == key


def once(
    find: Callable[[], Json | None], create: Callable[[], Json], discard: Callable[[Json], None]
) -> Json:
    """The one resource with a key: found, or created.

    find : the oldest with the key. Two workers that both looked in vain both create, look
    again and agree on the oldest; the other one is discarded.
    """
    found = find()
    if found is not None:
        return found
    made = create()
    winner = find() or made
    if winner["id"] != made["id"]:
        discard(made)
    return winner


def oldest(bodies: list[Json]) -> Json | None:
    return min(bodies, key=lambda body: (_created(body), body["id"]), default=None)


def _created(body: Json) -> str:
    return body.get("created_at") or body.get("created") or ""
