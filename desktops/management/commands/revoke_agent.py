from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from desktops.models import Desktop
from desktops.services.agents import revoke_agent


class Command(BaseCommand):
    help = "Shut a desktop's agent out until it is enrolled again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("desktop", help="key of the desktop")

    def handle(self, *args: Any, desktop: str, **options: Any) -> None:
        row = Desktop.objects.filter(key=desktop).first()
        if row is None:
            raise CommandError(f"There is no desktop {desktop}.")
        if not revoke_agent(desktop=row, actor="", at=timezone.now()):
            raise CommandError(f"{desktop} has no agent that could be revoked.")
        self.stdout.write(f"the agent of {desktop} is revoked")
