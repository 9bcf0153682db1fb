from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from desktops.models import Pool
from desktops.services.agents import create_enrolment_token, withdraw_enrolment_tokens


class Command(BaseCommand):
    help = "Make a token that lets agents of a pool's desktops in. It is shown this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("pool", help="name of the pool")
        parser.add_argument("--uses", type=int, default=1, help="how many agents (default: 1)")
        parser.add_argument("--hours", type=int, default=24, help="valid for (default: 24)")
        parser.add_argument(
            "--withdraw",
            action="store_true",
            help="make none; every token of the pool so far lets nobody in any more",
        )

    def handle(
        self, *args: Any, pool: str, uses: int, hours: int, withdraw: bool, **options: Any
    ) -> None:
        row = Pool.objects.filter(name=pool).first()
        if row is None:
            raise CommandError(f"There is no pool {pool}.")
        if withdraw:
            n = withdraw_enrolment_tokens(pool=row, actor="", at=timezone.now())
            self.stdout.write(f"{n} tokens withdrawn")
            return
        if not 1 <= uses <= 1_000_000 or not 1 <= hours <= 24 * 366:
            raise CommandError("--uses is 1 to 1,000,000 and --hours 1 to 8,784.")
        token = create_enrolment_token(
            pool=row, uses=uses, valid_for=timedelta(hours=hours), actor="", at=timezone.now()
        )
        self.stdout.write(token)
