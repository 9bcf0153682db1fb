"""A prediction cannot confirm itself."""

from dataclasses import replace
from datetime import timedelta

import pytest

from migration.core.advice import Action
from migration.core.confirmation import Evidence, FreshMeasurements, Observation, confirm, lift
from migration.core.planner import plan_fleet
from migration.core.slo import Slo
from tests.unit.migration_planner import fleets

PLANNED = fleets.START
NOW = PLANNED + timedelta(hours=30)
SLO = Slo()


@pytest.fixture
def terms():
    paths = fleets.trip_paths(1, 168, share=0.6, leave=24, back=120, to=fleets.SINGAPORE_OFFICE)
    (advice,) = plan_fleet(
        fleets.fleet(1, paths=paths),
        tables=fleets.world(),
        policies=[fleets.policy()],
        now=PLANNED,
    )
    assert advice.action is Action.PREPARE
    return advice.confirm_terms


def seen(kind=Evidence.PRESENCE, site="Singapore office", **changes) -> Observation:
    return replace(Observation(kind, NOW - timedelta(minutes=5), site), **changes)


def measured(**changes) -> FreshMeasurements:
    return replace(
        FreshMeasurements(
            measured_at=NOW - timedelta(minutes=1),
            rtt_source_ms=172.0,
            rtt_target_ms=9.0,
            link_bytes_per_s=50e6,
            bytes_behind=1_000_000_000,
            p_active=0.1,
        ),
        **changes,
    )


def ask(terms, observation, fresh=None, **changes):
    case = {
        "slo": SLO,
        "fixed_risk": 200_000,
        "threshold": 0.9,
        "planned_at": PLANNED,
        "expires_at": PLANNED + timedelta(hours=120),
        "now": NOW,
    }
    return confirm(terms, observation, fresh or measured(), **(case | changes))


def test_seen_where_predicted_confirms(terms):
    answer = ask(terms, seen())
    assert answer.confirmed
    assert answer.probability > 0.98
    assert "Singapore office" in answer.reason


def test_however_sure_the_plan_nothing_seen_since_confirms_nothing(terms):
    certain = replace(terms, probability=1.0)
    assert not ask(certain, seen(at=PLANNED)).confirmed
    assert not ask(certain, seen(at=PLANNED - timedelta(hours=1))).confirmed


def test_seen_elsewhere_speaks_against(terms):
    answer = ask(terms, seen(site="Paris office"))
    assert not answer.confirmed
    assert answer.probability < terms.probability


def test_a_certain_plan_is_not_confirmed_by_somebody_seen_elsewhere(terms):
    assert not ask(replace(terms, probability=1.0), seen(site="Paris office")).confirmed


def test_signing_off_lifts_a_little_and_is_not_enough_alone(terms):
    answer = ask(terms, seen(Evidence.LOG_OFF, site=None))
    assert terms.probability < answer.probability < 0.9
    assert not answer.confirmed
    assert ask(replace(terms, probability=0.8), seen(Evidence.LOG_OFF, site=None)).confirmed


def test_a_sign_in_from_nobody_knows_where_confirms_nothing(terms):
    assert not ask(replace(terms, probability=0.95), seen(Evidence.SIGN_IN, site=None)).confirmed


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"expires_at": NOW}, "expired"),
        ({"now": NOW - timedelta(hours=1)}, "future"),
        ({"threshold": 0.9999}, "asked for"),
    ],
)
def test_refusals_say_why(terms, change, word):
    answer = ask(terms, seen(), **change)
    assert not answer.confirmed
    assert word in answer.reason


def test_measurements_from_before_the_plan_do_not_count(terms):
    answer = ask(terms, seen(), measured(measured_at=PLANNED))
    assert not answer.confirmed
    assert "before the plan" in answer.reason


def test_a_detour_that_has_gone_takes_the_gain_with_it(terms):
    answer = ask(terms, seen(), measured(rtt_source_ms=70.0))
    assert not answer.confirmed
    assert answer.gain is not None
    assert answer.gain <= 0


def test_a_slow_link_makes_the_stall_too_dear_when_somebody_works(terms):
    fresh = measured(link_bytes_per_s=1e5, p_active=1.0)
    answer = ask(terms, seen(), fresh)
    assert answer.stall_ms == pytest.approx((terms.fixed_stall_s + 1e4) * 1000)
    assert not answer.confirmed
    assert ask(terms, seen(), replace(fresh, p_active=0.0)).confirmed


def test_a_dead_link_is_a_refusal_not_a_crash(terms):
    assert "link" in ask(terms, seen(), measured(link_bytes_per_s=0.0)).reason


def test_the_gain_is_saving_less_cost(terms):
    answer = ask(terms, seen())
    per_hour = (172 - 60) * 10_000
    stall_s = terms.fixed_stall_s + 20
    expected = (
        terms.active_hours * per_hour
        + terms.other_saving
        - 0.1 * (stall_s * SLO.stall_price_per_s + SLO.session_loss_price)
        - terms.egress_price_per_gb
        - 200_000
        - terms.commit_cost
    )
    assert answer.gain == pytest.approx(expected, abs=2)


class TestDemand:
    @pytest.fixture
    def terms(self, terms):
        return replace(
            terms,
            sites=(),
            demand_vcpus=4.0,
            demand_memory_bytes=16 * fleets.GB,
            other_saving=10**7,
        )

    def test_demand_above_capacity_confirms_a_resize(self, terms):
        assert ask(terms, seen(Evidence.DEMAND, site=None, demand_vcpus=4.5)).confirmed
        memory = seen(Evidence.DEMAND, site=None, demand_memory_bytes=17 * fleets.GB)
        assert ask(terms, memory).confirmed

    def test_demand_that_is_met_does_not(self, terms):
        assert not ask(terms, seen(Evidence.DEMAND, site=None, demand_vcpus=3.0)).confirmed

    def test_where_somebody_is_says_nothing_about_demand(self, terms):
        assert not ask(replace(terms, probability=0.99), seen()).confirmed


def test_demand_says_nothing_about_a_place(terms):
    answer = ask(terms, seen(Evidence.DEMAND, site=None, demand_vcpus=9.0))
    assert not answer.confirmed
    assert answer.probability == pytest.approx(terms.probability)


def test_evidence_is_weighed_by_odds():
    assert lift(0.5, 1.0) == 0.5
    assert lift(0.5, 3.0) == pytest.approx(0.75)
    assert lift(0.0, 1e6) == 0.0
    assert lift(1.0, 1e-6) == 1.0
