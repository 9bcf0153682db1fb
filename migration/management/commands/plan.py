from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from desktops.core.cloud import CloudError
from desktops.models import Dataset
from migration.errors import MigrationError
from migration.models import Recommendation
from migration.services.plans import make_plan


class Command(BaseCommand):
    help = "Plan a data set from its newest forecast, and supersede the plan before."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("dataset", help="name of the data set")

    def handle(self, *args: Any, dataset: str, **options: Any) -> None:
        try:
            row = Dataset.objects.get(name=dataset)
            plan = make_plan(dataset_id=row.pk, wall=timezone.now())
        except Dataset.DoesNotExist:
            raise CommandError(f"No data set {dataset!r}.") from None
        except (MigrationError, CloudError) as error:
            raise CommandError(str(error)) from error
        waiting = plan.recommendations.filter(state=Recommendation.State.AWAITING_APPROVAL).count()
        self.stdout.write(
            f"Planned {plan.recommendations.count()} desktops from"
            f" {plan.as_of:%Y-%m-%d %H:%M} UTC; {waiting} moves await approval."
        )
