"""Import a table of networks: which addresses mean which site (docs/sources/networks.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from desktops.core.networks import InvalidNetworks
from desktops.services.locating import import_networks


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", type=Path, metavar="FILE", help="CSV: cidr,site,label")
        parser.add_argument(
            "--replace", action="store_true", help="remove networks that are not in the file"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = import_networks(path=options["path"], replaces=options["replace"])
        except (InvalidNetworks, OSError) as error:
            raise CommandError(f"Nothing was imported.\n{error}") from None
        self.stdout.write(
            f"{report.added:,} networks added, {report.changed:,} changed,"
            f" {report.unchanged:,} unchanged, {report.removed:,} removed."
        )
