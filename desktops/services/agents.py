"""Agents in desktops: how they are let in, who they are, and what they are asked to do.

An agent cannot be reached, it asks. What it is to do is signed with a key that it was given at its
enrolment and that is kept nowhere here: it is made again from the secret key when it is needed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.db.models import F
from django.utils.crypto import salted_hmac

from desktops import events
from desktops.errors import NotPermitted, Refused
from desktops.models import AgentCommand, AgentCredential, Desktop, EnrolmentToken, Pool
from desktops.selectors import desktops_for
from desktops.tokens import digest_of, new_token

ENROLMENT_PREFIX = "foredesk_enrol"
AGENT_PREFIX = "foredesk_agent"
COMMAND_SALT = "desktops.agents.commands"
OPERATE = "migration.operate_transition"
POLL_S = 30
POST_S = 60
LONGEST_TTL = timedelta(days=1)
# Kind → argument → most characters. `message` is wanted, the others may be left out.
ARGUMENTS: Mapping[str, Mapping[str, int]] = {
    AgentCommand.Kind.NOTIFY: {"message": 500, "title": 80},
    AgentCommand.Kind.QUIESCE: {},
    AgentCommand.Kind.HIBERNATE: {},
}
_UNFINISHED = (AgentCommand.Outcome.WAITING, AgentCommand.Outcome.EXPIRED)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What an agent is given, once. `command_key` is hexadecimal."""

    token: str
    command_key: str
    desktop: str


def create_enrolment_token(
    *, pool: Pool, uses: int, valid_for: timedelta, actor: str, at: datetime
) -> str:
    """A token that lets `uses` agents of the pool in; it cannot be had again."""
    text, digest = new_token(ENROLMENT_PREFIX)
    with transaction.atomic():
        token = EnrolmentToken.objects.create(
            pool=pool,
            digest=digest,
            uses_left=uses,
            expires_at=at + valid_for,
            created_at=at,
            created_by=actor,
        )
        events.record(
            kind="enrolment_token.created",
            subject=token,
            at=at,
            pool_id=pool.pk,
            actor=actor,
            uses=uses,
            expires_at=token.expires_at.isoformat(),
        )
    return text


def withdraw_enrolment_tokens(*, pool: Pool, actor: str, at: datetime) -> int:
    """No token made for the pool so far lets anybody in; returns how many still would have."""
    with transaction.atomic():
        withdrawn = EnrolmentToken.objects.filter(
            pool=pool, uses_left__gt=0, expires_at__gt=at
        ).update(uses_left=0)
        if withdrawn:
            events.record(
                kind="enrolment_tokens.withdrawn",
                subject=pool,
                at=at,
                pool_id=pool.pk,
                actor=actor,
                tokens=withdrawn,
            )
    return withdrawn


def enrol(*, token: str, server_id: str, version: str, wall: datetime) -> Enrolled:
    """Turn one use of an enrolment token into the credential of the desktop on that server.

    A desktop that has an agent gets no other before that one is revoked: a token of many uses must
    not take desktops over. Raises Refused, and then the token has as many uses left as before.
    """
    enrolment = (
        EnrolmentToken.objects.select_related("pool").filter(digest=digest_of(token)).first()
    )
    if enrolment is None:
        raise Refused(401, "wrong_token", "There is no such enrolment token.")
    if enrolment.expires_at <= wall:
        raise Refused(401, "expired_token", "The enrolment token has expired.")
    desktop = Desktop.objects.filter(pool=enrolment.pool, server_id=server_id).first()
    if not server_id or desktop is None:
        raise Refused(
            404,
            "unknown_server",
            f"No desktop of the pool {enrolment.pool.name} is on that server.",
        )
    text, digest = new_token(AGENT_PREFIX)
    with transaction.atomic():
        Desktop.objects.select_for_update(no_key=True).get(pk=desktop.pk)
        if AgentCredential.objects.filter(desktop=desktop, revoked_at=None).exists():
            raise Refused(
                409,
                "already_enrolled",
                f"{desktop.key} has an agent: an admin revokes it first (revoke_agent).",
            )
        _spend(enrolment, wall)
        credential, _ = AgentCredential.objects.update_or_create(
            desktop=desktop,
            defaults={
                "digest": digest,
                "enrolled_server_id": server_id,
                "enrolled_at": wall,
                "revoked_at": None,
                "version": version,
            },
        )
        _record("agent.enrolled", credential, desktop, at=wall)
    return Enrolled(text, command_key(credential).hex(), desktop.key)


def _spend(enrolment: EnrolmentToken, wall: datetime) -> None:
    """Of many agents with the last use of one token, one finds it there."""
    spent = EnrolmentToken.objects.filter(
        pk=enrolment.pk, uses_left__gt=0, expires_at__gt=wall
    ).update(uses_left=F("uses_left") - 1, last_used_at=wall)
    if not spent:
        raise Refused(401, "token_spent", "The enrolment token was used as often as it may be.")


def revoke_agent(*, desktop: Desktop, actor: str, at: datetime) -> bool:
    """From the next request on its token opens nothing. False when there was none to revoke."""
    with transaction.atomic():
        revoked = AgentCredential.objects.filter(desktop=desktop, revoked_at=None).update(
            revoked_at=at
        )
        if revoked:
            _record("agent.revoked", desktop.agent, desktop, at=at, actor=actor)
    return bool(revoked)


def authenticate(*, text: str) -> AgentCredential:
    """The credential with its desktop and that one's pool; raises Refused."""
    credential = (
        AgentCredential.objects.select_related("desktop__pool")
        .filter(digest=digest_of(text))
        .first()
    )
    if credential is None:
        raise Refused(401, "wrong_token", "There is no such agent token; enrol the agent again.")
    if credential.revoked_at:
        raise Refused(401, "revoked_token", "The agent token was revoked.")
    return credential


def check_server(credential: AgentCredential, *, server_id: str) -> None:
    """Raises Refused unless the agent runs on the server that the desktop is on now."""
    if not server_id or server_id != credential.desktop.server_id:
        raise Refused(
            403, "wrong_server", "This desktop is not on that server (a copy of it may be)."
        )


def command_key(credential: AgentCredential) -> bytes:
    """Another for every enrolment, so that an agent that was replaced verifies nothing."""
    value = f"{credential.desktop_id}:{credential.digest}"
    return salted_hmac(COMMAND_SALT, value, algorithm="sha256").digest()


def signature(fields: Mapping[str, Any], key: bytes) -> str:
    """HMAC-SHA-256 in hexadecimal digits, over JSON with sorted keys and without blanks."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def command_desktop(
    *,
    desktop: Desktop,
    kind: AgentCommand.Kind,
    arguments: Mapping[str, Any],
    actor: AbstractUser,
    at: datetime,
    ttl: timedelta,
) -> AgentCommand:
    """Ask the desktop's agent to do something within `ttl`. Raises NotPermitted, Refused."""
    mine = desktops_for(actor).filter(pk=desktop.pk)
    if not (actor.has_perm(OPERATE) and mine.exists()):
        raise NotPermitted("You may not command this desktop.")
    _check_arguments(kind, arguments)
    if not timedelta(0) < ttl <= LONGEST_TTL:
        raise Refused(400, "malformed_command", f"A command waits for at most {LONGEST_TTL}.")
    if not AgentCredential.objects.filter(desktop=desktop, revoked_at=None).exists():
        raise Refused(409, "no_agent", f"{desktop.key} has no enrolled agent.")
    with transaction.atomic():
        command = AgentCommand.objects.create(
            desktop=desktop,
            kind=kind,
            arguments=dict(arguments),
            created_at=at,
            created_by=actor.get_username(),
            expires_at=at + ttl,
        )
        _record_command("command.requested", command, at=at, actor=actor.get_username())
    return command


def _check_arguments(kind: AgentCommand.Kind, arguments: Mapping[str, Any]) -> None:
    known = ARGUMENTS[kind]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise Refused(400, "malformed_command", f"{kind} takes no {', '.join(unknown)}.")
    for name, value in arguments.items():
        if not isinstance(value, str) or not 0 < len(value) <= known[name] or "\0" in value:
            raise Refused(
                400, "malformed_command", f"{name} is a text of up to {known[name]} characters."
            )
    if "message" in known and "message" not in arguments:
        raise Refused(400, "malformed_command", f"{kind} needs a message.")


def deliver_commands(*, credential: AgentCredential, wall: datetime) -> list[dict[str, Any]]:
    """What the agent is to do now, signed, oldest first; what is too late is never given out.

    A command is given out again until its outcome is known: answers get lost. The agent does
    each once.
    """
    waiting = list(
        AgentCommand.objects.filter(
            desktop=credential.desktop, outcome=AgentCommand.Outcome.WAITING
        ).order_by("pk")
    )
    late = [command.pk for command in waiting if command.expires_at <= wall]
    if late:
        AgentCommand.objects.filter(pk__in=late, outcome=AgentCommand.Outcome.WAITING).update(
            outcome=AgentCommand.Outcome.EXPIRED
        )
    due = [command for command in waiting if command.expires_at > wall]
    if any(command.delivered_at is None for command in due):
        AgentCommand.objects.filter(
            pk__in=[command.pk for command in due], delivered_at=None
        ).update(delivered_at=wall)
    key = command_key(credential)
    return [_signed(command, credential, key) for command in due]


def expire_commands(*, wall: datetime) -> int:
    """Those that nobody came for in time, also of agents that never ask again."""
    return AgentCommand.objects.filter(
        outcome=AgentCommand.Outcome.WAITING, expires_at__lte=wall
    ).update(outcome=AgentCommand.Outcome.EXPIRED)


def _signed(command: AgentCommand, credential: AgentCredential, key: bytes) -> dict[str, Any]:
    fields = {
        "id": command.pk,
        "kind": command.kind,
        "arguments": command.arguments,
        "server_id": credential.desktop.server_id,
        "expires_at": int(command.expires_at.timestamp()),
    }
    return {**fields, "signature": signature(fields, key)}


def finish_command(
    *,
    credential: AgentCredential,
    command_id: int,
    outcome: AgentCommand.Outcome,
    detail: str,
    at: datetime,
) -> None:
    """Keep what became of a command; telling it again changes nothing. Raises Refused."""
    given_out = AgentCommand.objects.filter(
        pk=command_id, desktop=credential.desktop, delivered_at__isnull=False
    ).select_related("desktop")
    with transaction.atomic():
        finished = given_out.filter(outcome__in=_UNFINISHED).update(
            outcome=outcome, detail=detail, finished_at=at
        )
        command = given_out.first()
        if command is None:
            raise Refused(404, "unknown_command", "This agent was given no such command.")
        if finished:
            _record_command(f"command.{outcome}", command, at=at)


def _record(
    kind: str, credential: AgentCredential, desktop: Desktop, *, at: datetime, actor: str = ""
) -> None:
    events.record(
        kind=kind,
        subject=credential,
        at=at,
        pool_id=desktop.pool_id,
        actor=actor,
        desktop=desktop.key,
    )


def _record_command(kind: str, command: AgentCommand, *, at: datetime, actor: str = "") -> None:
    """The desktop and what was asked; never the words, which may name somebody."""
    events.record(
        kind=kind,
        subject=command,
        at=at,
        pool_id=command.desktop.pool_id,
        actor=actor,
        desktop=command.desktop.key,
        command=command.kind,
    )
