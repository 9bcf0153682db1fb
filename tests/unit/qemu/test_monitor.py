"""The monitor of a process that ends while it is asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from desktops.clouds.qemu.monitor import SOCKET, Monitor, NotRunning, statuses

GREETING = {"QMP": {"version": {"qemu": {"major": 9}}, "capabilities": []}}


@contextmanager
def dying_process(folder: Path, *, answers: int) -> Iterator[None]:
    """Listens as a process does, and is gone after its greeting and so many answers."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(GREETING).encode() + b"\n")
        for _ in range(answers):
            await reader.read(1 << 16)
            writer.write(b'{"return": {}}\n')
        writer.close()

    async def listen() -> None:
        async with await asyncio.start_unix_server(greet, folder / SOCKET):
            listening.set()
            await asyncio.to_thread(leaving.wait)

    listening, leaving = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    try:
        assert listening.wait(10)
        yield
    finally:
        leaving.set()
        thread.join()


@pytest.mark.parametrize("answers", [0, 1])
def test_a_process_that_ends_while_it_is_greeted_is_not_running(
    tmp_path: Path, answers: int
) -> None:
    with dying_process(tmp_path, answers=answers):
        for _ in range(20):
            (said,) = statuses([tmp_path], timeout_s=5)
            assert isinstance(said, NotRunning)
        with pytest.raises(NotRunning), Monitor(tmp_path, timeout_s=5):
            pass
