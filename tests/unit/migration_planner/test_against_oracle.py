"""The vectorised plan equals plain enumeration on fleets small enough to enumerate."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from migration.core.advice import Action, SourceAfter, StayReason
from migration.core.inputs import NOT_OFFERED, Tier
from migration.core.planner import plan_fleet
from migration.core.slo import Slo
from tests.unit.migration_planner import fleets
from tests.unit.migration_planner.oracle import Option, best_option

ROUNDING = 40  # micro-units: half of one for each item, and the mean of the dirty-bytes curve


def small_case(seed: int, n_paths: int | None):
    rng = np.random.default_rng(seed)
    tables = fleets.random_world(rng, regions=3, sites=3, flavors=2)
    price = np.where(
        tables.flavor_price_per_hour == NOT_OFFERED, 50_000, tables.flavor_price_per_hour
    )
    tables = replace(tables, flavor_price_per_hour=price, link_bytes_per_s=np.full((3, 3), 5e7))
    policies = [
        fleets.policy(
            slo=Slo(latency_price_per_ms_hour=20_000),
            fixed_risk=50_000,
            min_gain=1,
            commit_window_hours=0.5,
        ),
        fleets.policy(
            slo=Slo(rtt_ms=30.0, latency_price_per_ms_hour=30_000, stall_price_per_s=2_000),
            fixed_risk=10_000,
            tiers=tuple(Tier),
            hot_flavor=0,
            confirm_lead_hours=1,
            min_gain=300_000,
            hysteresis_ratio=0.3,
        ),
    ]
    fleet = fleets.random_fleet(rng, tables, n=6, hours=6, n_paths=n_paths)
    return replace(fleet, cpu_quantiles=None), tables, policies


def is_worth_it(option: Option, policy) -> bool:
    return option.gain >= max(policy.min_gain, policy.hysteresis_ratio * option.acting)


def plans_like_the_oracle(fleet, tables, policies) -> int:
    """Compare every desktop; the number of those prepared."""
    advice = plan_fleet(fleet, tables=tables, policies=policies, now=fleet.start)
    prepared = 0
    for d, said in enumerate(advice):
        expected = best_option(fleet, tables, policies, d)
        policy = policies[int(fleet.pool[d])]
        if said.action is Action.STAY:
            assert expected is None or not is_worth_it(expected, policy), (d, expected)
            continue
        prepared += 1
        assert expected is not None
        assert said.gain == pytest.approx(expected.gain, abs=ROUNDING)
        assert said.stay_cost == pytest.approx(expected.stay, abs=ROUNDING)
        assert (said.target_region, said.tier, said.source_after is SourceAfter.DELETE) == (
            expected.region,
            expected.tier,
            expected.deletes_source,
        )
    return prepared


@pytest.mark.parametrize("seed", range(8))
def test_along_paths(seed):
    plans_like_the_oracle(*small_case(seed, n_paths=3))


@pytest.mark.parametrize("seed", range(8))
def test_on_the_hourly_map(seed):
    plans_like_the_oracle(*small_case(seed, n_paths=None))


def test_the_cases_are_not_all_of_one_kind():
    """A comparison over fleets in which everybody stays, or nobody, would prove little."""
    prepared = sum(plans_like_the_oracle(*small_case(seed, n_paths=2)) for seed in range(8, 14))
    assert 3 <= prepared <= 33


def test_a_resize_equals_the_best_of_all_ways_to_be_on_the_larger_flavor():
    hours = 8
    levels = np.array([0.1, 0.5, 0.9])
    cpu = np.full((1, hours, 3), 1.0)
    cpu[:, 3:6] = [6.0, 7.0, 7.5]  # certain to exceed four vCPUs, to fit into eight
    tables = fleets.world()
    policy = fleets.policy(min_gain=1, slo=Slo(saturation_price_per_hour=3_000_000))
    fleet = fleets.fleet(
        1,
        hours,
        p_active=np.array([[0.1, 0.1, 0.6, 0.9, 0.9, 0.9, 0.5, 0.1]]),
        cpu_quantiles=cpu,
        levels=levels,
    )
    (said,) = plan_fleet(fleet, tables=tables, policies=[policy], now=fleet.start)

    p = fleet.p_active[0]
    over = [1 - 0.1 * 4 / 6 if 3 <= t < 6 else 0.0 for t in range(hours)]
    fits = [0.1 * np.exp(-(8 - 7.5) / (0.5 * 0.1 / 0.4)) if 3 <= t < 6 else 0 for t in range(hours)]
    slo = policy.slo

    def restart(t: int, kept: int) -> float:
        felt = policy.resize_stall_s * slo.stall_price_per_s + slo.session_loss_price
        return p[t] * felt + policy.fixed_risk + kept * policy.commit_window_hours

    best = np.inf
    for states in np.ndindex(*([2] * hours)):
        cost, was = 0.0, 0
        for t, on_large in enumerate(states):
            if on_large != was:
                cost += restart(t, 80_000 if on_large else 160_000)
            above = fits[t] if on_large else over[t]
            cost += p[t] * above * slo.saturation_price_per_hour
            cost += 160_000 if on_large else 80_000
            was = on_large
        best = min(best, cost)
    assert said.action is Action.RESIZE
    assert said.target_flavor == fleets.LARGE
    assert said.action_cost == pytest.approx(best, abs=ROUNDING)
    # The last quiet hour: nobody is there, and the large flavor is paid for no longer than needed.
    assert said.cutover_start == fleet.start + timedelta(hours=1)


def test_a_region_that_lacks_the_flavor_gets_the_cheapest_that_is_no_smaller():
    price = np.array([[80_000, NOT_OFFERED, 75_000], [160_000, 180_000, 150_000]])
    paths = fleets.trip_paths(1, 168, share=1.0, leave=24, back=120, to=fleets.SINGAPORE_OFFICE)
    (said,) = plan_fleet(
        fleets.fleet(1, paths=paths),
        tables=fleets.world(flavor_price_per_hour=price),
        policies=[fleets.policy()],
        now=fleets.START,
    )
    assert (said.target_region, said.target_flavor) == (fleets.SINGAPORE, fleets.LARGE)
    assert said.stay_reason is not StayReason.NOTHING_TO_GAIN
