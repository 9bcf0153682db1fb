"""Whether a transition left the world as it should: what is wrong, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from desktops.clouds.simulator.admin import VolumeContent
from desktops.clouds.simulator.journal import Entry, doubles, gaps
from desktops.core.cloud import Inventory
from desktops.models import Desktop, Event
from migration.core.machine import PATHS, State, Strategy
from migration.models import Shadow, Step, Transition
from migration.services.observing import PASSES
from tests.support.simulator import SimulatorProcess, eventually


def wrong_after(
    transition: Transition,
    simulated: SimulatorProcess,
    *,
    wanted: State = State.DONE,
    left_behind: VolumeContent | None = None,
) -> list[str]:
    """Everything that is not as it should be once `transition` has ended.

    left_behind : what the source held at the end, where its volume is not there any more
    """
    transition.refresh_from_db()
    if transition.state != wanted:
        why = transition.failure or transition.trouble or transition.waiting_for
        return [f"it is {transition.state}, not {wanted}: {why}"]
    desktop = Desktop.objects.select_related("region").get(pk=transition.desktop_id)
    log = simulated.admin.log(desktop_key=desktop.key)
    wrong = [f"two copies accepted sessions: {entry}" for entry in doubles(log)]
    wrong += _wrong_steps(transition)
    if wanted is State.DONE:
        wrong += _wrong_path(transition)
        wrong += _wrong_when_moved(transition, desktop, simulated, log)
        wrong += _wrong_content(transition, desktop, simulated, left_behind)
    else:
        wrong += _wrong_when_home(transition, desktop, simulated)
    wrong += _wrong_session(desktop, simulated)
    # Going back from a destination that was open already is a second one.
    wrong += _wrong_gaps(desktop, log, allowed=(1,) if wanted is State.DONE else (0, 1, 2))
    return wrong


def _wrong_steps(transition: Transition) -> Iterator[str]:
    steps = list(transition.steps.order_by("number"))
    if [step.number for step in steps] != list(range(1, len(steps) + 1)):
        yield f"steps are numbered {[step.number for step in steps]}"
    for key, times in Counter(step.key for step in steps).items():
        if times > 1:
            yield f"{key} is {times} steps"
    for step in steps:
        may_fail = transition.state != State.DONE or step.command in PASSES
        allowed = {Step.Outcome.DONE, Step.Outcome.FAILED} if may_fail else {Step.Outcome.DONE}
        if step.outcome not in allowed:
            yield f"{step.command} is left {step.outcome}: {step.detail}"


def _wrong_path(transition: Transition) -> Iterator[str]:
    path = [state.value for state in PATHS[Strategy(transition.strategy)]]
    entered = [
        event.payload["to_state"]
        for event in Event.objects.filter(
            kind="transition.moved", object_id=str(transition.pk)
        ).order_by("seq")
    ]
    again = [State.SYNCING.value, State.READY.value]
    while entered[3:5] == again:  # once for each time that a sync fell due
        del entered[3:5]
    if entered != path[1:]:
        yield f"its way was {entered}"


def _wrong_when_moved(
    transition: Transition, desktop: Desktop, simulated: SimulatorProcess, log: list[Entry]
) -> Iterator[str]:
    east, west = _inventories(transition, simulated)
    if desktop.region != transition.dest_region or desktop.server_id == "":
        yield f"the desktop is {desktop.server_id!r} in {desktop.region}"
    servers = [server for server in west.servers if server.name == desktop.key]
    if [server.id for server in servers] != [desktop.server_id]:
        yield f"servers at the destination: {servers}"
    elif not servers[0].accepts_sessions or servers[0].volume_ids != (desktop.volume_id,):
        yield f"the destination is {servers[0]}"
    volumes = [volume.id for volume in west.volumes if volume.name == desktop.key]
    if volumes != [desktop.volume_id]:
        yield f"volumes at the destination: {volumes}, the desktop's is {desktop.volume_id}"
    if left := [server.id for server in east.servers if server.name == desktop.key]:
        yield f"servers left at the source: {left}"
    kept = [transition.source_volume_id] if transition.keeps_source_as_shadow else []
    left = [volume.id for volume in east.volumes if volume.name == desktop.key]
    if left != kept:
        yield f"volumes left at the source: {left}"
    yield from _doubled(log)
    shadows = Shadow.objects.filter(desktop=desktop, state__in=("filling", "ready")).count()
    if shadows != len(kept):
        yield f"{shadows} shadows are there"


def _doubled(log: Iterable[Entry]) -> Iterator[str]:
    """What may take effect only once. The adopted server was built once, too."""
    times = Counter(entry.kind for entry in log)
    once = {"server.stopping": 1, "server.deleting": 1, "server.building": 2, "server.fenced": 1}
    for kind, wanted in once.items():
        if times[kind] != wanted:
            yield f"{kind} {times[kind]} times"


def _wrong_content(
    transition: Transition,
    desktop: Desktop,
    simulated: SimulatorProcess,
    left_behind: VolumeContent | None,
) -> Iterator[str]:
    if transition.keeps_source_as_shadow:
        left_behind = simulated.admin.content(
            transition.source_region.name, transition.source_volume_id
        )
    if left_behind is None:
        return
    now = simulated.admin.content(desktop.region.name, desktop.volume_id)
    if not now.descends_from(left_behind.version):
        yield "the destination lacks what was on the source"


def _wrong_when_home(
    transition: Transition, desktop: Desktop, simulated: SimulatorProcess
) -> Iterator[str]:
    east, west = _inventories(transition, simulated)
    if desktop.region != transition.source_region or desktop.server_id not in {
        server.id for server in east.servers if server.accepts_sessions
    }:
        yield f"the desktop does not run at home: {desktop.server_id} in {desktop.region}"
    if desktop.volume_id not in {volume.id for volume in east.volumes}:
        yield "the desktop's volume is gone"
    if left := [server.id for server in west.servers if server.name == desktop.key]:
        yield f"servers left at the destination: {left}"
    left = [volume.id for volume in west.volumes if volume.name == desktop.key]
    kept = set(
        Shadow.objects.filter(desktop=desktop, state="ready").values_list("volume_id", flat=True)
    )
    if set(left) != kept:
        yield f"volumes left at the destination: {left}"


def _wrong_session(desktop: Desktop, simulated: SimulatorProcess) -> Iterator[str]:
    if desktop.pool.gateway == "none":
        return
    gateway = simulated.gateway()
    seen = gateway.session(desktop.key)
    if seen.is_held or seen.points_to is None or seen.points_to.server_id != desktop.server_id:
        yield f"the session is led elsewhere: {seen}"
        return
    if seen.last_connected_on is not None:  # there is somebody, who comes back
        eventually(lambda: gateway.session(desktop.key), lambda session: session.is_connected)


def _wrong_gaps(desktop: Desktop, log: list[Entry], *, allowed: tuple[int, ...]) -> Iterator[str]:
    found = gaps(log, desktop_key=desktop.key)
    if len(found) not in allowed:
        yield f"{len(found)} times without a copy that accepts sessions: {found}"
    for gap in found:
        if gap.until is None:
            yield f"no copy accepts sessions since {gap.since}"
        if not gap.was_held and desktop.pool.gateway != "none":
            yield f"somebody was thrown off without being held first: {gap}"


def _inventories(
    transition: Transition, simulated: SimulatorProcess
) -> tuple[Inventory, Inventory]:
    """Of both regions, once what is being deleted is gone."""
    cloud = simulated.cloud()

    def seen() -> tuple[Inventory, Inventory]:
        return (
            cloud.inventory(transition.source_region.name),
            cloud.inventory(transition.dest_region.name),
        )

    def is_quiet(inventories: tuple[Inventory, Inventory]) -> bool:
        return not any(
            volume.status == "busy" or volume.status == "creating"
            for inventory in inventories
            for volume in inventory.volumes
        )

    return eventually(seen, is_quiet)
