"""Tokens of programs that report presence, write notices or manage people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from desktops import events
from desktops.errors import Refused
from desktops.models import Dataset, IntegrationToken, Pool
from desktops.tokens import digest_of, new_token

PREFIX = "foredesk_app"
NOTED_EVERY = timedelta(minutes=1)


def create_token(
    *,
    name: str,
    dataset: Dataset,
    pool: Pool | None,
    scopes: Sequence[IntegrationToken.Scope],
    valid_for: timedelta,
    actor: str,
    at: datetime,
) -> tuple[IntegrationToken, str]:
    """The row and the token itself, which cannot be had again.

    name : of the program. What it reports is kept under its name, so that a new token of the same
        name takes the place of an old one.
    """
    text, digest = new_token(PREFIX)
    with transaction.atomic():
        token = IntegrationToken.objects.create(
            name=name,
            dataset=dataset,
            pool=pool,
            digest=digest,
            scopes=sorted(set(scopes)),
            created_at=at,
            created_by=actor,
            expires_at=at + valid_for,
        )
        _record("token.created", token, actor=actor, at=at)
    return token, text


def revoke_token(*, token: IntegrationToken, actor: str, at: datetime) -> bool:
    """From the next request on it opens nothing. False when it was revoked before."""
    with transaction.atomic():
        revoked = IntegrationToken.objects.filter(pk=token.pk, revoked_at=None).update(
            revoked_at=at
        )
        if revoked:
            _record("token.revoked", token, actor=actor, at=at)
    return bool(revoked)


def authenticate(*, text: str, wall: datetime) -> IntegrationToken:
    """The token with its data set and pool, its use noted; raises Refused."""
    token = (
        IntegrationToken.objects.select_related("dataset", "pool")
        .filter(digest=digest_of(text))
        .first()
    )
    if token is None:
        raise Refused(401, "wrong_token", "There is no such token.")
    if token.revoked_at:
        raise Refused(401, "revoked_token", "The token was revoked.")
    if token.expires_at <= wall:
        raise Refused(401, "expired_token", f"The token expired on {token.expires_at:%Y-%m-%d}.")
    if token.last_used_at is None or wall - token.last_used_at >= NOTED_EVERY:
        # Again in the condition: of many requests at once, one writes.
        IntegrationToken.objects.filter(pk=token.pk).filter(
            Q(last_used_at=None) | Q(last_used_at__lte=wall - NOTED_EVERY)
        ).update(last_used_at=wall)
    return token


def _record(kind: str, token: IntegrationToken, *, actor: str, at: datetime) -> None:
    events.record(
        kind=kind,
        subject=token,
        at=at,
        pool_id=token.pool_id,
        actor=actor,
        name=token.name,
        scopes=token.scopes,
    )
