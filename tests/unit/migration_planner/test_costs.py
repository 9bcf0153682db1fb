"""The arithmetic of planning in money."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration.core import costs
from migration.core.inputs import Tier
from migration.core.outlook import per_path
from migration.core.slo import (
    Slo,
    gravity_penalty,
    latency_penalty,
    slo_minutes,
    to_micros,
)
from tests.unit.migration_planner import fleets

LEVELS = np.array([0.1, 0.5, 0.9])
QUANTILES = np.array([[2.0, 4.0, 8.0]])


def above(capacity: float, quantiles=QUANTILES, levels=LEVELS) -> float:
    return float(costs.probability_above(quantiles, levels, capacity)[0])


class TestMoney:
    def test_halves_go_to_the_even_neighbour(self):
        assert to_micros(np.array([0.5, 1.5, 2.5, -0.5])).tolist() == [0, 2, 2, 0]

    def test_the_mean_over_paths_is_the_nearest_micro_unit(self):
        total = np.array([0, 1, 2, 3, 4, 10**15 + 3])
        assert per_path(total, 4).tolist() == [0, 0, 1, 1, 1, 250_000_000_000_001]

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_an_amount_that_is_no_number_is_refused(self, value):
        with pytest.raises(ValueError, match="not finite"):
            to_micros(value)

    def test_a_transfer_is_priced_by_the_gigabyte_of_a_thousand_million_bytes(self):
        assert costs.transfer_cost(np.array([2_500_000_000]), np.array([20_000.0])) == 50_000


class TestServiceLevel:
    slo = Slo(rtt_ms=60, latency_price_per_ms_hour=10_000, latency_cap_per_hour=800_000)

    def test_latency_costs_nothing_up_to_the_slo_then_rises_then_is_capped(self):
        rtt = np.array([0.0, 60.0, 61.0, 100.0, 140.0, 500.0])
        assert latency_penalty(rtt, self.slo).tolist() == [0, 0, 10_000, 400_000, 800_000, 800_000]

    def test_gravity_has_its_own_numbers(self):
        slo = Slo(gravity_rtt_ms=20, gravity_price_per_ms_hour=100, gravity_cap_per_hour=5_000)
        assert gravity_penalty(np.array([20.0, 30.0, 90.0]), slo).tolist() == [0, 1_000, 5_000]

    def test_slo_minutes_count_work_above_the_round_trip(self):
        minutes = slo_minutes(np.array([0.5, 1.0, 1.0]), np.array([90.0, 60.0, 61.0]), self.slo)
        assert minutes.tolist() == [30.0, 0.0, 60.0]

    def test_a_negative_price_is_refused_by_name(self):
        with pytest.raises(ValueError, match="stall_price_per_s"):
            Slo(stall_price_per_s=-1)


class TestDemandAboveCapacity:
    @pytest.mark.parametrize(
        ("capacity", "expected"),
        [(2.0, 0.9), (3.0, 0.7), (4.0, 0.5), (6.0, 0.3), (8.0, 0.1), (1.0, 0.95), (0.0, 1.0)],
    )
    def test_between_levels_it_is_linear_and_below_it_ends_at_zero_demand(self, capacity, expected):
        assert above(capacity) == pytest.approx(expected)

    def test_the_upper_tail_continues_with_the_density_it_has_at_the_last_level(self):
        step = 1e-6
        inside = (above(8.0 - step) - above(8.0)) / step
        outside = (above(8.0) - above(8.0 + step)) / step
        assert inside == pytest.approx(0.4 / 4.0, rel=1e-4)
        assert outside == pytest.approx(inside, rel=1e-4)
        assert 0 < above(30.0) < 0.01

    def test_on_a_flat_stretch_the_highest_of_its_levels_counts(self):
        assert above(4.0, np.array([[4.0, 4.0, 8.0]])) == pytest.approx(0.5)

    def test_nothing_lies_above_when_the_last_two_quantiles_are_equal(self):
        assert above(8.0, np.array([[2.0, 8.0, 8.0]])) == 0.0

    def test_no_forecast_claims_no_saturation(self):
        assert above(1.0, np.full((1, 3), np.nan)) == 0.0

    def test_a_single_level_is_enough(self):
        assert above(2.0, np.array([[4.0]]), np.array([0.5])) == pytest.approx(0.75)
        assert above(5.0, np.array([[4.0]]), np.array([0.5])) == 0.0

    @given(
        st.lists(st.floats(0, 100), min_size=3, max_size=3),
        st.lists(st.floats(0, 200), min_size=2, max_size=2),
    )
    def test_more_capacity_is_never_exceeded_more_often(self, quantiles, capacities):
        q = np.array([sorted(quantiles)])
        low, high = sorted(capacities)
        assert 0 <= above(high, q) <= above(low, q) + 1e-12 <= 1 + 1e-12

    def test_it_agrees_with_samples_of_the_same_distribution(self):
        levels = np.linspace(0.01, 0.99, 99)
        demand = np.random.default_rng(3).gamma(2.0, 1.5, 200_000)
        quantiles = np.quantile(demand, levels)[None]
        for capacity in (1.0, 3.0, 6.0, 12.0):
            expected = (demand > capacity).mean()
            assert above(capacity, quantiles, levels) == pytest.approx(expected, abs=0.004)

    def test_short_of_either_lies_between_the_larger_and_the_sum(self):
        cpu, memory = np.array([0.3, 0.0, 1.0]), np.array([0.5, 0.2, 0.4])
        either = costs.probability_any_above(cpu, memory)
        assert np.all(either >= np.maximum(cpu, memory) - 1e-15)
        assert np.all(either <= cpu + memory)


def test_degradation_is_the_sum_of_the_design():
    rng = np.random.default_rng(5)
    hours, sites, regions = 4, 3, 2
    p_active, p_above = rng.random((2, hours))
    p_site = rng.dirichlet(np.ones(sites), hours)
    latency, gravity = rng.integers(0, 10**6, (sites, regions)), rng.integers(0, 10**6, regions)
    slo = Slo(saturation_price_per_hour=1_234_567)
    found = costs.degradation(
        p_active, p_site, p_above, latency_per_hour=latency, gravity_per_hour=gravity, slo=slo
    )
    for t in range(hours):
        for r in range(regions):
            expected = (
                sum(p_active[t] * p_site[t, s] * latency[s, r] for s in range(sites))
                + p_active[t] * p_above[t] * 1_234_567
                + p_active[t] * gravity[r]
            )
            assert found.total()[t, r] == pytest.approx(expected, abs=1.5)
    assert found.total().dtype == np.int64


class TestDirtyBytes:
    rate, limit = np.array([1e9]), np.array([4e9])

    def test_the_curve_is_concave_and_ends_at_the_working_set(self):
        hours = np.linspace(0, 40, 200)
        curve = costs.dirty_bytes(hours, self.rate, self.limit)
        assert curve[0] == 0
        assert np.all(np.diff(curve) > 0)
        assert np.all(np.diff(curve, 2) < 1)
        assert curve[1] / hours[1] == pytest.approx(1e9, rel=0.03)
        assert curve[-1] == pytest.approx(4e9, rel=1e-3)

    def test_the_mean_over_an_interval_is_the_curves_integral(self):
        fine = np.linspace(0, 6, 100_001)
        integral = costs.dirty_bytes(fine, self.rate, self.limit).mean()
        assert costs.mean_dirty_bytes(6.0, self.rate, self.limit)[0] == pytest.approx(
            integral, rel=1e-4
        )

    def test_nothing_written_is_nothing_sent(self):
        zero = np.array([0.0])
        assert costs.mean_dirty_bytes(6.0, zero, self.limit)[0] == pytest.approx(0, abs=5)
        assert costs.dirty_bytes(6.0, self.rate, zero)[0] == 0


class TestSyncInterval:
    def interval(self, **changes) -> float:
        case = {
            "held_hours": np.array([48.0]),
            "p_use": np.array([0.8]),
            "price_per_byte": np.array([2e-5]),
            "value_per_byte": np.array([2e-3]),
            "dirty_rate": np.array([4e8]),
            "dirty_limit": np.array([6e9]),
            "fixed_sync_bytes": np.array([4e6]),
            "shortest_h": np.array([1 / 12]),
            "longest_h": np.array([72.0]),
        }
        case |= {name: np.array([float(value)]) for name, value in changes.items()}
        return float(costs.sync_interval_hours(**case)[0])

    def test_it_is_the_cheapest_of_all_it_may_take(self):
        rng = np.random.default_rng(0)
        m = 60
        case = {
            "held_hours": rng.uniform(1, 168, m),
            "p_use": rng.random(m),
            "price_per_byte": rng.uniform(0, 1e-4, m),
            "value_per_byte": rng.uniform(0, 2e-2, m),
            "dirty_rate": rng.uniform(1e6, 5e9, m),
            "dirty_limit": rng.uniform(1e8, 1e10, m),
            "fixed_sync_bytes": rng.uniform(0, 1e8, m),
        }
        found = costs.sync_interval_hours(
            **case, shortest_h=np.full(m, 0.25), longest_h=np.full(m, 24.0)
        )
        for i in range(m):
            one = {name: float(values[i]) for name, values in case.items()}

            def price(h: float, one=one) -> float:
                curve = one["dirty_rate"], one["dirty_limit"]
                sent = costs.dirty_bytes(h, *map(np.array, curve)) + one["fixed_sync_bytes"]
                final = costs.mean_dirty_bytes(h, *map(np.array, curve))
                syncing = one["held_hours"] / h * sent * one["price_per_byte"]
                return float(syncing + one["p_use"] * final * one["value_per_byte"])

            allowed = [h for h in costs.SYNC_INTERVALS_H if 0.25 <= h <= 24]
            assert found[i] in allowed
            assert price(found[i]) == pytest.approx(min(map(price, allowed)))

    @settings(max_examples=60)
    @given(st.floats(0, 1), st.floats(0, 1), st.floats(1e-5, 1e-1))
    def test_the_likelier_the_use_the_shorter(self, first, second, value):
        low, high = sorted((first, second))
        assert self.interval(p_use=high, value_per_byte=value) <= self.interval(
            p_use=low, value_per_byte=value
        )

    def test_dearer_links_make_it_longer_and_dearer_stalls_shorter(self):
        assert self.interval(price_per_byte=1e-3) >= self.interval(price_per_byte=1e-6)
        assert self.interval(value_per_byte=1e-1) < self.interval(value_per_byte=1e-4)

    def test_a_shadow_that_will_not_be_used_is_synced_as_seldom_as_allowed(self):
        assert self.interval(p_use=0) == 72
        assert self.interval(p_use=0, longest_h=12) == 12

    def test_bounds_between_two_steps_take_the_upper_bound(self):
        assert self.interval(shortest_h=4.5, longest_h=5.5) == 5.5


def price_shadow(tier: Tier, interval_h: float) -> costs.ShadowCost:
    return costs.shadow_cost(
        tier,
        np.array([interval_h]),
        volume_bytes=np.array([60_000_000_000]),
        dirty_rate=np.array([4e8]),
        dirty_limit=np.array([6e9]),
        fixed_sync_bytes=4_000_000,
        storage_price_per_gb_hour=np.array([110.0]),
        egress_price_per_gb=np.array([20_000.0]),
        hot_price_per_hour=25_000,
    )


def test_each_tier_pays_for_what_it_adds():
    seed, warm, hot = (price_shadow(tier, 2.0) for tier in Tier)
    assert seed.total() == seed.storage == 60 * 110
    each_sync = 6e9 * (1 - np.exp(-4e8 * 2 / 6e9)) + 4e6
    assert warm.sync == pytest.approx(each_sync / 2 / 1e9 * 20_000, abs=1)
    assert hot.total() == warm.total() + 25_000


def test_syncing_more_often_sends_more():
    hourly = [int(price_shadow(Tier.WARM, h).sync[0]) for h in costs.SYNC_INTERVALS_H]
    assert hourly == sorted(hourly, reverse=True)


class TestMove:
    def price(self, *strategies, p_active=0.5, same_flavor=True, **changes) -> costs.MoveCost:
        case = {
            "source": np.array([0]),
            "target": np.array([1]),
            "same_flavor": np.array([same_flavor]),
            "delta_bytes": np.array([1e9]),
            "volume_bytes": np.array([50_000_000_000]),
            "memory_bytes": np.array([8_000_000_000]),
            "link_bytes_per_s": np.array([1e8]),
            "egress_price_per_gb": np.array([20_000.0]),
            "p_active": np.array([[p_active]]),
            "stall_price_per_s": np.array([5_000]),
            "session_loss_price": np.array([2_000_000]),
            "fixed_risk": np.array([200_000]),
            "commit_cost": np.array([160_000]),
        }
        return costs.move_cost(strategies, Tier.WARM, **(case | changes))

    stop = fleets.stop_strategy(2)
    hibernate = fleets.stop_strategy(
        2, name="hibernate", carries_memory=True, memory_in_stall_ratio=1.0, needs_same_flavor=True
    )

    def test_every_part_is_what_it_says(self):
        found = self.price(self.stop)
        assert found.stall_s.item() == 90 + 10
        assert found.egress.item() == 20_000
        assert found.stall.item() == 100 * 0.5 * 5_000
        assert found.session_loss.item() == 1_000_000
        assert found.total().item() == 20_000 + 250_000 + 1_000_000 + 200_000 + 160_000

    def test_with_nobody_there_the_stall_costs_nothing(self):
        found = self.price(self.stop, p_active=0.0)
        assert (found.stall.item(), found.session_loss.item()) == (0, 0)

    def test_memory_is_carried_where_losing_the_session_costs_more(self):
        assert self.price(self.stop, self.hibernate).strategy.item() == 1
        assert self.price(self.stop, self.hibernate, p_active=0.0).strategy.item() == 0

    def test_another_flavor_rules_out_what_needs_the_same(self):
        assert self.price(self.stop, self.hibernate, same_flavor=False).strategy.item() == 0

    def test_a_scan_without_a_change_map_is_part_of_the_stall(self):
        found = self.price(fleets.stop_strategy(2, scan_bytes_per_s=5e8))
        assert found.stall_s.item() == 90 + 100 + 10

    def test_without_an_allowed_strategy_there_is_no_price_to_pay(self):
        found = self.price(fleets.stop_strategy(2, allowed=np.eye(2, dtype=bool)))
        assert found.strategy.item() == -1
        assert found.total().item() == costs.NEVER
