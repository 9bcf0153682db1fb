"""Making a data set's plan, and replacing the one before it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime

import numpy as np
from celery import current_app
from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.db.models import F

from desktops import events
from desktops.clouds.registry import get_cloud
from desktops.core.cloud import Cloud, CloudError
from desktops.errors import NotPermitted
from desktops.models import Dataset, Desktop, Pool, Site
from desktops.selectors import datasets_for
from forecasting.selectors import latest_generation
from forecasting.services.places import UNKNOWN_SITE, sample_paths
from migration.core.advice import Action, Advice, SourceAfter
from migration.core.inputs import PlanInputError
from migration.core.planner import plan_fleet
from migration.errors import MigrationError, NotPossible
from migration.models import Plan, Recommendation
from migration.plan_input import PlanInput, read_plan_input
from migration.services.decisions import OPERATE, approve_by_policy

log = logging.getLogger(__name__)

PLANNING = "migration.tasks.plan_dataset"
PATHS_PER_PERSON = 48


def request_plan(*, dataset_id: int, actor: AbstractUser, at: datetime) -> None:
    """Ask for a new plan; a worker makes it. Raises NotPermitted."""
    dataset = datasets_for(actor).filter(pk=dataset_id).first()
    if dataset is None or not actor.has_perm(OPERATE):
        raise NotPermitted("Only an operator of this data set may ask for a plan.")
    with transaction.atomic():
        for pool in dataset.pools.all():
            events.record(
                kind="plan.requested",
                subject=dataset,
                at=at,
                pool_id=pool.pk,
                actor=actor.get_username(),
                dataset=dataset.name,
            )
        transaction.on_commit(
            lambda: current_app.send_task(PLANNING, args=[dataset_id]), robust=True
        )


def make_plan(
    *, dataset_id: int, wall: datetime, clouds: Callable[[str], Cloud] = get_cloud
) -> Plan:
    """Plan from the newest complete forecast, and supersede what was advised before.

    What was approved goes on; a desktop on the move gets no new advice until it has arrived.
    Raises NotPossible when something that planning needs is missing, CloudError when quota
    cannot be read; either is recorded too, for those who wait for the plan.
    """
    dataset = Dataset.objects.get(pk=dataset_id)
    try:
        plan = _make_plan(dataset, wall=wall, clouds=clouds)
    except (MigrationError, CloudError) as error:
        _report_failure(dataset, str(error), at=wall)
        raise
    _approve_automatic(plan, at=wall)
    return plan


def _make_plan(dataset: Dataset, *, wall: datetime, clouds: Callable[[str], Cloud]) -> Plan:
    generation = latest_generation(dataset)
    if generation is None:
        raise NotPossible(f"{dataset} has no complete forecast to plan from.")

    def paths(desktops: Sequence[Desktop], sites: Sequence[Site]) -> np.ndarray:
        people = [d.desktop_user_id or 0 for d in desktops]
        codes = [s.code for s in sites]
        drawn = sample_paths(
            dataset,
            people,
            codes,
            at=generation.as_of,
            known_at=wall,
            n=PATHS_PER_PERSON,
            seed=generation.pk,
        )
        opted_out = [d.desktop_user is not None and not d.desktop_user.is_located for d in desktops]
        drawn[np.array(opted_out, dtype=bool)] = UNKNOWN_SITE
        return drawn

    given = read_plan_input(dataset, generation, wall=wall, clouds=clouds, sample_paths=paths)
    try:
        advice = plan_fleet(
            given.fleet,
            tables=given.tables,
            policies=given.policies,
            now=dataset.clock(wall=wall),
            currency=given.currency,
        )
    except PlanInputError as error:
        raise NotPossible(f"{dataset} cannot be planned: {error}.") from error
    with transaction.atomic():
        # Of two plans made at once the later one stays, and neither fails.
        Dataset.objects.select_for_update().get(pk=dataset.pk)
        _supersede(dataset, at=wall)
        still_theirs = _still_theirs(given.desktops)
        plan = Plan.objects.create(
            dataset=dataset, generation=generation, as_of=generation.as_of, made_at=wall
        )
        Recommendation.objects.bulk_create(
            [
                _recommendation(plan, given, one)
                for one in advice
                if given.desktops[one.desktop].pk in still_theirs
            ],
            batch_size=1000,
        )
        _report(plan, given.pools, at=wall)
    return plan


def _still_theirs(desktops: Sequence[Desktop]) -> set[int]:
    """Whose person is still the one that was planned for: others were erased, or opted out."""
    owners = dict(
        Desktop.objects.filter(desktop_user__is_predicted=True).values_list("pk", "desktop_user_id")
    )
    return {d.pk for d in desktops if owners.get(d.pk) == d.desktop_user_id}


def _supersede(dataset: Dataset, *, at: datetime) -> None:
    old = Plan.objects.select_for_update().filter(dataset=dataset, superseded_at__isnull=True)
    Recommendation.objects.filter(
        plan__in=old, state=Recommendation.State.AWAITING_APPROVAL
    ).update(state=Recommendation.State.SUPERSEDED)
    old.update(superseded_at=at)


def _recommendation(plan: Plan, given: PlanInput, advice: Advice) -> Recommendation:
    desktop = given.desktops[advice.desktop]
    is_move = advice.action is Action.PREPARE
    pool = given.pools[int(given.fleet.pool[advice.desktop])]
    is_to_decide = is_move and pool.cutover_mode != Pool.CutoverMode.OFF
    state = Recommendation.State
    return Recommendation(
        plan=plan,
        pool=pool,
        desktop=desktop,
        action=advice.action.value,
        state=state.AWAITING_APPROVAL if is_to_decide else state.ADVISED,
        strategy=advice.strategy or "",
        shadow_tier=advice.tier.value if advice.tier else "",
        source_region=given.regions[advice.source_region],
        dest_region=given.regions[advice.target_region] if is_move else None,
        flavor=given.flavors[advice.target_flavor],
        keeps_source_as_shadow=advice.source_after is SourceAfter.SHADOW,
        currency=pool.currency,
        stay_cost_micros=advice.stay_cost,
        action_cost_micros=advice.action_cost,
        gain_micros=advice.gain,
        items=[asdict(item) for item in advice.action_items],
        confidence=advice.confidence,
        reason=advice.reason,
        confirm_terms=asdict(advice.confirm_terms) if advice.confirm_terms else None,
        stall_ms=advice.expected_stall_ms or 0,
        sync_interval_s=advice.sync_interval_s,
        prepare_by=advice.prepare_by,
        cutover_from=advice.cutover_start,
        cutover_until=advice.cutover_end,
        expires_at=advice.expires_at,
    )


def _approve_automatic(plan: Plan, *, at: datetime) -> None:
    """Pools in automatic mode decide by their policy; the cutover still waits for confirmation.

    One at a time, each in its own transaction: events are written under a lock that workers with
    frozen users wait for, and a desktop that somebody has begun to move is no reason to stop.
    """
    automatic = plan.recommendations.filter(
        pool__cutover_mode=Pool.CutoverMode.AUTO,
        state=Recommendation.State.AWAITING_APPROVAL,
        confidence__gte=F("pool__confidence_threshold"),
    ).select_related("plan__dataset", "desktop", "pool", "dest_region")
    for recommendation in automatic:
        try:
            approve_by_policy(recommendation, at=at)
        except MigrationError as error:
            log.info("recommendation %s not approved: %s", recommendation.pk, error)


def _report_failure(dataset: Dataset, reason: str, *, at: datetime) -> None:
    with transaction.atomic():
        for pool in dataset.pools.all():
            events.record(
                kind="plan.failed",
                subject=dataset,
                at=at,
                pool_id=pool.pk,
                dataset=dataset.name,
                reason=reason[:300],
            )


def _report(plan: Plan, pools: Sequence[Pool], *, at: datetime) -> None:
    for pool in pools:
        open_moves = plan.recommendations.filter(
            pool=pool, state=Recommendation.State.AWAITING_APPROVAL
        ).count()
        events.record(
            kind="plan.made",
            subject=plan,
            at=at,
            pool_id=pool.pk,
            dataset=plan.dataset.name,
            awaiting_approval=open_moves,
        )


def expire_recommendations(*, wall: datetime) -> int:
    """Close what waited for approval longer than it is worth anything, in its own data's time."""
    expired = 0
    for dataset in Dataset.objects.filter(plans__superseded_at__isnull=True).distinct():
        expired += Recommendation.objects.filter(
            plan__in=dataset.plans.all(),  # no join, see decisions._decide
            state=Recommendation.State.AWAITING_APPROVAL,
            expires_at__lte=dataset.clock(wall=wall),
        ).update(state=Recommendation.State.EXPIRED)
    return expired
