from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from desktops.core.cloud import CloudError
from desktops.errors import DesktopsError
from desktops.models import Dataset, Pool
from desktops.services.inventory import Synced, clouds_with_pools, sync_cloud


class Command(BaseCommand):
    help = (
        "Compare pools with what their clouds list: regions, flavors, quotas, servers and volumes."
        " Without a cloud, every cloud that some pool names."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("cloud", nargs="?", help="a name in CLOUDS")
        parser.add_argument(
            "--pool", help="compare this pool with the cloud from now on; made when there is none"
        )
        parser.add_argument(
            "--server-names", help="which servers are the pool's, as a pattern: desk-paris-*"
        )

    def handle(
        self,
        *args: Any,
        cloud: str | None,
        pool: str | None,
        server_names: str | None,
        **options: Any,
    ) -> None:
        if (pool or server_names) and not (pool and cloud):
            raise CommandError("--pool needs the cloud's name, and --server-names needs --pool.")
        if cloud and pool:
            _connect(pool, cloud, server_names)
        failed = [name for name in ([cloud] if cloud else clouds_with_pools()) if self._sync(name)]
        if failed:
            raise CommandError(f"Not compared whole: {', '.join(failed)}.")

    def _sync(self, cloud: str) -> bool:
        """Says whether anything could not be listed."""
        try:
            synced = sync_cloud(name=cloud, at=timezone.now())
        except (CloudError, ImproperlyConfigured, DesktopsError) as error:
            self.stderr.write(f"{cloud}: {error}")
            return True
        if not synced:
            self.stderr.write(f"{cloud}: no pool is compared with it; name one with --pool.")
            return True
        for one in synced:
            self._tell(one)
        return any(one.failed for one in synced)

    def _tell(self, synced: Synced) -> None:
        self.stdout.write(f"{synced.pool.name}:")
        for what in ("added", "changed", "missing", "unknown", "failed"):
            names = getattr(synced, what)
            shown = f" ({', '.join(names)})" if names else ""
            self.stdout.write(f"  {what}: {len(names)}{shown}")


@transaction.atomic
def _connect(name: str, cloud: str, server_names: str | None) -> None:
    pool = Pool.objects.select_for_update().filter(name=name).first()
    if pool is None:
        dataset, _ = Dataset.objects.get_or_create(
            name=name, defaults={"label": name, "kind": Dataset.Kind.LIVE, "source": cloud}
        )
        pool = Pool(dataset=dataset, name=name, label=name)
    elif pool.cloud not in ("", cloud):
        raise CommandError(f"Pool {name} is compared with the cloud {pool.cloud}.")
    pool.cloud = cloud
    pool.server_names = server_names or pool.server_names
    pool.save()
