"""Kinds of pulled sources to their modules, imported only when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

from desktops.sources.entries import Options
from desktops.sources.pulling import PullSource

KINDS = {
    "prometheus": "desktops.sources.prometheus.source",
    "gnocchi": "desktops.sources.gnocchi",
    "guacamole": "desktops.sources.guacamole",
}

SiteOf = Callable[[str], str | None]


class PullModule(Protocol):
    """What a module of this package that can be pulled from has.

    MAKES_PEOPLE : somebody it names and nobody knows becomes a person of the pool
    SETTLE_S : how long after something happened its numbers no longer change, unless the entry
        says otherwise
    """

    MAKES_PEOPLE: bool
    SETTLE_S: int

    def connect(self, options: Options, *, site_of: SiteOf) -> PullSource:
        """A source with an entry's options; nothing is asked of it yet.

        site_of : a client's address → the code of its site, None for unknown

        Raises InvalidFile, naming the option.
        """


def pull_module(kind: str) -> PullModule:
    """kind : a key of KINDS"""
    return cast(PullModule, import_module(KINDS[kind]))
