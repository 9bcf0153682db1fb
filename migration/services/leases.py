"""Who may drive a transition, and how it is written to.

Every write goes through `Lease.write`, a conditional UPDATE on the token the lease was given. A
worker that was paused while another took over finds no row, stops, and has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Case, F, Q, Value, When

from migration.core.machine import TERMINAL
from migration.errors import LeaseLost
from migration.models import Transition

Clock = Callable[[], datetime]

# More than one worker ever sends to a gateway under one lease.
TOKENS_PER_LEASE = 1_000_000


@dataclass(frozen=True, slots=True)
class Lease:
    transition_id: int
    token: int
    duration: timedelta
    clock: Clock
    found_due_at: datetime
    _sent: Iterator[int] = field(default_factory=count, repr=False, compare=False)

    def next_fencing_token(self) -> int:
        """For one command to a gateway: it rises with every command, and with every lease."""
        return self.token * TOKENS_PER_LEASE + next(self._sent)

    @contextmanager
    def writing(self, **changes: Any) -> Iterator[Transition]:
        """One transaction that holds the row, renews the lease and applies `changes`.

        Raises LeaseLost when the row is no longer this lease's; nothing is written then.
        """
        with transaction.atomic():
            held = Transition.objects.filter(pk=self.transition_id, lease_token=self.token)
            renewed = self.clock() + self.duration
            if not held.update(**{"lease_until": renewed, **changes}):
                raise LeaseLost(f"transition {self.transition_id}: lease {self.token} was lost")
            yield Transition.objects.select_related("pool", "desktop", "shadow").get(
                pk=self.transition_id
            )

    def write(self, **changes: Any) -> None:
        with self.writing(**changes):
            pass

    def release(self, *, due_at: datetime) -> None:
        """Give the row back; losing the race here is normal and changes nothing.

        Somebody who confirmed or cancelled meanwhile has set `due_at`, and the bell they rang
        was not heard while the lease was held: theirs stays.
        """
        untouched = When(due_at=self.found_due_at, then=Value(due_at))
        Transition.objects.filter(pk=self.transition_id, lease_token=self.token).update(
            lease_until=None, lease_owner="", due_at=Case(untouched, default=F("due_at"))
        )


def take_lease(transition_id: int, *, owner: str, clock: Clock) -> Lease | None:
    """The right to drive a transition, or None while another holds it or it has ended.

    With it the transition is due at once, so that it is found as soon as the lease runs out.
    """
    now = clock()
    duration = timedelta(seconds=settings.TRANSITION_LEASE_S)
    taken = (
        Transition.objects.filter(Q(lease_until__isnull=True) | Q(lease_until__lt=now))
        .filter(pk=transition_id)
        .exclude(state__in=TERMINAL)
        .update(
            lease_owner=owner,
            lease_until=now + duration,
            lease_token=F("lease_token") + 1,
            due_at=now,
        )
    )
    if not taken:
        return None
    row = Transition.objects.only("lease_token", "lease_owner", "due_at").get(pk=transition_id)
    if row.lease_owner != owner:
        return None
    return Lease(transition_id, row.lease_token, duration, clock, row.due_at)
