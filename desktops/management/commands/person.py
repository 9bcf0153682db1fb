"""Export or erase one person, or set what they opted out of (docs/privacy.md)."""

from __future__ import annotations

import getpass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from desktops.errors import Refused
from desktops.models import DesktopUser
from desktops.services.looks import note_looks
from desktops.services.people import (
    erase_person,
    find_person,
    finish_erasures,
    set_opt_outs,
)
from desktops.services.person_export import export_person, held_rows


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        export = actions.add_parser("export", help="write everything held about them as JSON")
        export.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
        erase = actions.add_parser("erase", help="delete everything that leads back to them")
        erase.add_argument("--yes", action="store_true", help="do not ask")
        opt_out = actions.add_parser("opt-out", help="leave them out of predictions or places")
        opt_out.add_argument("--prediction", action="store_true")
        opt_out.add_argument("--location", action="store_true")
        opt_out.add_argument("--back-in", action="store_true", help="take them in again")
        for action in (export, erase, opt_out):
            action.add_argument("--dataset", required=True)
            action.add_argument("pseudonym", nargs="?", default="", metavar="PSEUDONYM")
            action.add_argument("--identity", default="", help="as they sign in, instead")

    def handle(self, *args: Any, **options: Any) -> None:
        if bool(options["pseudonym"]) == bool(options["identity"]):
            raise CommandError("Name the person by PSEUDONYM or by --identity.")
        act = {"export": self._export, "erase": self._erase, "opt-out": self._opt_out}
        try:
            person = find_person(
                dataset=options["dataset"],
                pseudonym_=options["pseudonym"],
                identity=options["identity"],
            )
            act[options["action"]](person, options, timezone.now())
        except (Refused, OSError) as error:
            raise CommandError(str(error)) from None

    def _export(self, person: DesktopUser, options: dict[str, Any], now: datetime) -> None:
        note_looks(viewer=getpass.getuser(), people=[person], what="export", at=now)
        pieces = export_person(person, wall=now, with_name=True)
        if options["output"] is None:
            for piece in pieces:
                self.stdout.write(piece, ending="")
            return
        with options["output"].open("x", encoding="utf-8") as file:
            file.writelines(pieces)

    def _erase(self, person: DesktopUser, options: dict[str, Any], now: datetime) -> None:
        for name, rows in held_rows(person).items():
            self.stdout.write(f"{rows:>10,}  {name}")
        if not options["yes"]:
            answer = input(f"Erase {person.pseudonym}? Nothing brings it back. Type yes: ")
            if answer.strip() != "yes":
                raise CommandError("Nothing was erased.")
        erased = erase_person(
            person_id=person.pk, identity=options["identity"], actor=getpass.getuser(), wall=now
        )
        for remark in erased.remarks:
            self.stdout.write(remark)
        self._finish(now)
        self.stdout.write("Erased. Backups of the database still hold it until they expire.")

    def _finish(self, now: datetime) -> None:
        """Here and now: whoever sits at a terminal need not wait for a worker."""
        if finish_erasures(wall=now) is None:
            self.stdout.write("A worker is taking raw samples out: theirs follow.")

    def _opt_out(self, person: DesktopUser, options: dict[str, Any], now: datetime) -> None:
        if not (options["prediction"] or options["location"]):
            raise CommandError("Say of what: --prediction, --location or both.")
        value = bool(options["back_in"])
        person = set_opt_outs(
            person_id=person.pk,
            is_predicted=value if options["prediction"] else None,
            is_located=value if options["location"] else None,
            actor=getpass.getuser(),
            wall=now,
        )
        if value is False and options["location"]:
            self._finish(now)
        self.stdout.write(
            f"Predicted: {'yes' if person.is_predicted else 'no'}."
            f" Located: {'yes' if person.is_located else 'no'}."
        )
