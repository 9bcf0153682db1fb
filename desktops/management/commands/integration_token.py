"""Make, list and revoke the tokens of programs (docs/sources/presence.md, notices.md)."""

from __future__ import annotations

import getpass
from argparse import ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import slug_re
from django.utils import timezone

from desktops.models import Dataset, IntegrationToken, Pool
from desktops.services.integration_tokens import create_token, revoke_token

LONGEST_NAME = 40
MOST_DAYS = 3650


def _name(text: str) -> str:
    if not slug_re.match(text) or len(text) > LONGEST_NAME:
        raise ArgumentTypeError(f"{text!r}: letters, digits, - and _ only, {LONGEST_NAME} at most")
    return text


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_DAYS:
        raise ArgumentTypeError(f"a number of days from 1 to {MOST_DAYS} is wanted, not {text!r}")
    return int(text)


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        create = actions.add_parser("create", help="make a token; it is shown once")
        create.add_argument("name", type=_name, metavar="NAME", help="of the program")
        create.add_argument("--dataset", required=True)
        create.add_argument("--pool", help="the only pool it reaches; default: all of the data set")
        create.add_argument(
            "--scope",
            dest="scopes",
            nargs="+",
            action="extend",
            required=True,
            choices=sorted(IntegrationToken.Scope.values),
        )
        create.add_argument("--days", type=_days, default=365, help="valid for (default 365)")
        actions.add_parser("list", help="tokens with their numbers; never the tokens themselves")
        revoke = actions.add_parser("revoke", help="make a token worthless at once")
        revoke.add_argument("number", type=int, metavar="NUMBER", help="as `list` shows it")

    def handle(self, *args: Any, **options: Any) -> None:
        getattr(self, f"_{options['action']}")(options, timezone.now())

    def _create(self, options: dict[str, Any], now: datetime) -> None:
        dataset = Dataset.objects.filter(name=options["dataset"]).first()
        if dataset is None:
            raise CommandError(f"There is no data set {options['dataset']}.")
        pool = None
        if options["pool"] and not (
            pool := Pool.objects.filter(dataset=dataset, name=options["pool"]).first()
        ):
            raise CommandError(f"{dataset.name} has no pool {options['pool']}.")
        token, text = create_token(
            name=options["name"],
            dataset=dataset,
            pool=pool,
            scopes=options["scopes"],
            valid_for=timedelta(days=options["days"]),
            actor=_operator(),
            at=now,
        )
        self.stdout.write(
            f"Token {token.pk} for {token.name}, valid until {token.expires_at:%Y-%m-%d}. It is"
            " shown this once:"
        )
        self.stdout.write(text)

    def _list(self, options: dict[str, Any], now: datetime) -> None:
        tokens = IntegrationToken.objects.select_related("dataset", "pool").order_by("pk")
        for token in tokens:
            used = f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never"
            self.stdout.write(
                f"{token.pk:>5}  {token.name:<20}  {_reach(token):<30}"
                f"  {','.join(token.scopes):<24}  {_state(token, now):<22}  used {used}"
            )

    def _revoke(self, options: dict[str, Any], now: datetime) -> None:
        token = IntegrationToken.objects.filter(pk=options["number"]).first()
        if token is None:
            raise CommandError(f"There is no token {options['number']}.")
        if not revoke_token(token=token, actor=_operator(), at=now):
            raise CommandError(f"Token {token.pk} ({token.name}) was revoked before.")
        self.stdout.write(f"Token {token.pk} ({token.name}) is revoked.")


def _operator() -> str:
    """Who is at the shell; in a container that may be nobody with a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _reach(token: IntegrationToken) -> str:
    return f"{token.dataset.name}/{token.pool.name}" if token.pool else token.dataset.name


def _state(token: IntegrationToken, now: datetime) -> str:
    if token.revoked_at:
        return f"revoked {token.revoked_at:%Y-%m-%d}"
    word = "expired" if token.expires_at <= now else "valid until"
    return f"{word} {token.expires_at:%Y-%m-%d}"
