"""A PostgreSQL and a Redis of the benchmark's own, as durable as in production."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from webapp.embedded import Embedded


@contextmanager
def own_servers() -> Iterator[Embedded]:
    """Both started, the environment and Django set up for them, every table made.

    Django is set up once in a process: one benchmark, one pair of servers.
    """
    with tempfile.TemporaryDirectory(prefix="foredesk-benchmark-") as folder:
        embedded = Embedded(Path(folder))
        embedded.start()
        try:
            os.environ |= {
                "DATABASE_URL": embedded.database_url,
                "REDIS_URL": embedded.redis_url,
                "SECRET_KEY": "only-for-benchmarks-" + "0123456789abcdef" * 4,
                "HTTPS_ONLY": "false",
                "FOREDESK_DATA": folder,
                "DJANGO_SETTINGS_MODULE": "webapp.settings",
                "LOG_LEVEL": "WARNING",
            }
            _make_tables()
            yield embedded
        finally:
            from django.db import connections

            connections.close_all()
            embedded.stop()


def _make_tables() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
