"""A running machine moves between two regions, judged by its own counter, pages and blocks."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from desktops.core.cloud import CloudError, CloudFault, CloudUnavailable, ServerStatus
from desktops.core.hypervisor import VirtualDesktopState
from migration.cutover import (
    CutoverFailed,
    Move,
    carry_on_this_host,
    cut_over,
    finish_on_this_host,
    go_back,
    release_source,
)
from tests.support.carried import Carried, memory_folder
from tests.support.qemu import DEST, SOURCE, Desk, desk, process_of
from tests.support.simulator import eventually
from tests.support.talk import Session

BUSY = "guest.dirty_mbps=8 guest.dirty_mb=64 guest.disk_kbps=400"
State = VirtualDesktopState
# The steps of a cutover that change something, in their order.
STEPS = (
    "receive_server",
    "freeze_server",
    "save_processor_state",
    "fence_server",
    "load_processor_state",
    "thaw_server",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def busy(folder: Path) -> Iterator[Commuter]:
    """A guest that works all the time, and is moved to and fro by the tests."""
    with desk(folder, append=BUSY) as mine:
        yield Commuter(mine, mine.boot().id)


class Commuter:
    """The guest, wherever it is now."""

    def __init__(self, desk: Desk, server_id: str) -> None:
        self.desk = desk
        self.cloud = desk.cloud
        self.region, self.server_id = SOURCE, server_id
        self.moves = 0

    @property
    def elsewhere(self) -> str:
        return DEST if self.region == SOURCE else SOURCE

    def next_move(self) -> Move:
        self.moves += 1
        key = f"move {self.moves}"
        volume = self.desk.volume(self.elsewhere, image=None, key=f"{key}: volume")
        spec = self.desk.spec(volume)
        return Move(self.region, self.server_id, self.elsewhere, spec, key)

    def arrived(self, move: Move, server_id: str) -> None:
        """Released where it was; what is left of it there is a volume, which goes too."""
        (volume_id,) = self.cloud.server(move.source_region, move.server_id).volume_ids
        release_source(self.cloud, move)
        self.cloud.delete_volume(move.source_region, volume_id)
        self.region, self.server_id = move.dest_region, server_id

    def wait_until_sound(self) -> None:
        session = self.desk.session()
        eventually(lambda: session.ask("check"), lambda said: said.startswith("ok"), timeout_s=60)
        session.close()

    def is_alone(self) -> bool:
        """Whether there is this one machine and no other."""
        servers = [s for region in (SOURCE, DEST) for s in self.cloud.inventory(region).servers]
        return [s.id for s in servers] == [self.server_id] and servers[0].accepts_sessions


class Unharmed:
    """Sees to it that a guest goes on as if nothing had been: in this very TCP session, from
    where its counter was, with every page and block as it left them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = session.tick()

    def check(self) -> None:
        after = self._session.tick()
        again = self._session.tick()
        assert after.boot == self._before.boot
        assert self._before.counter < after.counter
        assert again.asked == self._before.asked + 2
        time.sleep(0.1)
        assert self._session.tick().counter > again.counter
        assert self._session.ask("check").startswith("ok")
        self._session.close()


def test_a_machine_goes_on_elsewhere_where_it_was_frozen(busy: Commuter) -> None:
    guest = Unharmed(busy.desk.session())
    feed = busy.desk.feed()
    move = busy.next_move()
    compared = []

    def finish(source: State, dest: State, saved: Callable[[], None]) -> None:
        finish_on_this_host(source, dest, saved)
        compared.append(dest.memory_snapshot.read_bytes() == source.memory_snapshot.read_bytes())
        compared.append(dest.data_volume.read_bytes() == source.data_volume.read_bytes())

    arrival = cut_over(busy.cloud, move, approach=carry_on_this_host, finish=finish)
    source = busy.cloud.server(move.source_region, move.server_id)
    assert source.status is ServerStatus.SUSPENDED
    assert source.is_fenced
    busy.arrived(move, arrival.server_id)
    assert compared == [True, True]
    assert busy.is_alone()
    guest.check()
    feed.close()
    # The guest missed nothing: for it, no time passed.
    assert feed.largest_step() < 20
    assert feed.longest_gap_ms() >= arrival.frozen_ms / 2


def test_a_machine_is_carried_by_passes_over_what_changed(busy: Commuter) -> None:
    guest = Unharmed(busy.desk.session())
    move = busy.next_move()
    indexes = memory_folder("indexes")
    compared = []
    try:
        with Carried(indexes) as carried:

            def finish(source: State, dest: State, saved: Callable[[], None]) -> None:
                carried.finish(source, dest, saved)
                for ours, theirs in zip(files_of(source), files_of(dest), strict=True):
                    compared.append(ours.read_bytes() == theirs.read_bytes())

            arrival = cut_over(busy.cloud, move, approach=carried.approach, finish=finish)
    finally:
        shutil.rmtree(indexes)
    busy.arrived(move, arrival.server_id)
    assert compared == [True, True, True]
    assert carried.carrier is not None
    first, *_, last = (report.changed_bytes for report in carried.carrier.memory)
    assert 0 < last < first / 4, "what is left for the freeze is little"
    assert busy.is_alone()
    guest.check()


def test_a_guest_notices_one_page_that_did_not_travel(busy: Commuter) -> None:
    """Else nothing that these tests ask it would mean much."""
    session = busy.desk.session()
    assert session.ask("pause") == "paused"
    move = busy.next_move()

    def finish(source: State, dest: State, saved: Callable[[], None]) -> None:
        finish_on_this_host(source, dest, saved)
        with dest.memory_snapshot.open("r+b") as memory:
            memory.seek(written_page(memory.read()))
            memory.write(bytes(4096))

    arrival = cut_over(busy.cloud, move, approach=carry_on_this_host, finish=finish)
    busy.arrived(move, arrival.server_id)
    assert session.ask("check") == "bad 1 0"
    assert session.ask("go") == "going"
    session.close()
    # It writes its pages again, this one too, for the tests that follow.
    time.sleep(1)
    busy.wait_until_sound()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_cutover_whose_worker_was_killed_goes_on(
    busy: Commuter, step: str, is_done: bool
) -> None:
    guest = Unharmed(busy.desk.session())
    move = busy.next_move()
    with pytest.raises(Killed):
        cut(dying(busy.cloud, step, Killed(), is_done=is_done), move)
    running = [
        server
        for region in (SOURCE, DEST)
        for server in busy.cloud.inventory(region).servers
        if server.accepts_sessions
    ]
    assert len(running) <= 1
    busy.arrived(move, cut(busy.cloud, move))
    assert busy.is_alone()
    guest.check()


def test_a_thaw_whose_answer_is_lost_is_an_arrival(busy: Commuter) -> None:
    guest = Unharmed(busy.desk.session())
    move = busy.next_move()
    lost = dying(busy.cloud, "thaw_server", CloudUnavailable("no answer"), is_done=True)
    busy.arrived(move, cut(lost, move))
    assert busy.is_alone()
    guest.check()


def test_there_is_no_way_back_from_a_destination_that_runs(busy: Commuter) -> None:
    guest = Unharmed(busy.desk.session())
    move = busy.next_move()
    arrived = cut(busy.cloud, move)
    with pytest.raises(CloudError, match="no way back"):
        go_back(busy.cloud, move)
    busy.arrived(move, arrived)
    assert busy.is_alone()
    guest.check()


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS[1:-1])
def test_a_cutover_that_fails_leaves_the_machine_where_it_was(
    busy: Commuter, step: str, is_done: bool
) -> None:
    guest = Unharmed(busy.desk.session())
    move = busy.next_move()
    with pytest.raises(CutoverFailed, match="struck by lightning"):
        cut(dying(busy.cloud, step, CloudFault("struck by lightning"), is_done=is_done), move)
    assert busy.is_alone()
    guest.check()
    assert move.spec.boot_volume_id is not None
    busy.cloud.delete_volume(move.dest_region, move.spec.boot_volume_id)


def test_a_destination_that_dies_with_the_state_leaves_the_machine_where_it_was(
    busy: Commuter, folder: Path
) -> None:
    guest = Unharmed(busy.desk.session())
    move = busy.next_move()

    def finish(source: State, dest: State, saved: Callable[[], None]) -> None:
        finish_on_this_host(source, dest, saved)
        dead = busy.cloud.find_server(move.dest_region, key=move.key)
        assert dead is not None
        os.kill(process_of(folder / move.dest_region, dead.id), signal.SIGKILL)

    with pytest.raises(CutoverFailed):
        cut_over(busy.cloud, move, approach=carry_on_this_host, finish=finish)
    assert busy.is_alone()
    guest.check()
    assert move.spec.boot_volume_id is not None
    busy.cloud.delete_volume(move.dest_region, move.spec.boot_volume_id)


def test_a_source_is_not_released_before_its_destination_runs(busy: Commuter) -> None:
    move = replace(busy.next_move(), key="a move that was never made")
    with pytest.raises(CloudError, match="the source is kept"):
        release_source(busy.cloud, move)
    assert busy.is_alone()


def test_a_state_that_was_put_aside_is_gone_on_from_later(busy: Commuter, tmp_path: Path) -> None:
    cloud, session = busy.cloud, busy.desk.session()
    live = cloud.desktop_state(busy.region, busy.server_id)
    kept = VirtualDesktopState(
        live.definition, tmp_path / "memory", tmp_path / "processors", tmp_path / "disk"
    )
    cloud.freeze_server(busy.region, busy.server_id)
    cloud.save_processor_state(busy.region, busy.server_id)
    kept.memory_snapshot.write_bytes(live.memory_snapshot.read_bytes())
    kept.processor_state.write_bytes(live.processor_state.read_bytes())
    kept.data_volume.write_bytes(live.data_volume.read_bytes())
    cloud.thaw_server(busy.region, busy.server_id)
    first = session.tick()
    assert session.ask("check").startswith("ok")
    session.close()

    # It worked on; now it goes back to that moment, as another server.
    (volume_id,) = cloud.server(busy.region, busy.server_id).volume_ids
    cloud.delete_server(busy.region, busy.server_id)
    cloud.delete_volume(busy.region, volume_id)
    spec = busy.desk.spec(busy.desk.volume(busy.region, image=None, key="again: volume"))
    again = cloud.receive_server(busy.region, spec, kept.definition, key="again")
    carry_on_this_host(kept, cloud.desktop_state(busy.region, again.id))
    cloud.load_processor_state(busy.region, again.id)
    cloud.thaw_server(busy.region, again.id)
    busy.server_id = again.id
    session = busy.desk.session()
    second = session.tick()
    assert second.boot == first.boot
    assert second.counter < first.counter + 500
    assert session.ask("check").startswith("ok")
    session.close()
    assert busy.is_alone()


def written_page(memory: bytes) -> int:
    """Where in its memory a page of the guest's area lies, as `fill` in guest.c writes it."""
    (found, *_) = (
        offset
        for offset in range(0, len(memory), 4096)
        if memory[offset + 4 : offset + 8] == memory[offset + 20 : offset + 24] == b"ksed"
    )
    return found


def files_of(state: VirtualDesktopState) -> tuple[Path, Path, Path]:
    return state.memory_snapshot, state.processor_state, state.data_volume


class Killed(BaseException):
    """What nobody catches: as if the process had ended here."""


def cut(cloud: Any, move: Move) -> str:
    arrival = cut_over(cloud, move, approach=carry_on_this_host, finish=finish_on_this_host)
    return arrival.server_id


def dying(cloud: Any, step: str, error: BaseException, *, is_done: bool) -> Any:
    """The cloud, for somebody who ends just before or after the first time of one step."""
    struck = threading.Event()

    class Dying:
        def __getattr__(self, name: str) -> Any:
            method: Callable[..., Any] = getattr(cloud, name)
            if name != step:
                return method

            def call(*args: Any, **kwargs: Any) -> Any:
                if struck.is_set():
                    return method(*args, **kwargs)
                struck.set()
                if is_done:
                    method(*args, **kwargs)
                raise error

            return call

    return Dying()
