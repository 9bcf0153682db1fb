from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.db import database_sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.db import transaction
from django.utils import timezone

from desktops.consumers import AUTHORISE_AGAIN, NOT_SIGNED_IN, LiveConsumer
from desktops.events import message_for, record
from desktops.models import Event, Pool
from tests.support.rows import Rows, make_rows

pytestmark = pytest.mark.django_db(transaction=True)


class ImpatientConsumer(LiveConsumer):
    authorised_for_s = 0.05


class Listener(ApplicationCommunicator):
    """A browser's end of the socket. (channels.testing needs Daphne.)"""

    def __init__(self, user: Any, consumer: type[LiveConsumer] = LiveConsumer) -> None:
        super().__init__(consumer.as_asgi(), {"type": "websocket", "user": user})

    async def connect(self) -> None:
        await self.send_input({"type": "websocket.connect"})
        assert (await self.receive_output(5))["type"] == "websocket.accept"

    async def message(self) -> Any:
        return json.loads((await self.receive_output(5))["text"])

    async def closed(self) -> int:
        output = await self.receive_output(5)
        assert output["type"] == "websocket.close"
        return output["code"]

    async def leave(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(5)


@database_sync_to_async
def rows_and_viewer(*roles: str) -> tuple[Rows, Any]:
    rows = make_rows()
    return rows, rows.account("vera", *roles)


@sync_to_async
def happen(pool: Pool | None, kind: str = "test.happened") -> Event:
    with transaction.atomic():
        return record(
            kind=kind,
            subject=pool or Pool.objects.first(),
            at=timezone.now(),
            pool_id=pool.pk if pool else None,
        )


async def test_a_viewer_hears_of_their_pools_and_of_what_concerns_everybody() -> None:
    rows, vera = await rows_and_viewer("viewer")
    other = await database_sync_to_async(make_rows)("other")
    socket = Listener(vera)
    await socket.connect()

    await happen(other.pool)
    mine, common = await happen(rows.pool), await happen(None)

    assert await socket.message() == message_for(mine)
    assert await socket.message() == message_for(common)
    assert await socket.receive_nothing()
    await socket.leave()


async def test_without_a_role_nothing_of_a_pool_is_heard() -> None:
    rows, vera = await rows_and_viewer()
    socket = Listener(vera)
    await socket.connect()
    await happen(rows.pool)
    assert await socket.receive_nothing()
    await socket.leave()


async def test_nobody_listens_without_signing_in() -> None:
    socket = Listener(AnonymousUser())
    await socket.connect()
    assert await socket.closed() == NOT_SIGNED_IN


async def test_a_listener_is_authorised_again_after_a_while() -> None:
    _, vera = await rows_and_viewer("viewer")
    socket = Listener(vera, ImpatientConsumer)
    await socket.connect()
    assert await socket.closed() == AUTHORISE_AGAIN
    await socket.leave()


async def test_what_is_rolled_back_is_not_heard() -> None:
    rows, vera = await rows_and_viewer("viewer")
    socket = Listener(vera)
    await socket.connect()

    @sync_to_async
    def fail() -> None:
        with pytest.raises(RuntimeError), transaction.atomic():
            record(kind="test.undone", subject=rows.pool, at=timezone.now(), pool_id=rows.pool.pk)
            raise RuntimeError("undone")

    await fail()
    assert await socket.receive_nothing()
    await socket.leave()


async def test_a_listener_waits_longer_than_redis_does() -> None:
    """redis-py gives up a read after 5 s unless told otherwise, and so did the listener."""
    rows, vera = await rows_and_viewer("viewer")
    socket = Listener(vera)
    await socket.connect()
    await asyncio.sleep(6)
    event = await happen(rows.pool)
    assert await socket.message() == message_for(event)
    await socket.leave()
