"""What a plan promises, whoever the fleet is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time

import numpy as np
import pytest

from migration.core.advice import Action, ItemName, SourceAfter, StayReason
from migration.core.inputs import FleetLimits, PlanInputError, Tier
from migration.core.planner import plan_fleet
from migration.core.slo import Slo
from tests.unit.migration_planner import fleets

HOUR = timedelta(hours=1)
STAY_ITEMS = [ItemName.LATENCY, ItemName.SATURATION, ItemName.GRAVITY, ItemName.RUN]


def plan(fleet, tables=None, policy=None, **changes):
    policies = policy if isinstance(policy, list) else [policy or fleets.policy()]
    return plan_fleet(
        fleet,
        tables=tables or fleets.world(),
        policies=policies,
        now=changes.pop("now", fleets.START),
        **changes,
    )


def travellers(n=1, *, share=0.8, leave=22, back=96, **changes):
    """People who go to Singapore with this probability, Monday night to Thursday."""
    paths = fleets.trip_paths(
        n, 168, share=share, leave=leave, back=back, to=fleets.SINGAPORE_OFFICE
    )
    return fleets.fleet(n, paths=paths, **changes)


def random_case(seed, *, n=60, hours=48, n_paths=8):
    rng = np.random.default_rng(seed)
    tables = fleets.random_world(rng, regions=4, sites=5, flavors=3)
    policies = fleets.random_policies(rng)
    fleet = fleets.random_fleet(rng, tables, n=n, hours=hours, n_paths=n_paths)
    return fleet, tables, policies


class TestATrip:
    @pytest.fixture
    def advice(self):
        (advice,) = plan(travellers())
        return advice

    def test_a_shadow_is_prepared_where_the_user_will_be(self, advice):
        assert advice.action is Action.PREPARE
        assert advice.target_region == fleets.SINGAPORE
        assert advice.target_site == fleets.SINGAPORE_OFFICE
        assert advice.source_after is SourceAfter.SHADOW
        assert advice.strategy == "stop"

    def test_confidence_is_the_share_of_paths_that_go(self, advice):
        assert advice.confidence == pytest.approx(0.8)
        assert advice.confirm_terms.sites == ("Singapore office",)

    def test_the_shadow_is_whole_before_the_cutover_and_expires_after_the_trip(self, advice):
        assert advice.prepare_by == fleets.START + 21 * HOUR
        assert advice.cutover_start == fleets.START + 22 * HOUR
        assert advice.cutover_end == fleets.START + 23 * HOUR
        assert advice.expires_at == fleets.START + 96 * HOUR

    def test_the_reason_says_where_when_how_sure_and_what_it_costs(self, advice):
        assert advice.reason.startswith(
            "Expected in Singapore office from Tue 06:00 for about 3 days (80 %). "
            "Round trip 172 ms to 9 ms; staying would cost 22.62 EUR in missed SLO, "
        )

    def test_on_the_hourly_map_the_same_region_is_prepared(self):
        p_site = np.zeros((1, 168, 3))
        p_site[:, :, fleets.PARIS_OFFICE] = 1.0
        p_site[:, 22:96] = [0.2, 0.8, 0.0]
        (advice,) = plan(fleets.fleet(1, p_site=p_site))
        assert (advice.action, advice.target_region) == (Action.PREPARE, fleets.SINGAPORE)
        assert advice.confidence == pytest.approx(0.8)

    def test_the_cutover_waits_for_an_hour_in_which_nobody_works(self):
        busy_on_arrival = np.tile(fleets.office_hours(168), (1, 1))
        busy_on_arrival[0, 22:24] = 1.0  # two hours far away cost less than losing open work
        (advice,) = plan(travellers(p_active=busy_on_arrival))
        assert advice.cutover_start == fleets.START + 24 * HOUR

    def test_a_notice_a_day_ahead_lets_the_cutover_come_earlier(self):
        busy = np.tile(fleets.office_hours(168), (1, 1))
        busy[0, 22:40] = 1.0
        late, early = (
            plan(travellers(p_active=busy), policy=fleets.policy(confirm_lead_hours=lead))[0]
            for lead in (0, 8)
        )
        assert early.cutover_start < fleets.START + 22 * HOUR <= late.cutover_start
        assert early.gain > late.gain

    def test_at_home_again_the_desktop_follows_without_paying_a_way_back(self):
        here = np.array([fleets.SINGAPORE])
        seed = np.array([[0, 0, 20 * fleets.GB]])
        (advice,) = plan(fleets.fleet(1, region=here, seed_bytes=seed))
        assert (advice.action, advice.target_region) == (Action.PREPARE, fleets.FRANKFURT)
        items = {item.name: item.micros for item in advice.action_items}
        assert ItemName.WAY_HOME not in items
        assert ItemName.SHADOW_SEED not in items

    def test_who_moved_for_good_keeps_no_shadow_that_costs_more_than_the_way_back(self):
        dear_storage = fleets.world(storage_price_per_gb_hour=np.array([9000.0, 120.0, 100.0]))
        (advice,) = plan(travellers(back=168, share=1.0), tables=dear_storage)
        assert advice.source_after is SourceAfter.DELETE

    def test_a_larger_flavor_is_taken_on_the_way_where_demand_asks_for_it(self):
        cpu = np.full((1, 168, 3), 1.0)
        cpu[:, 22:96] = [4.5, 6.0, 7.5]
        (advice,) = plan(travellers(cpu_quantiles=cpu))
        assert (advice.target_region, advice.target_flavor) == (fleets.SINGAPORE, fleets.LARGE)

    def test_the_way_home_keeps_the_larger_server_through_the_commit_window(self):
        cpu = np.full((1, 168, 3), 1.0)
        cpu[:, 22:96] = [4.5, 6.0, 7.5]
        people = travellers(share=1.0, cpu_quantiles=cpu)
        for window_h in (0.0, 2.0):
            (advice,) = plan(people, policy=fleets.policy(commit_window_hours=window_h))
            items = {item.name: item.micros for item in advice.action_items}
            if not window_h:
                without = items[ItemName.WAY_HOME]
        assert items[ItemName.SOURCE_COMMIT] == 2 * 80_000
        assert items[ItemName.WAY_HOME] - without == 2 * 180_000

    def test_a_hot_shadow_is_bought_where_stalls_are_dear_and_hours_never_quiet(self):
        always = np.ones((1, 168))
        policy = fleets.policy(
            slo=Slo(stall_price_per_s=100_000, session_loss_price=0),
            tiers=tuple(Tier),
            hot_flavor=fleets.SMALL,
        )
        price = np.array([[10_000, 10_000, 10_000], [160_000, 180_000, 150_000]])
        (advice,) = plan(
            travellers(p_active=always),
            tables=fleets.world(flavor_price_per_hour=price),
            policy=policy,
        )
        assert advice.tier is Tier.HOT
        assert advice.sync_interval_s is not None


class TestStaying:
    def reason(self, fleet, **changes) -> StayReason | None:
        (advice,) = plan(fleet, **changes)
        assert advice.action is Action.STAY
        assert advice.gain == 0
        assert advice.stay_items == advice.action_items
        assert advice.reason
        return advice.stay_reason

    def test_with_no_chance_of_being_elsewhere(self):
        assert self.reason(fleets.fleet(1)) is StayReason.NOTHING_TO_GAIN

    def test_when_nobody_works_there(self):
        idle = np.zeros((1, 168))
        assert self.reason(travellers(p_active=idle)) is StayReason.NOTHING_TO_GAIN

    def test_where_residency_forbids_it(self):
        only_home = np.array([[True, False, False]])
        assert self.reason(travellers(allowed_regions=only_home)) is StayReason.NOT_ALLOWED

    def test_for_a_trip_too_short_to_pay(self):
        assert self.reason(travellers(leave=32, back=33)) is StayReason.COSTS_MORE
        unlikely = travellers(leave=32, back=33, share=0.2)
        assert self.reason(unlikely) is StayReason.NOTHING_TO_GAIN

    def test_below_the_minimum_gain(self):
        (advice,) = plan(travellers())
        higher = fleets.policy(min_gain=advice.gain + 1)
        assert self.reason(travellers(), policy=higher) is StayReason.BELOW_MIN_GAIN
        assert plan(travellers(), policy=fleets.policy(min_gain=advice.gain))[0].gain == advice.gain

    def test_when_the_gain_is_small_beside_what_it_costs(self):
        wary = fleets.policy(hysteresis_ratio=10.0)
        assert self.reason(travellers(), policy=wary) is StayReason.BELOW_MIN_GAIN

    def test_through_a_cooldown_that_outlasts_the_trip(self):
        cooling = travellers(cooldown_hours=np.array([100]))
        assert self.reason(cooling) is StayReason.COOLDOWN

    def test_when_a_shadow_cannot_be_whole_in_time(self):
        slow = fleets.world(link_bytes_per_s=np.full((3, 3), 20 * fleets.GB / 3600 / 120))
        assert self.reason(travellers(), tables=slow) is StayReason.NOT_READY

    def test_where_no_link_leads(self):
        unlinked = fleets.world(link_bytes_per_s=np.diag([1e8, 1e8, 1e8]))
        assert self.reason(travellers(), tables=unlinked) is StayReason.NOTHING_TO_GAIN

    def test_a_desktop_where_it_may_not_be_is_named(self):
        elsewhere_only = np.array([[False, False, True]])
        (advice,) = plan(fleets.fleet(1, allowed_regions=elsewhere_only))
        assert "not allowed" in advice.reason

    def test_with_nobody_known_to_be_anywhere(self):
        paths = np.full((1, 4, 168), -1)
        assert self.reason(fleets.fleet(1, paths=paths)) is StayReason.NOTHING_TO_GAIN


@pytest.mark.parametrize("n_paths", [8, None])
@pytest.mark.parametrize("seed", range(4))
class TestEveryPlan:
    def test_items_sum_exactly(self, seed, n_paths):
        for advice in plan(*random_case(seed, n_paths=n_paths)):
            assert advice.stay_cost == sum(item.micros for item in advice.stay_items)
            assert advice.action_cost == sum(item.micros for item in advice.action_items)
            assert advice.gain == advice.stay_cost - advice.action_cost
            amounts = [i.micros for i in advice.stay_items + advice.action_items]
            assert all(type(micros) is int and micros >= 0 for micros in amounts)
            assert [i.name for i in advice.stay_items] == STAY_ITEMS

    def test_constraints_hold(self, seed, n_paths):
        fleet, tables, policies = random_case(seed, n_paths=n_paths)
        acted = 0
        for advice in plan(fleet, tables, policies):
            d, policy = advice.desktop, policies[int(fleet.pool[advice.desktop])]
            assert 0 <= advice.confidence <= 1
            if advice.action is Action.STAY:
                continue
            acted += 1
            acting = sum(i.micros for i in advice.action_items if i.name not in STAY_ITEMS)
            assert advice.gain >= max(policy.min_gain, policy.hysteresis_ratio * acting)
            assert tables.flavor_price_per_hour[advice.target_flavor, advice.target_region] > 0
            assert advice.cutover_start >= fleets.START + int(fleet.cooldown_hours[d]) * HOUR
            assert advice.cutover_start < advice.cutover_end <= advice.expires_at
            if advice.action is Action.RESIZE:
                assert advice.target_region == advice.source_region
                continue
            assert fleet.allowed_regions[d, advice.target_region]
            assert advice.tier in policy.tiers
            assert advice.prepare_by <= advice.cutover_start
        assert acted > 5

    def test_the_order_of_the_fleet_changes_nothing(self, seed, n_paths):
        fleet, tables, policies = random_case(seed, n_paths=n_paths, n=30)
        turned = fleet.rows(slice(None, None, -1))
        forward = plan(fleet, tables, policies)
        backward = plan(turned, tables, policies)[::-1]
        assert [replace(b, desktop=f.desktop) for f, b in zip(forward, backward, strict=True)] == (
            forward
        )


def gains(fleet, tables, slo) -> np.ndarray:
    policy = fleets.policy(slo=slo, min_gain=1, hysteresis_ratio=0.0)
    return np.array([a.gain for a in plan(fleet, tables, [policy, policy])])


@pytest.mark.parametrize("seed", range(5))
def test_a_dearer_slo_never_makes_preparing_worth_less(seed):
    fleet, tables, _ = random_case(seed, n=40)
    fleet = replace(fleet, cpu_quantiles=None)
    # With one price everywhere and bytes that take no capacity, only service can be gained.
    flat = replace(
        tables,
        flavor_price_per_hour=np.full_like(tables.flavor_price_per_hour, 50_000),
        app_rtt_ms=np.zeros_like(tables.app_rtt_ms),
        link_bytes_per_s=np.full_like(tables.link_bytes_per_s, 1e12),
    )
    before = np.zeros(len(fleet))
    for price in (0, 2_000, 8_000, 30_000):
        slo = Slo(latency_price_per_ms_hour=price, latency_cap_per_hour=10**9)
        now = gains(fleet, flat, slo)
        assert np.all(now >= before - 20), "twenty micro-units are rounding"
        before = now
    assert (before > 0).any()


def test_a_likelier_trip_is_worth_more():
    found = [plan(travellers(share=share))[0].gain for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert found == sorted(found)
    assert found[0] > 0


def test_a_server_that_is_off_at_night_costs_nothing_then():
    at_work = fleets.office_hours(168) > 0.5
    (always,) = plan(fleets.fleet(1))
    (by_day,) = plan(fleets.fleet(1, powered_ratio=at_work[None].astype(float)))
    assert always.stay_items[3].micros == 168 * 80_000
    assert by_day.stay_items[3].micros == 5 * 9 * 80_000


def test_memory_alone_can_be_what_is_short():
    memory = np.tile(np.array([15.0, 24.0, 31.0]) * fleets.GB, (1, 168, 1))
    (advice,) = plan(fleets.fleet(1, memory_quantiles=memory))
    assert (advice.action, advice.target_flavor) == (Action.RESIZE, fleets.LARGE)
    assert advice.confirm_terms.demand_memory_bytes == 16 * fleets.GB
    assert "above what small can do" in advice.reason


def test_a_smaller_flavor_is_advised_only_where_the_pool_allows_it():
    roomy = fleets.fleet(
        1, flavor=np.array([fleets.LARGE]), cpu_quantiles=np.full((1, 168, 3), 0.5)
    )
    assert plan(roomy)[0].action is Action.STAY
    (advice,) = plan(roomy, policy=fleets.policy(allow_downsize=True))
    assert (advice.action, advice.target_flavor) == (Action.RESIZE, fleets.SMALL)
    assert "fits small" in advice.reason
    assert advice.confidence > 0.99
    assert advice.confirm_terms is None


class TestWhatIsShared:
    def test_quota_goes_to_those_who_gain_most_and_is_never_exceeded(self):
        people = travellers(8, share=1.0)
        active = people.p_active * np.linspace(0.5, 1.0, 8)[:, None]
        tables = fleets.world(quota_headroom=np.array([[9.0, 3.0, 9.0], [400.0] * 3]))
        advice = plan(replace(people, p_active=active), tables=tables)
        prepared = [a.desktop for a in advice if a.target_region == fleets.SINGAPORE]
        assert prepared == [5, 6, 7]
        without = [a for a in advice if a.action is Action.STAY]
        assert {a.stay_reason for a in without} == {StayReason.NO_CAPACITY}
        assert "servers in Singapore" in without[0].reason

    def test_a_hot_shadow_takes_its_small_server_from_the_quota_too(self):
        policy = fleets.policy(
            slo=Slo(stall_price_per_s=100_000, session_loss_price=0),
            tiers=(Tier.HOT,),
            hot_flavor=fleets.SMALL,
        )
        tables = fleets.world(quota_headroom=np.array([[9.0, 5.0, 9.0], [400.0] * 3]))
        advice = plan(travellers(4, p_active=np.ones((4, 168))), tables=tables, policy=policy)
        assert sum(a.action is Action.PREPARE for a in advice) == 2

    def test_volume_space_limits_new_shadows_only(self):
        room = np.array([0.0, 130e9, 0.0])
        tables = fleets.world(volume_headroom_bytes=room)
        assert sum(a.action is Action.PREPARE for a in plan(travellers(5), tables=tables)) == 2
        standing = np.zeros((5, 3), dtype=np.int64)
        everybody = plan(travellers(5, seed_bytes=standing), tables=tables)
        assert all(a.action is Action.PREPARE for a in everybody)

    def test_links_carry_what_is_due_by_each_deadline(self):
        seed = 20 * fleets.GB
        # Seven seeds fit into the hours before the trip, and one alone needs three hours.
        tables = fleets.world(link_bytes_per_s=np.full((3, 3), seed / 3 / 3600))
        advice = plan(travellers(10, leave=22), tables=tables)
        prepared = [a for a in advice if a.action is Action.PREPARE]
        assert len(prepared) == 7
        for by in {a.prepare_by for a in prepared}:
            due = sum(a.prepare_by <= by for a in prepared) * seed
            assert due <= seed / 3 * ((by - fleets.START) / HOUR)
        left = next(a for a in advice if a.action is Action.STAY)
        assert "the link from Frankfurt to Singapore" in left.reason

    def test_no_hour_has_more_expected_cutovers_than_allowed(self):
        advice = plan(travellers(30), limits=FleetLimits(max_moves_per_hour=4))
        # Each is expected to move with 0.8 in the same hour.
        assert sum(a.action is Action.PREPARE for a in advice) == 5

    @pytest.mark.parametrize("seed", range(4))
    def test_quota_holds_for_any_fleet(self, seed):
        fleet, tables, policies = random_case(seed, n=80)
        rng = np.random.default_rng(seed)
        tables = replace(tables, quota_headroom=rng.integers(0, 12, (2, 4)).astype(float))
        used = np.zeros((2, 4))
        for advice in plan(fleet, tables, policies):
            if advice.action is Action.STAY:
                continue
            used[:, advice.target_region] += tables.quota_use[:, advice.target_flavor]
            if advice.tier is Tier.HOT:
                used[:, advice.target_region] += tables.quota_use[:, 0]
        assert np.all(used <= tables.quota_headroom)
        assert used.sum() > 0


class TestTime:
    def test_hours_that_have_passed_are_left_out(self):
        fleet = travellers()
        now = fleets.START + 10 * HOUR
        (later,) = plan(fleet, now=now + timedelta(minutes=59))
        (cut,) = plan(fleet.from_hour(10), now=now)
        assert later == cut
        assert later.cutover_start == fleets.START + 22 * HOUR

    def test_a_forecast_that_has_run_out_is_refused(self):
        with pytest.raises(PlanInputError, match="ended before now"):
            plan(travellers(), now=fleets.START + 168 * HOUR)

    def test_a_plan_before_the_forecast_begins_uses_all_of_it(self):
        assert plan(travellers(), now=fleets.START - 5 * HOUR) == plan(travellers())

    def test_a_naive_clock_is_refused(self):
        with pytest.raises(PlanInputError, match="aware"):
            plan(travellers(), now=datetime(2026, 3, 2))

    def test_sentences_tell_the_time_of_the_place(self):
        (local,) = plan(travellers())
        (utc,) = plan(travellers(), tables=fleets.world(site_zones=None))
        assert "from Tue 06:00" in local.reason
        assert "from Mon 22:00" in utc.reason
        assert local.cutover_start.tzinfo is UTC


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("p_active", np.full((1, 168), 1.5)),
            ("p_active", np.full((1, 168), np.nan)),
            ("p_site", np.full((1, 168, 3), 0.5)),
            ("p_site", np.ones((1, 100, 3))),
            ("region", np.array([7])),
            ("flavor", np.array([-1])),
            ("pool", np.array([1])),
            ("paths", np.full((1, 2, 168), 3)),
            ("paths", np.full((1, 2, 168), 1.0)),
            ("paths", np.zeros((1, 0, 168), dtype=int)),
            ("seed_bytes", np.full((1, 3), -5)),
            ("dirty_bytes_per_hour", np.array([np.inf])),
            ("levels", np.array([0.5, 0.1, 0.9])),
            ("levels", np.array([0.5, 0.9, 1.0])),
        ],
    )
    def test_the_field_is_named(self, name, value):
        with pytest.raises(PlanInputError, match=name):
            plan(fleets.fleet(1, **{name: value}))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("rtt_ms", np.full((3, 3), np.nan)),
            ("egress_price_per_gb", np.full((3, 3), -1.0)),
            ("flavor_price_per_hour", np.ones((2, 3))),
            ("quota_headroom", np.ones((2, 2))),
            ("site_zones", ("UTC",)),
            ("strategies", ()),
        ],
    )
    def test_the_table_is_named(self, name, value):
        with pytest.raises(PlanInputError, match=name):
            fleets.world(**{name: value})

    def test_a_flavor_without_a_price_where_it_runs_is_refused(self):
        price = np.array([[-1, 90_000, 75_000], [160_000, 180_000, 150_000]])
        with pytest.raises(PlanInputError, match="no price"):
            plan(fleets.fleet(1), tables=fleets.world(flavor_price_per_hour=price))

    def test_hot_shadows_need_a_flavor(self):
        with pytest.raises(PlanInputError, match="hot_flavor"):
            fleets.policy(tiers=(Tier.HOT,))

    def test_an_empty_fleet_has_an_empty_plan(self):
        assert plan(fleets.fleet(0)) == []


def test_two_thousand_desktops_in_five_regions_for_a_week_take_seconds():
    """Every one of them travels and may go anywhere, the hardest fleet there is."""
    rng = np.random.default_rng(7)
    tables = fleets.random_world(rng, regions=5, sites=12, flavors=4)
    policies = fleets.random_policies(rng)
    fleet = fleets.random_fleet(rng, tables, n=2_000, hours=168, n_paths=16)
    started = process_time()
    advice = plan(fleet, tables, policies)
    assert process_time() - started < 20
    assert len(advice) == 2_000
    assert sum(a.action is not Action.STAY for a in advice) > 500
