"""QEMU's monitor: commands to one process, over the QMP socket in its folder.

Sessions are short. A monitor serves one client at a time; another one waits for its turn.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.protocol import ConnectError
from qemu.qmp.qmp_client import ExecuteError

from desktops.clouds.qemu.presence import is_alive
from desktops.core.cloud import CloudError, CloudFault, CloudUnavailable

SOCKET = "qmp.sock"
POLL_S = 0.002


class NotRunning(CloudUnavailable):
    """Nobody listens: the process is not there, or not yet or no longer."""


class Monitor:
    """A session with the process whose folder this is."""

    def __init__(self, folder: Path, *, timeout_s: float) -> None:
        self._folder = folder
        self._timeout_s = timeout_s
        self._client = QMPClient(folder.name)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Monitor:
        try:
            self._connect()
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._runner.run(_disconnect(self._client))
        finally:
            self._runner.close()

    def _connect(self) -> None:
        """A process that is there listens before long, though its worker may have died."""
        until = time.monotonic() + self._timeout_s
        while True:
            try:
                self._wait(_connect(self._client, self._folder))
                return
            except NotRunning:
                if not is_alive(self._folder) or time.monotonic() > until:
                    raise
            time.sleep(POLL_S)

    def ask(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        return self._wait(_execute(self._client, command, arguments))

    def status(self) -> str:
        return str(self.ask("query-status")["status"])

    def wait_for(self, command: str, is_wanted: Callable[[Any], bool], *, timeout_s: float) -> Any:
        """What the command says once it is wanted."""
        until = time.monotonic() + timeout_s
        while not is_wanted(said := self.ask(command)):
            if time.monotonic() > until:
                raise CloudUnavailable(f"{self._folder.name}: {command} still says {said}.")
            time.sleep(POLL_S)
        return said

    def _wait(self, doing: Any) -> Any:
        return self._runner.run(_in_time(doing, self._folder, self._timeout_s))


def statuses(folders: Iterable[Path], *, timeout_s: float) -> list[str | CloudError]:
    """The status of many processes, asked at the same time; an error where there is none."""

    async def status(folder: Path) -> str | CloudError:
        client = QMPClient(folder.name)

        async def ask() -> str:
            await _connect(client, folder)
            return str((await _execute(client, "query-status", None))["status"])

        try:
            return str(await _in_time(ask(), folder, timeout_s))
        except CloudError as error:
            return error
        finally:
            await _disconnect(client)

    async def gathered() -> list[str | CloudError]:
        return await asyncio.gather(*map(status, folders))

    with asyncio.Runner() as runner:
        return runner.run(gathered())


async def _in_time(doing: Any, folder: Path, timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await doing
    except TimeoutError:
        raise CloudUnavailable(
            f"The monitor of {folder.name} was silent for {timeout_s:g} s."
        ) from None


async def _connect(client: QMPClient, folder: Path) -> None:
    with _short(folder) as path:
        try:
            await client.connect(path)
        except (ConnectError, EOFError, OSError) as error:
            raise NotRunning(f"No monitor of {folder.name}: {error}") from error
        except AssertionError as error:
            # What the library says of a process that ends as it is being greeted.
            await _disconnect(client)
            raise NotRunning(f"The monitor of {folder.name} was gone at its greeting.") from error


async def _execute(client: QMPClient, command: str, arguments: Mapping[str, Any] | None) -> Any:
    try:
        return await client.execute(command, dict(arguments or {}))
    except ExecuteError as error:
        raise CloudFault(f"{client.name}: {command}: {error}") from error
    except QMPError as error:
        raise NotRunning(f"The monitor of {client.name} was gone at {command}: {error}") from error


async def _disconnect(client: QMPClient) -> None:
    try:
        await client.disconnect()
    except (QMPError, EOFError, OSError):
        return  # it ended first


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path to the socket that fits into its address, however long the folder's is."""
    try:
        handle = os.open(folder, os.O_PATH)
    except FileNotFoundError:
        raise NotRunning(f"{folder} is gone.") from None
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)
