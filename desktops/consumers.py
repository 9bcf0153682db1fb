"""The live door: who may listen is decided when the socket opens, then events pass unchanged."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from desktops.events import group_for
from desktops.selectors import pools_for

if TYPE_CHECKING:
    from desktops.selectors import Viewer

# Roles and memberships change. A socket that has been open this long is closed; the browser
# comes back at once, is authorised anew and catches up.
AUTHORISED_FOR_S = 900.0
NOT_SIGNED_IN = 4401
AUTHORISE_AGAIN = 4408


class LiveConsumer(AsyncJsonWebsocketConsumer):
    """Sends every event of the pools its viewer may see: {"seq", "kind", …} (message_for)."""

    authorised_for_s = AUTHORISED_FOR_S

    async def connect(self) -> None:
        self.joined: list[str] = []
        self.expiry: asyncio.Task[None] | None = None
        viewer: Viewer = self.scope["user"]
        if not viewer.is_authenticated:
            # Accepted first: a browser learns the code of a close, but not of a refusal.
            await self.accept()
            await self.close(NOT_SIGNED_IN)
            return
        for pool_id in [None, *await _pool_ids(viewer)]:
            group = group_for(pool_id)
            await self.channel_layer.group_add(group, self.channel_name)
            self.joined.append(group)
        # Only now may the browser catch up: what is committed from here on arrives.
        await self.accept()
        self.expiry = asyncio.create_task(self._expire())

    async def disconnect(self, code: int) -> None:
        if self.expiry is not None:
            self.expiry.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.expiry
        for group in self.joined:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def live_event(self, event: dict[str, Any]) -> None:
        await self.send_json(event["message"])

    async def _expire(self) -> None:
        await asyncio.sleep(self.authorised_for_s)
        await self.close(AUTHORISE_AGAIN)


@database_sync_to_async
def _pool_ids(viewer: Viewer) -> list[int]:
    return list(pools_for(viewer).values_list("pk", flat=True))
