"""Write the demo fleet and place its desktops in the simulated cloud; does nothing again."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from desktops.core.cloud import CloudError
from webapp import seeding


class Command(BaseCommand):
    help = __doc__
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seed", type=int, default=seeding.SEED, help="another fleet")

    def handle(self, *args: Any, **options: Any) -> None:
        if seeding.CLOUD not in settings.CLOUDS:
            raise CommandError("The demo fleet lives in the simulated cloud: set SIMULATOR_URL.")
        started = time.monotonic()
        try:
            seeding.seed(wall=timezone.now(), seed=options["seed"], progress=self.stdout.write)
        except CloudError as error:
            raise CommandError(f"The simulated cloud: {error}") from error
        self.stdout.write(f"Seeded in {time.monotonic() - started:.1f} s.")
