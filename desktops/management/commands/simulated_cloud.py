from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from desktops.clouds.simulator import process


class Command(BaseCommand):
    help = "Run the simulated cloud. It needs no database: python -m desktops.clouds.simulator."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        process.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        problem = process.serve(
            port=options["port"],
            store=Path(options["store"]),
            speed=options["speed"],
            seed=options["seed"],
            exit_with_stdin=options["exit_with_stdin"],
        )
        if problem is not None:
            raise CommandError(problem)
