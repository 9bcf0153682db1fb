"""Make tables, fleet, forecast, plan and administrator of the demo. The demo runs this."""

from __future__ import annotations

import os
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from desktops.services.inventory import sync_cloud
from migration.models import Plan
from webapp.accounts import make_administrator


def has_migrations_to_apply() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


class Command(BaseCommand):
    help = __doc__
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if has_migrations_to_apply():
            self.stdout.write("Making the tables ...")
            call_command("migrate", verbosity=0, interactive=False)
        if not Plan.objects.exists():
            # Loads what only making a fleet needs, and every start of the demo passes here.
            from webapp.seeding import CLOUD, DATASET

            call_command("seed_demo")
            # So that its quotas show before the first periodic comparison.
            sync_cloud(name=CLOUD, at=timezone.now())
            self.stdout.write("Forecasting demand and whereabouts ...")
            call_command("forecast", DATASET)
            self.stdout.write("Planning ...")
            call_command("plan", DATASET)
        make_administrator(username="admin", password=os.environ["DEMO_PASSWORD"])
