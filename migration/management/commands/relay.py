from __future__ import annotations

import contextlib
import socket
from typing import Any

from celery import current_app
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from desktops.clouds.registry import get_cloud
from desktops.models import Region
from migration.relaying import RegionRelay, beating
from migration.services.carrying import JOBS
from migration.services.passes import queue_of


class Command(BaseCommand):
    help = (
        "Carry desktops from and to regions: take in what other regions' relays send, and work on "
        "the regions' queues. Runs until it is told to end; several may serve one region."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--region",
            action="append",
            default=[],
            metavar="NAME",
            help="a region's name, or CLOUD/NAME; may be given more than once",
        )
        parser.add_argument("--cloud", metavar="NAME", help="every region of a cloud")
        parser.add_argument("--listen", default="127.0.0.1", metavar="HOST")
        parser.add_argument(
            "--address",
            metavar="HOST",
            help="by which other relays reach this one; by default what it listens on",
        )
        parser.add_argument(
            "--jobs",
            type=int,
            default=2,
            help="passes made side by side; of two and more, one is kept for moves",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        regions = [self._region(name) for name in options["region"]]
        if options["cloud"]:
            regions += Region.objects.filter(cloud=options["cloud"]).exclude(
                pk__in=[region.pk for region in regions]
            )
        if not regions:
            raise CommandError("Say which regions: --region NAME, or --cloud NAME for all of one.")
        address = options["address"] or self._reached_by(options["listen"])
        relays = [
            RegionRelay(
                region,
                get_cloud(region.cloud),
                folder=settings.RELAY_FOLDER,
                host=options["listen"],
            )
            for region in regions
        ]
        with contextlib.ExitStack() as stack:
            for relay in relays:
                stack.enter_context(relay.serving(address=address))
            stack.enter_context(beating(relays))
            names = ", ".join(region.name for region in regions)
            self.stdout.write(f"relay of {names} at {address}")
            self.stdout.flush()
            self._work(regions, jobs=options["jobs"])

    def _work(self, regions: list[Region], *, jobs: int) -> None:
        """Until a signal; a second one ends it at once."""
        JOBS.limit(jobs)
        queues = ",".join(queue_of(region) for region in regions)
        name = f"relay-{regions[0].name}-{socket.gethostname()}"
        current_app.worker_main(
            [
                *("--quiet", "worker", "--without-gossip", "--without-mingle"),
                *("--loglevel", "INFO", "--pool", "threads", "--concurrency", str(jobs)),
                *("-Q", queues, "-n", f"{name}@%h"),
            ]
        )

    def _region(self, name: str) -> Region:
        cloud, slash, own = name.rpartition("/")
        found = Region.objects.filter(name=own)
        if slash:
            found = found.filter(cloud=cloud)
        match list(found):
            case [region]:
                return region
            case []:
                raise CommandError(f"There is no region {name!r}.")
            case several:
                names = ", ".join(f"{each.cloud}/{each.name}" for each in several)
                raise CommandError(f"{name!r} could be {names}.")

    def _reached_by(self, host: str) -> str:
        if host in ("0.0.0.0", "::"):
            raise CommandError("Say by which --address others reach what listens on all.")
        return host
