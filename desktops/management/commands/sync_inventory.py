from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from desktops.clouds.registry import get_cloud
from desktops.core.cloud import CloudError
from desktops.models import Dataset, Pool
from desktops.services.inventory import sync_inventory


class Command(BaseCommand):
    help = "Write a cloud's regions, flavors and servers into the tables, as a pool's desktops."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("cloud", help="a name in CLOUDS")
        parser.add_argument("--pool", required=True, help="made when there is none of that name")

    def handle(self, *args: Any, cloud: str, pool: str, **options: Any) -> None:
        try:
            drift = sync_inventory(
                cloud=get_cloud(cloud), pool=_pool(pool, cloud), at=timezone.now()
            )
        except (CloudError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        for what in ("added", "changed", "missing", "failed"):
            names = getattr(drift, what)
            self.stdout.write(f"{what}: {len(names)}" + (f" ({', '.join(names)})" if names else ""))
        if drift.failed:
            raise CommandError("Some regions could not be listed; their rows are as they were.")


@transaction.atomic
def _pool(name: str, cloud: str) -> Pool:
    pool = Pool.objects.select_related("dataset").filter(name=name).first()
    if pool is None:
        dataset, _ = Dataset.objects.get_or_create(
            name=name, defaults={"label": name, "kind": Dataset.Kind.LIVE, "source": cloud}
        )
        pool = Pool.objects.create(dataset=dataset, name=name, label=name)
    return pool
