"""Import files of recorded activity (docs/import.md)."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_slug
from django.utils import timezone
from tqdm import tqdm

from desktops.core.metros import InvalidMetros, read_metros
from desktops.errors import DesktopsError, InvalidFile
from desktops.services.datasets import extent_of
from desktops.services.imports import FileReport, import_file
from desktops.sources.columns import COLUMNS
from desktops.sources.formats import FORMATS
from desktops.sources.options import ReadOptions


def _slug(text: str) -> str:
    try:
        validate_slug(text)
    except ValidationError:
        raise ArgumentTypeError(f"{text!r}: letters, digits, - and _ only") from None
    return text


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ArgumentTypeError(f"a share between 0 and 1 is wanted, not {text!r}")
    return share


def _column(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or ours not in COLUMNS or not theirs:
        raise ArgumentTypeError(f"{text!r}: COLUMN=NAME with COLUMN of {', '.join(COLUMNS)}")
    return ours, theirs


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")
        parser.add_argument("--format", required=True, choices=sorted(FORMATS))
        parser.add_argument("--dataset", required=True, type=_slug, help="made when new")
        parser.add_argument("--pool", type=_slug, help="made when new; default: as the data set")
        parser.add_argument(
            "--map",
            nargs="+",
            action="extend",
            type=_column,
            default=[],
            metavar="COLUMN=NAME",
            help="what the file calls a column (csv, parquet)",
        )
        parser.add_argument(
            "--tolerance",
            type=_share,
            default=0.01,
            help="share of bad rows beyond which a file is refused (default 0.01)",
        )
        parser.add_argument(
            "--sites",
            type=Path,
            help="CSV of the sites people can be at; default: metro areas of the world",
        )
        parser.add_argument(
            "--stamp-offset", type=int, help="seconds to add to the stamps (gowalla: 28800)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        read_options = self._read_options(options)
        try:
            files = [f for path in options["paths"] for f in self._files(path, options["format"])]
        except InvalidFile as error:
            raise CommandError(str(error)) from None
        reports: list[FileReport] = []
        refused = 0
        total_bytes = sum(file.stat().st_size for file in files)
        with tqdm(total=total_bytes, unit="B", unit_scale=True, disable=None) as bar:
            for file in files:
                bar.set_description(file.name)
                try:
                    report = import_file(
                        path=file,
                        format_name=options["format"],
                        dataset_name=options["dataset"],
                        pool_name=options["pool"] or options["dataset"],
                        options=read_options,
                        tolerance=options["tolerance"],
                        wall=timezone.now(),
                        advance=bar.update,
                    )
                except (DesktopsError, OSError) as error:
                    refused += 1
                    self._complain(bar, f"refused: {error}")
                    continue
                reports.append(report)
                for problem in report.problems:
                    self._complain(bar, f"{report.name} {problem}")
        self._summarise(options["dataset"], reports)
        if refused:
            raise CommandError(f"{refused} of {len(files)} files refused; nothing of them is kept.")

    def _complain(self, bar: tqdm, text: str) -> None:
        with bar.external_write_mode():
            self.stderr.write(text)

    def _files(self, path: Path, format_name: str) -> list[Path]:
        if not path.exists():
            raise InvalidFile(f"There is no {path}.")
        files = FORMATS[format_name].files(path)
        if folder := next((file for file in files if file.is_dir()), None):
            raise InvalidFile(f"{folder} is a folder; name the {format_name} files in it.")
        return files

    def _read_options(self, options: dict[str, Any]) -> ReadOptions:
        heeded = FORMATS[options["format"]].OPTIONS
        given: dict[str, Any] = {}
        if options["map"]:
            given["columns"] = dict(options["map"])
        if options["stamp_offset"] is not None:
            given["stamp_offset_s"] = options["stamp_offset"]
        if options["sites"]:
            try:
                given["metros"] = read_metros(options["sites"])
            except (InvalidMetros, OSError, UnicodeDecodeError) as error:
                raise CommandError(f"--sites: {error}") from None
        if unheeded := sorted(set(given) - heeded):
            names = {"columns": "--map", "stamp_offset_s": "--stamp-offset", "metros": "--sites"}
            raise CommandError(f"{names[unheeded[0]]} means nothing to {options['format']} files.")
        return ReadOptions(**given)

    def _summarise(self, dataset: str, reports: list[FileReport]) -> None:
        new = [report for report in reports if not report.was_imported_before]
        if known := len(reports) - len(new):
            self.stdout.write(f"{known} files were imported before; nothing changed.")
        if not new:
            return
        rejected = sum(report.rejected_rows for report in new)
        self.stdout.write(
            f"{len(new)} files: {sum(r.rows for r in new):,} rows, {rejected:,} rejected,"
            f" {sum(r.hours for r in new):,} new hours."
        )
        extent = extent_of(name=dataset)
        self.stdout.write(
            f"{dataset} now: {extent.people:,} people, {extent.desktops:,} desktops,"
            f" {extent.hours:,} hours from {extent.first:%Y-%m-%d %H:%M} to"
            f" {extent.last:%Y-%m-%d %H:%M} UTC, planned as of {extent.as_of:%Y-%m-%d %H:%M}."
        )
