"""What a transition does when clouds, gateways, people and workers do not do as they should."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from desktops.clouds.registry import get_cloud
from desktops.clouds.simulator.journal import doubles, gaps
from desktops.core.cloud import ServerStatus
from desktops.errors import NotPermitted
from desktops.models import Desktop, Event
from migration import recovery
from migration.core.machine import BEFORE_CUTOVER, CUTOVER, State
from migration.errors import MigrationError, NotDecidable, NotPossible
from migration.gateways.registry import get_gateway
from migration.models import Decision, Recommendation, Shadow, Step, Transition
from migration.services.decisions import (
    approve_recommendation,
    cancel_transition,
    confirm_transition,
    reject_recommendation,
    resume_transition,
)
from migration.services.driving import drive_transition
from migration.services.leases import take_lease
from tests.support.fleet import AS_OF, make_fleet
from tests.support.killing import Fate, Point
from tests.support.outcomes import wrong_after
from tests.support.simulator import SimulatorProcess, eventually, two_regions
from tests.support.stage import GB, Stage

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stage(simulated: SimulatorProcess) -> Stage:
    return Stage(make_fleet(simulated), simulated)


def assert_ended(
    stage: Stage, transition: Transition, state: State, *, failure: str | None = None
) -> None:
    wrong = wrong_after(transition, stage.simulated, wanted=state)
    assert not wrong, "; ".join(wrong)
    if failure is not None:
        assert failure in transition.failure


# Clouds.


def test_a_destination_that_does_not_start_is_rolled_back_with_the_session_back(
    stage: Stage,
) -> None:
    stage.simulated.admin.inject_fault("boot_error", region="west")
    transition = stage.workers().drive(stage.begin())
    assert_ended(stage, transition, State.ROLLED_BACK, failure="the destination did not start")
    session = stage.simulated.gateway().session(transition.desktop.key)
    assert session.connected_on is not None
    assert session.connected_on.server_id == transition.source_server_id


def test_a_pass_that_fails_once_is_made_again(stage: Stage) -> None:
    stage.simulated.admin.inject_fault("copy_fails", region="west", value=0.5)
    transition = stage.workers().drive(stage.begin())
    assert_ended(stage, transition, State.DONE)
    passes = transition.steps.filter(command="sync_volume").order_by("number")
    assert [step.outcome for step in passes] == [Step.Outcome.FAILED, Step.Outcome.DONE]


def test_passes_that_fail_again_and_again_end_the_preparation(stage: Stage) -> None:
    stage.simulated.admin.inject_fault("copy_fails", region="west", times=50, value=0.5)
    transition = stage.workers().drive(stage.begin())
    assert_ended(stage, transition, State.FAILED, failure="Syncing: the connection between")
    log = stage.simulated.admin.log(desktop_key=transition.desktop.key)
    assert not gaps(log, desktop_key=transition.desktop.key), "the user noticed nothing"


def test_a_final_copy_that_fails_again_and_again_is_rolled_back(stage: Stage) -> None:
    workers = stage.workers()
    transition = workers.drive_into(stage.begin(), State.FREEZING)
    stage.simulated.admin.inject_fault("copy_fails", region="west", times=50, value=0.5)
    workers.drive(transition)
    assert_ended(stage, transition, State.ROLLED_BACK, failure="Copying: the connection between")


@pytest.mark.parametrize(
    ("quota", "reason"),
    [
        ({"servers": 0}, "the quota of servers in west is used up (0)"),
        ({"vcpus": 1}, "the quota of vCPUs in west leaves no room for desktop.small"),
        ({"volume_bytes": 9 * GB}, "Syncing: Quota exceeded for volume_bytes in west"),
    ],
)
def test_a_quota_that_leaves_no_room_is_said_before_anybody_is_disturbed(
    stage: Stage, quota: dict[str, int], reason: str
) -> None:
    world = two_regions()
    world["regions"][1]["quota"] = quota
    stage.simulated.admin.load_world(world)
    transition = stage.workers().drive(stage.begin())
    assert_ended(stage, transition, State.FAILED, failure=reason)
    log = stage.simulated.admin.log(desktop_key=transition.desktop.key)
    assert not gaps(log, desktop_key=transition.desktop.key)


def test_an_unreachable_region_is_waited_for_and_said_so(stage: Stage) -> None:
    workers = stage.workers()
    transition = workers.drive_into(stage.begin(), State.STARTING)
    stage.simulated.admin.inject_fault("region_unreachable", region="east", value=10**7)
    for _ in range(3):
        lease = take_lease(transition.pk, owner="test", clock=workers.clock)
        assert lease is not None
        workers.take_turn(lease)
        lease.release(due_at=workers.clock())
    transition.refresh_from_db()
    assert transition.state == State.STARTING
    assert transition.waiting_for.startswith("the cloud can be observed again")
    stage.simulated.admin.clear_faults()
    workers.drive(transition)
    assert_ended(stage, transition, State.DONE)


def test_a_cloud_that_was_down_is_found_again(stage: Stage) -> None:
    workers = stage.workers()
    transition = workers.drive_into(stage.begin(), State.COPYING)
    stage.simulated.kill()
    drive_transition(transition.pk, owner="test", clock=workers.clock, sleep=workers.clock.sleep)
    transition.refresh_from_db()
    assert "the cloud can be observed again" in transition.waiting_for
    stage.simulated.start()
    workers.drive(transition)
    assert_ended(stage, transition, State.DONE)


def test_answers_that_are_lost_double_nothing(stage: Stage) -> None:
    for operation in ("create_server", "copy_volume", "stop_server", "point", "delete_server"):
        stage.simulated.admin.inject_fault("lost_answer", operation=operation, times=2)
    transition = stage.workers().drive(stage.begin())
    assert_ended(stage, transition, State.DONE)


def test_a_cloud_without_incremental_passes_is_left_with_one_volume(
    stage: Stage,
) -> None:
    class WithoutIncrements:
        """Every pass makes a new volume, as the OpenStack driver's does."""

        def __init__(self, cloud: Any) -> None:
            self._cloud = cloud

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cloud, name)

        def copy_volume(self, *args: Any, base_volume_id: str | None = None, **kwargs: Any) -> Any:
            return self._cloud.copy_volume(*args, **kwargs)

    workers = stage.workers()
    workers.cloud = WithoutIncrements(workers.cloud)  # type: ignore[assignment]
    moved = stage.begin(confirm_now=False, sync_interval_s=600)
    let_a_sync_fall_due(stage, workers, moved)
    confirm_transition(transition_id=moved.pk, actor=stage.fleet.alice, at=timezone.now())
    workers.drive(moved)
    assert_ended(stage, moved, State.DONE)
    assert moved.sync_passes == 2

    cancelled = stage.begin(confirm_now=False, sync_interval_s=600)
    let_a_sync_fall_due(stage, workers, cancelled)
    stage.cancel(cancelled)
    workers.drive(cancelled)
    assert_ended(stage, cancelled, State.CANCELLED)


def let_a_sync_fall_due(stage: Stage, workers: Any, transition: Transition) -> None:
    workers.drive_into(transition, State.READY)
    workers.clock.sleep(700)
    workers.drive_into(transition, State.SYNCING)
    workers.drive_into(transition, State.READY)


def test_a_pass_that_takes_longer_than_its_interval_does_not_hold_up_the_cutover(
    stage: Stage,
) -> None:
    workers = stage.workers()
    transition = workers.drive_into(stage.begin(sync_interval_s=1), State.SYNCING)
    lease = take_lease(transition.pk, owner="test", clock=workers.clock)
    assert lease is not None
    workers.take_turn(lease)
    workers.clock.sleep(100)
    lease.release(due_at=workers.clock())
    workers.drive(transition)
    assert_ended(stage, transition, State.DONE)
    assert transition.sync_passes == 1


def test_a_destination_that_somebody_used_is_never_left_by_itself(stage: Stage) -> None:
    """They came and went while nobody looked; then the destination was deleted."""
    workers = stage.workers()
    transition = workers.drive_into(stage.begin(), State.RECONNECTING)
    lease = take_lease(transition.pk, owner="test", clock=workers.clock)
    assert lease is not None
    workers.take_turn(lease)  # points the session, and dies
    key, gateway = transition.desktop.key, stage.simulated.gateway()
    session = eventually(lambda: gateway.session(key), lambda seen: seen.is_connected)
    assert session.connected_on is not None
    stage.simulated.admin.set_presence(key, is_present=False)
    cloud = stage.simulated.cloud()
    cloud.delete_server("west", session.connected_on.server_id)
    eventually(lambda: cloud.inventory("west").servers, lambda servers: not servers)

    workers.clock.sleep(30)
    workers.drive(transition)
    assert transition.state == State.NEEDS_OPERATOR
    assert "going back would lose that work" in transition.failure
    source = cloud.server("east", transition.source_server_id)
    assert source.status is ServerStatus.SHUTOFF
    assert source.is_fenced


def test_somebody_who_comes_as_it_goes_back_keeps_what_they_do(stage: Stage) -> None:
    workers, admin = stage.workers(), stage.simulated.admin
    transition = workers.drive_into(stage.begin(), State.RECONNECTING)
    key, gateway = transition.desktop.key, stage.simulated.gateway()
    admin.set_presence(key, is_present=False)
    workers.drive_into(transition, State.VERIFYING)
    stage.cancel(transition)
    workers.drive_into(transition, State.ROLLING_BACK)
    admin.set_presence(key, is_present=True)
    session = eventually(lambda: gateway.session(key), lambda seen: seen.is_connected)
    workers.drive(transition)

    assert transition.state == State.DONE, transition.failure
    desktop = Desktop.objects.get(pk=transition.desktop_id)
    assert session.connected_on is not None
    assert desktop.server_id == session.connected_on.server_id
    eventually(lambda: gateway.session(key), lambda seen: seen.connected_on == session.connected_on)
    assert not doubles(admin.log(desktop_key=key))


def test_what_came_while_no_worker_lived_counts(stage: Stage) -> None:
    workers = stage.workers()
    transition = workers.drive_into(stage.begin(), State.VERIFYING)
    key, gateway = transition.desktop.key, stage.simulated.gateway()
    eventually(lambda: gateway.session(key), lambda seen: seen.is_connected)
    workers.clock.sleep(6 * 3600)
    workers.drive(transition)
    assert_ended(stage, transition, State.DONE)


def test_a_fleet_without_a_gateway_is_moved_too(simulated: SimulatorProcess) -> None:
    stage = Stage(make_fleet(simulated, gateway="none"), simulated)
    workers = stage.workers()
    workers.gateway = none_gateway()
    transition = workers.drive(stage.begin(), Fate(Point("after unfence_server west").__eq__))
    assert_ended(stage, transition, State.DONE)


def none_gateway() -> Any:
    from migration.gateways import none

    return none.connect("none")


# Live migration.


def test_a_live_migration_keeps_the_session(stage: Stage) -> None:
    transition = live(stage)
    host = stage.simulated.cloud().server("east", transition.source_server_id).host
    stage.workers().drive(transition, Fate(Point("after live_migrate east").__eq__))
    assert transition.state == State.DONE, transition.failure
    server = stage.simulated.cloud().server("east", transition.source_server_id)
    assert server.host != host
    assert server.accepts_sessions
    log = stage.simulated.admin.log(desktop_key=transition.desktop.key)
    assert not doubles(log)
    assert not gaps(log, desktop_key=transition.desktop.key)
    assert [entry.kind for entry in log].count("server.migrated") == 1
    session = stage.simulated.gateway().session(transition.desktop.key)
    assert session.is_connected
    assert not session.is_held


def test_a_live_migration_that_fails_leaves_the_server_where_it_was(stage: Stage) -> None:
    stage.simulated.admin.inject_fault("live_migration_fails")
    transition = stage.workers().drive(live(stage))
    assert transition.state == State.FAILED
    assert "the server runs where it was" in transition.failure
    assert transition.steps.get().outcome == Step.Outcome.FAILED
    assert Desktop.objects.get(pk=transition.desktop_id).server_id == transition.source_server_id
    assert stage.simulated.gateway().session(transition.desktop.key).is_connected


def live(stage: Stage) -> Transition:
    return stage.begin(strategy="live", dest_region=stage.fleet.east)


# People.


@pytest.mark.parametrize("state", sorted(BEFORE_CUTOVER | CUTOVER))
def test_it_can_be_cancelled_in_every_state_before_somebody_works_there(
    stage: Stage, state: State
) -> None:
    workers = stage.workers()
    transition = stage.begin()
    stage.simulated.admin.set_presence(transition.desktop.key, is_present=False)
    workers.drive_into(transition, state)
    stage.cancel(transition)
    workers.drive(transition)
    stage.simulated.admin.set_presence(transition.desktop.key, is_present=True)
    is_early = state in BEFORE_CUTOVER
    assert_ended(stage, transition, State.CANCELLED if is_early else State.ROLLED_BACK)
    assert not transition.failure
    shadow = Shadow.objects.filter(desktop=transition.desktop).first()
    assert shadow is None or shadow.state == Shadow.State.RELEASED


def test_it_cannot_be_cancelled_once_committed(stage: Stage) -> None:
    workers = stage.workers()
    transition = workers.drive_into(stage.begin(), State.COMMITTING)
    with pytest.raises(NotPossible):
        stage.cancel(transition)
    workers.drive(transition)
    assert_ended(stage, transition, State.DONE)


def test_without_a_confirmation_it_expires(stage: Stage) -> None:
    workers = stage.workers()
    transition = stage.begin(confirm_now=False, expires_at=AS_OF + timedelta(hours=1))
    workers.drive_into(transition, State.READY)
    workers.clock.sleep(3700)
    workers.drive(transition)
    assert_ended(stage, transition, State.CANCELLED)
    reasons = Event.objects.filter(kind="transition.moved").values_list("payload", flat=True)
    assert "neither approved nor confirmed before it expired" in [p["reason"] for p in reasons]


def test_an_operator_lets_it_go_on_after_what_stopped_it(stage: Stage) -> None:
    stage.simulated.admin.inject_fault("boot_error", region="west")
    stage.simulated.admin.inject_fault("forbidden", operation="start_server", region="east")
    workers = stage.workers()
    transition = workers.drive(stage.begin())
    assert transition.state == State.NEEDS_OPERATOR
    assert transition.interrupted_state == State.ROLLING_BACK
    assert transition.waiting_for == "" or transition.waiting_for == "an operator"
    assert "forbidden" in transition.failure
    workers.drive(transition)
    assert transition.waiting_for == "an operator"

    with pytest.raises(NotPermitted):
        resume_transition(transition_id=transition.pk, actor=stage.fleet.vera, at=workers.clock())
    resume_transition(transition_id=transition.pk, actor=stage.fleet.alice, at=workers.clock())
    workers.drive(transition)
    assert_ended(stage, transition, State.ROLLED_BACK)
    with pytest.raises(NotPossible, match="not waiting for an operator"):
        resume_transition(transition_id=transition.pk, actor=stage.fleet.alice, at=workers.clock())


def test_what_may_not_be_decided_changes_nothing(stage: Stage) -> None:
    fleet = stage.fleet
    desktop = fleet.desktop(stage.simulated)
    recommendation = fleet.recommendation(desktop)
    stranger = make_stranger(fleet)
    untouched = everything_decided()
    for actor in (fleet.vera, stranger):
        for decide in (approve_recommendation, reject_recommendation):
            with pytest.raises(NotPermitted):
                decide(recommendation_id=recommendation.pk, actor=actor, at=timezone.now())
    assert everything_decided() == untouched

    approve_recommendation(
        recommendation_id=recommendation.pk, actor=fleet.alice, at=timezone.now()
    )
    approved = everything_decided()
    transition = Transition.objects.get()
    refused: list[tuple[type[Exception], Callable[[], object]]] = [
        (NotDecidable, lambda: approve_recommendation(
            recommendation_id=recommendation.pk, actor=fleet.alice, at=timezone.now())),
        (NotDecidable, lambda: reject_recommendation(
            recommendation_id=recommendation.pk, actor=fleet.alice, at=timezone.now())),
        *[
            (NotPermitted, lambda act=act, actor=actor: act(
                transition_id=transition.pk, actor=actor, at=timezone.now()))
            for act in (confirm_transition, cancel_transition, resume_transition)
            for actor in (fleet.vera, stranger)
        ],
    ]  # fmt: skip
    for error, act in refused:
        with pytest.raises(error):
            act()
    assert everything_decided() == approved


def test_of_two_who_approve_at_once_one_is_told_so(stage: Stage) -> None:
    desktop = stage.fleet.desktop(stage.simulated)
    recommendation = stage.fleet.recommendation(desktop)
    refusals: list[MigrationError] = []

    def approve() -> None:
        try:
            approve_recommendation(
                recommendation_id=recommendation.pk, actor=stage.fleet.alice, at=timezone.now()
            )
        except MigrationError as refusal:
            refusals.append(refusal)

    at_once(approve, approve, approve)
    assert [type(refusal) for refusal in refusals] == [NotDecidable, NotDecidable]
    assert Transition.objects.count() == Decision.objects.count() == 1


def test_a_desktop_on_the_move_is_not_moved_twice(stage: Stage) -> None:
    transition = stage.begin()
    plan = stage.fleet.plan()
    plan.superseded_at = timezone.now()
    plan.save()
    again = stage.fleet.recommendation(transition.desktop)
    with pytest.raises(NotPossible, match="already being moved"):
        approve_recommendation(
            recommendation_id=again.pk, actor=stage.fleet.alice, at=timezone.now()
        )
    again.refresh_from_db()
    assert again.state == Recommendation.State.AWAITING_APPROVAL


def make_stranger(fleet: Any) -> Any:
    """May approve, in another pool."""
    from django.contrib.auth.models import Group

    from desktops.models import Pool
    from webapp.models import User

    pool = Pool.objects.create(dataset=fleet.dataset, name="other", label="Other")
    user = User.objects.create_user("otto", password="otto-password")
    user.groups.add(Group.objects.get(name="approver"))
    pool.members.add(user)
    return user


def everything_decided() -> list[Any]:
    return [
        *Recommendation.objects.order_by("pk").values_list("state"),
        *Transition.objects.order_by("pk").values_list(
            "state", "confirmed_at", "cancel_requested_at", "lease_token"
        ),
        Decision.objects.count(),
        Event.objects.count(),
    ]


# Workers.

COMMANDS = (
    "copy_volume sync_volume",
    "hold ana-1",
    "stop_server east",
    "fence_server east",
    "copy_volume copy_final",
    "create_server west",
    "unfence_server west",
    "point ana-1",
    "delete_server east",
    "delete_volume east",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_worker_that_was_only_paused_wakes_up_and_does_no_harm(
    stage: Stage, command: str
) -> None:
    """It has recorded that it will send a command; another finishes meanwhile; then it sends."""
    sleeper, other = stage.workers(), stage.workers()
    transition = stage.begin(keeps_source_as_shadow=command != "delete_volume east")

    def sleep_until_another_has_finished() -> None:
        other.clock.sleep(60)
        other.drive(Transition.objects.get(pk=transition.pk))

    fate = Fate(on={Point(f"before {command}"): sleep_until_another_has_finished})
    sleeper.drive(transition, fate)
    assert fate.passed[f"before {command}"] == 1, "it did not notice and went on"
    assert_ended(stage, transition, State.DONE)


def test_two_workers_at_once_have_one_effect(stage: Stage) -> None:
    transition = stage.begin(keeps_source_as_shadow=True)
    clock = stage.workers().clock

    def drive() -> None:
        while Transition.objects.get(pk=transition.pk).state != State.DONE:
            drive_transition(
                transition.pk, owner=threading.current_thread().name, sleep=clock.sleep
            )

    at_once(drive, drive, drive)
    assert_ended(stage, transition, State.DONE)


def test_workers_that_rob_each_other_have_one_effect(stage: Stage, settings: Any) -> None:
    """Leases run out all the time, as when clocks differ or the machine swaps."""
    settings.TRANSITION_LEASE_S = 0
    transition = stage.begin(keeps_source_as_shadow=True)
    clock = stage.workers().clock
    deadline = timezone.now() + timedelta(seconds=60)

    def drive() -> None:
        while Transition.objects.get(pk=transition.pk).state != State.DONE:
            drive_transition(
                transition.pk, owner=threading.current_thread().name, sleep=clock.sleep
            )
            assert timezone.now() < deadline

    at_once(drive, drive)
    assert_ended(stage, transition, State.DONE)


def at_once(*work: Callable[[], None]) -> None:
    """Run in threads of their own; what goes wrong in one is raised here."""
    # Drivers open their connections at the first call, and not in several threads at once.
    get_cloud("simulated").now()
    get_gateway("simulator").session("nobody")
    problems: list[BaseException] = []
    start = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        try:
            start.wait()
            one()
        except BaseException as problem:
            problems.append(problem)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def test_a_sweep_rings_for_what_is_due_and_nobody_drives(stage: Stage) -> None:
    transition = stage.begin()
    now = timezone.now()
    assert recovery.claim_due(now=now) == [transition.pk]
    assert recovery.claim_due(now=now) == [], "not twice at once"
    later = now + recovery.RING_AGAIN
    assert recovery.claim_due(now=later) == [transition.pk], "nobody came"

    clock = stage.workers().clock
    lease = take_lease(transition.pk, owner="test", clock=clock)
    assert lease is not None
    much_later = later + recovery.RING_AGAIN
    assert recovery.claim_due(now=clock() + lease.duration / 2) == [], "somebody drives it"
    assert recovery.claim_due(now=max(much_later, clock() + 2 * lease.duration)) == [
        transition.pk
    ], "whoever drove it is gone"
