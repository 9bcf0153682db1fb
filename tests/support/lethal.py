"""A worker that kills itself where it is told to: what its cloud and gateway drivers consult.

An order is an empty file in the folder LETHAL_ORDERS, named `<state> <what>`: the state of the
transition under way, and a point as `tests.support.killing` has it, such as
"starting after create_server west". It is carried out once, with SIGKILL to the worker's whole
process group: nothing is flushed, answered, released or rolled back by the worker itself.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from migration.core.machine import TERMINAL

FOLDER_VARIABLE = "LETHAL_ORDERS"


class Orders:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def give(self, order: str) -> None:
        (self.folder / order).touch()

    def standing(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())

    def withdraw(self) -> None:
        for file in self.folder.iterdir():
            file.unlink()


class Executioner:
    """In the worker; there is one transition under way at a time."""

    def __init__(self) -> None:
        self.folder = Path(os.environ[FOLDER_VARIABLE])

    def passes(self, what: str) -> None:
        from migration.models import Transition  # the drivers are loaded before the models

        if not any(self.folder.iterdir()):
            return
        for state in Transition.objects.exclude(state__in=TERMINAL).values_list("state", flat=True):
            order = self.folder / f"{state} {what}"
            if order.exists():
                order.unlink()
                os.killpg(0, signal.SIGKILL)
