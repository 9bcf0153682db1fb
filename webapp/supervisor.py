"""Keeps a set of child processes running, and stops all of them in order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from webapp.child import Child, stop_together

POLL_S = 0.1
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
# A child that ran this long before it died starts again without a penalty.
STEADY_S = 60.0


class Watched:
    """A child, and when to start it again after it died."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.delay_s = FIRST_DELAY_S
        self.started_at = 0.0
        self.due_at: float | None = None

    def start(self, now: float) -> None:
        self.child.start()
        self.started_at = now
        self.due_at = None

    def plan_restart(self, now: float) -> float:
        """Note when to start it again; returns the seconds until then."""
        if now - self.started_at >= STEADY_S:
            self.delay_s = FIRST_DELAY_S
        delay_s = self.delay_s
        self.due_at = now + delay_s
        self.delay_s = min(2 * delay_s, LONGEST_DELAY_S)
        return delay_s


class Supervisor:
    """Children in stages: a later stage needs the earlier ones, and is stopped before them."""

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._stages: list[list[Watched]] = []

    def start(self, *children: Child) -> None:
        """Start a stage."""
        stage: list[Watched] = []
        self._stages.append(stage)
        for child in children:
            watched = Watched(child)
            watched.start(self._clock())
            stage.append(watched)

    def look(self) -> None:
        """See which children died, and start those again whose time has come."""
        now = self._clock()
        for watched in (watched for stage in self._stages for watched in stage):
            if watched.due_at is not None:
                if now >= watched.due_at:
                    watched.start(now)
            elif not watched.child.is_running():
                ending = describe_status(watched.child.reap())
                delay_s = watched.plan_restart(now)
                log = f" (see {watched.child.log})" if watched.child.log else ""
                self._say(
                    f"{watched.child.name} {ending}; starting it again in {delay_s:.0f} s{log}"
                )

    def watch(self, until: Callable[[], bool]) -> None:
        """Keep all children running until `until()` is true."""
        while not until():
            self.look()
            self._sleep(POLL_S)

    def stop(self) -> None:
        """Stop every stage, the last one first."""
        while self._stages:
            stop_together(watched.child for watched in self._stages[-1])
            self._stages.pop()


def describe_status(status: int) -> str:
    """What an exit status says, as the end of a sentence."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"
