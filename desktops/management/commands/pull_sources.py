from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from desktops.errors import InvalidFile, SourceFailed
from desktops.services.pulling import PullReport, check_entry, configured_sources, pull_source
from desktops.sources.entries import Entry

EVERY_S = 60.0


class Command(BaseCommand):
    help = (
        "Ask the sources of the file that SOURCES_FILE names for what was observed since the last"
        " time: all of them, or those that are named. Every minute, or once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="*", help="an entry of the sources file")
        parser.add_argument("--once", action="store_true", help="ask once, then end")
        parser.add_argument(
            "--check", action="store_true", help="only look whether the entries are well written"
        )

    def handle(self, *args: Any, name: list[str], once: bool, check: bool, **options: Any) -> None:
        while True:
            began_at = time.monotonic()
            failed = [
                entry.name
                for entry in self._entries(name)
                if not (self._check(entry) if check else self._pull(entry))
            ]
            if once or check:
                break
            time.sleep(max(0.0, began_at + EVERY_S - time.monotonic()))
        if failed:
            raise CommandError(f"Not well: {', '.join(failed)}.")

    def _entries(self, names: list[str]) -> list[Entry]:
        try:
            entries = configured_sources()
        except InvalidFile as error:
            raise CommandError(str(error)) from None
        if not entries:
            raise CommandError("There are no sources: SOURCES_FILE names no file, or an empty one.")
        if unknown := sorted(set(names) - entries.keys()):
            raise CommandError(
                f"There is no source {unknown[0]!r}; there are {', '.join(sorted(entries))}."
            )
        return [entry for name, entry in entries.items() if not names or name in names]

    def _check(self, entry: Entry) -> bool:
        try:
            check_entry(entry)
        except (InvalidFile, SourceFailed) as error:
            self.stderr.write(f"{entry.name}: {error}")
            return False
        self.stdout.write(f"{entry.name}: well written.")
        return True

    def _pull(self, entry: Entry) -> bool:
        try:
            report = pull_source(entry=entry, clock=timezone.now)
        except InvalidFile as error:
            self.stderr.write(str(error))
            return False
        self.stdout.write(_told(report))
        if report.error:
            self.stderr.write(f"{report.name}: {report.error}")
        return not report.error


def _told(report: PullReport) -> str:
    if report.is_busy:
        return f"{report.name}: another process is asking it."
    parts = [f"{report.rows:,} rows stored", f"{report.rejected_rows:,} rejected"]
    if report.duplicates:
        parts.append(f"{report.duplicates:,} known already")
    if report.strangers:
        parts.append(f"{report.strangers:,} desktops of others passed over")
    until = f"{report.until:%Y-%m-%d %H:%M:%S} UTC" if report.until else "nothing yet"
    return f"{report.name}: {', '.join(parts)}; complete until {until}."
