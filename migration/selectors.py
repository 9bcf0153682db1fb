"""What a viewer may see of plans, shadows and transitions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING

from django.db.models import (
    Case,
    Count,
    DurationField,
    Exists,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from desktops.models import Dataset, Desktop, Event
from desktops.selectors import datasets_for, pools_for
from migration.core.machine import (
    BEFORE_CUTOVER,
    CUTOVER,
    PATHS,
    TERMINAL,
    State,
    Strategy,
    can_go_back,
)
from migration.models import Pass, Plan, Recommendation, Shadow, ShadowTest, Step, Transition

if TYPE_CHECKING:
    from desktops.selectors import Viewer


LIVE_SHADOW = (Shadow.State.FILLING, Shadow.State.READY)
OPEN_PASSES = (Pass.State.WAITING, Pass.State.RUNNING)


def plans_for(viewer: Viewer) -> QuerySet[Plan]:
    return Plan.objects.filter(dataset__in=datasets_for(viewer)).select_related(
        "dataset", "generation"
    )


def current_plans(viewer: Viewer) -> QuerySet[Plan]:
    """At most one for each data set; that with the most to decide (`awaiting`) first."""
    awaits = Q(
        recommendations__state=Recommendation.State.AWAITING_APPROVAL,
        recommendations__pool__in=pools_for(viewer),
    )
    return (
        plans_for(viewer)
        .filter(superseded_at__isnull=True)
        .annotate(awaiting=Count("recommendations", filter=awaits))
        .order_by("-awaiting", "dataset__name")
    )


def recommendations_for(viewer: Viewer) -> QuerySet[Recommendation]:
    return Recommendation.objects.filter(pool__in=pools_for(viewer)).select_related(
        "plan__dataset",
        "pool",
        "desktop__desktop_user",
        "desktop__flavor",
        "source_region",
        "dest_region",
        "flavor",
        "decision__decided_by",
        "transition",
    )


def shadows_for(viewer: Viewer) -> QuerySet[Shadow]:
    return Shadow.objects.filter(desktop__pool__in=pools_for(viewer)).select_related(
        "desktop", "region"
    )


def listed_shadows(viewer: Viewer, *, now: datetime) -> QuerySet[Shadow]:
    """Shadows with what a list says of each; those that are kept in step first, then the oldest
    state first.

    due_at : when its next pass begins, NULL where none is planned
    sent_24h : bytes on the wire in the last 24 hours
    last_pass_at : end of the newest finished pass; is_passing : whether one is under way
    """
    mine = Pass.objects.filter(shadow=OuterRef("pk")).order_by()
    finished = mine.filter(state=Pass.State.DONE)
    recent = finished.filter(finished_at__gte=now - timedelta(hours=24)).values("shadow")
    step = ExpressionWrapper(
        F("sync_interval_s") * Value(timedelta(seconds=1)), output_field=DurationField()
    )
    is_kept = Q(state__in=LIVE_SHADOW)
    return (
        shadows_for(viewer)
        .select_related("desktop__pool__dataset", "desktop__region")
        .annotate(
            due_at=Case(
                When(
                    Q(state=Shadow.State.READY, paused_at__isnull=True),
                    then=F("recovery_point_at") + step,
                )
            ),
            sent_24h=Subquery(recent.annotate(total=Sum("sent_bytes")).values("total")),
            last_pass_at=Subquery(finished.order_by("-finished_at").values("finished_at")[:1]),
            is_passing=Exists(mine.filter(state__in=OPEN_PASSES)),
            is_kept=Case(When(is_kept, then=Value(True)), default=Value(False)),
        )
        .order_by("-is_kept", F("recovery_point_at").asc(nulls_first=True), "pk")
    )


def passes_of(shadow: Shadow) -> QuerySet[Pass]:
    """The newest first, with the time each took from its moment to its end."""
    return (
        shadow.passes.select_related("source_region", "dest_region", "transition")
        .annotate(took=F("finished_at") - Coalesce("taken_at", "created_at"))
        .order_by("-created_at")
    )


def passes_of_transition(transition: Transition) -> QuerySet[Pass]:
    """In the order they were made."""
    taken = F("finished_at") - Coalesce("taken_at", "created_at")
    return transition.passes.annotate(took=taken).order_by("created_at")


@dataclass(frozen=True, slots=True)
class Readiness:
    """What is known, by measurement, of how soon a desktop could be used from its shadow.

    last_pass : the newest pass that was finished; None before the first
    stall_ms, moves : median of what people felt in the newest moves of the same pool into the same
        region, by the same strategy, and how many there were; None and 0 where there were none
    strategy : of those moves
    """

    last_pass: Pass | None
    stall_ms: int | None
    moves: int
    strategy: str


# So many moves say what the next one will be like; older ones were made by older machinery.
MOVES_TO_JUDGE_BY = 50


def readiness_of(shadow: Shadow) -> Readiness:
    done = Transition.objects.filter(
        pool=shadow.desktop.pool, dest_region=shadow.region, state=State.DONE
    ).order_by("-finished_at")
    newest = list(done[:MOVES_TO_JUDGE_BY])
    strategy = newest[0].strategy if newest else ""
    stalls = sorted(
        row.stall_ms for row in newest if row.strategy == strategy and row.stall_ms is not None
    )
    last = passes_of(shadow).filter(state=Pass.State.DONE).first()
    return Readiness(
        last_pass=last,
        stall_ms=round(median(stalls)) if stalls else None,
        moves=len(stalls),
        strategy=strategy,
    )


def newest_test(shadow: Shadow) -> ShadowTest | None:
    """took : from asking for the server until it ran"""
    return shadow.tests.annotate(took=F("decided_at") - F("ordered_at")).first()


def choices_for_shadow(viewer: Viewer, shadow: Shadow) -> frozenset[str]:
    """What the viewer may ask of a shadow now: of pause, resume, schedule, sync, test, release."""
    if shadow.state not in LIVE_SHADOW or not viewer.has_perm("migration.operate_transition"):
        return frozenset()
    moving = still_running(Transition.objects.filter(desktop=shadow.desktop)).exists()
    is_tested = shadow.tests.filter(cleaned_at=None).exists()
    choices = {
        "pause": shadow.paused_at is None,
        "resume": shadow.paused_at is not None,
        "schedule": True,
        "sync": not moving and not is_tested,
        "test": not moving and not is_tested and shadow.state == Shadow.State.READY,
        "release": not moving,
    }
    return frozenset(name for name, is_open in choices.items() if is_open)


def transitions_for(viewer: Viewer) -> QuerySet[Transition]:
    return Transition.objects.filter(pool__in=pools_for(viewer)).select_related(
        "pool__dataset",
        "desktop__desktop_user",
        "source_region",
        "dest_region",
        "flavor",
        "shadow",
        "recommendation",
    )


def still_running(rows: QuerySet[Transition]) -> QuerySet[Transition]:
    return rows.exclude(state__in=TERMINAL)


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """One currency's share of a plan: what its open moves cost and gain, in micro-units.

    stay_micros, action_micros, gain_micros : sums over the recommendations that advise an action
    """

    currency: str
    stays: int
    actions: int
    awaiting_approval: int
    stay_micros: int
    action_micros: int
    gain_micros: int


def summarise(viewer: Viewer, *, plan: Plan) -> list[PlanSummary]:
    """The part of a plan that the viewer may see, one summary for each currency in it."""
    acts = ~Q(action=Recommendation.Action.STAY)
    rows = (
        Recommendation.objects.filter(plan=plan, pool__in=pools_for(viewer))
        .order_by("currency")
        .values("currency")
        .annotate(
            stays=Count("pk", filter=~acts),
            actions=Count("pk", filter=acts),
            awaiting_approval=Count("pk", filter=Q(state=Recommendation.State.AWAITING_APPROVAL)),
            stay_micros=Sum("stay_cost_micros", filter=acts, default=0),
            action_micros=Sum("action_cost_micros", filter=acts, default=0),
            gain_micros=Sum("gain_micros", filter=acts, default=0),
        )
    )
    return [PlanSummary(**{**row, **_whole(row)}) for row in rows]


def _whole(row: dict[str, object]) -> dict[str, int]:
    """PostgreSQL sums bigints to numeric; sums of whole micro-units are whole."""
    return {name: int(value) for name, value in row.items() if name.endswith("_micros")}  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class Stage:
    """One state on a transition's way.

    entered_at : first entry; None while it lies ahead or when it was skipped
    spent : time in it, summed over visits; None while the transition is in it
    """

    state: State
    entered_at: datetime | None
    spent: timedelta | None
    is_current: bool

    @property
    def is_past(self) -> bool:
        return self.entered_at is not None and not self.is_current


def stages_of(transition: Transition) -> list[Stage]:
    """The way of a transition: as its strategy has it, or as it went when it left that."""
    visits = _visits(transition)
    current = State(transition.state)
    seen = list(dict.fromkeys(state for state, _, _ in visits))
    path = PATHS[Strategy(transition.strategy)]
    order = path if set(seen) <= set(path) else seen
    return [_stage(state, visits, is_current=state is current) for state in order]


Visit = tuple[State, datetime, datetime | None]


def _visits(transition: Transition) -> list[Visit]:
    """(state, entered, left) in the order of the events; the last is not left yet."""
    moves = Event.objects.filter(
        object_type="transition",
        object_id=str(transition.pk),
        kind__in=("transition.moved", "transition.resumed"),
    ).order_by("seq")
    entered = [(State.PLANNED, transition.created_at)]
    for event in moves:
        entered.append((State(event.payload.get("to_state") or event.payload["state"]), event.at))
    lefts = [at for _, at in entered[1:]] + [transition.finished_at]
    return [(state, at, left) for (state, at), left in zip(entered, lefts, strict=True)]


def _stage(state: State, visits: list[Visit], *, is_current: bool) -> Stage:
    own = [(entered, left) for visited, entered, left in visits if visited is state]
    spent = sum((left - entered for entered, left in own if left), timedelta())
    return Stage(
        state=state,
        entered_at=own[0][0] if own else None,
        spent=spent if own and not is_current else None,
        is_current=is_current,
    )


def steps_of(transition: Transition) -> QuerySet[Step]:
    """Its commands in the order they were sent, with the time each took."""
    return transition.steps.order_by("number").annotate(took=F("finished_at") - F("intended_at"))


def open_recommendation(viewer: Viewer, *, desktop: Desktop) -> Recommendation | None:
    """What the current plan says about a desktop."""
    return (
        recommendations_for(viewer)
        .filter(desktop=desktop, plan__superseded_at__isnull=True)
        .first()
    )


def awaiting_approval(viewer: Viewer, *, dataset: Dataset) -> QuerySet[Recommendation]:
    """Open proposals of the current plan, the most gainful first."""
    return (
        recommendations_for(viewer)
        .filter(
            plan__dataset=dataset,
            plan__superseded_at__isnull=True,
            state=Recommendation.State.AWAITING_APPROVAL,
        )
        .order_by(F("gain_micros").desc(), "pk")
    )


def choices_for(viewer: Viewer, transition: Transition) -> frozenset[str]:
    """What the viewer may ask of a transition now: of confirm, cancel and resume."""
    state = State(transition.state)
    may_operate = viewer.has_perm("migration.operate_transition")
    takes_back = BEFORE_CUTOVER | (CUTOVER if can_go_back(Strategy(transition.strategy)) else set())
    choices = {
        "confirm": viewer.has_perm("migration.approve_transition")
        and state in BEFORE_CUTOVER
        and transition.confirmed_at is None,
        "cancel": may_operate and state in takes_back and transition.cancel_requested_at is None,
        "resume": may_operate and state is State.NEEDS_OPERATOR,
    }
    return frozenset(name for name, is_open in choices.items() if is_open)
