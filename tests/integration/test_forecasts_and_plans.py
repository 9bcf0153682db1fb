"""From hourly activity to profiles, and from profiles to a plan, database to database."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from desktops.clouds.registry import get_cloud
from desktops.core.geo import LAST_MILE_MS
from desktops.models import (
    Activity,
    DesktopUser,
    Event,
    FlavorPrice,
    Notice,
    Pool,
    Region,
    RegionLink,
    RoundTrip,
    Site,
)
from forecasting.core.profiles import HORIZON_HOURS, LEVELS
from forecasting.errors import ForecastFailed, InvalidHistory
from forecasting.history import read_history
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.selectors import events_about, latest_generation, profiles_for
from forecasting.services import forecasts
from forecasting.services.forecasts import run_forecast
from migration.errors import NotDecidable, NotPossible
from migration.models import Plan, Recommendation, Transition
from migration.plan_input import FARTHEST_RTT_MS, read_plan_input
from migration.services.confirming import confirm_seen
from migration.services.decisions import approve_recommendation
from migration.services.plans import expire_recommendations, make_plan
from tests.support.fleet import AS_OF, Fleet, make_fleet
from tests.support.simulator import SimulatorProcess

pytestmark = pytest.mark.django_db(transaction=True)

DAYS = 28


@pytest.fixture
def fleet(simulated: SimulatorProcess) -> Fleet:
    """Two people at home in the east; ana is in the west every week from Monday to Wednesday."""
    fleet = make_fleet(simulated, min_gain="0.01", latency_penalty_per_hour="20")
    sites = {
        code: Site.objects.create(
            code=code, label=code.title(), latitude=40, longitude=longitude, time_zone="UTC"
        )
        for code, longitude in (("boston", -71), ("seattle", -122))
    }
    for site, near, far in (("boston", "east", "west"), ("seattle", "west", "east")):
        for region, rtt in ((near, 5.0), (far, 180.0)):
            RoundTrip.objects.create(
                site=sites[site],
                region=getattr(fleet, region),
                rtt_ms=rtt,
                source=RoundTrip.Source.TABLE,
            )
    for source, dest in ((fleet.east, fleet.west), (fleet.west, fleet.east)):
        RegionLink.objects.create(
            source=source, dest=dest, egress_price_per_gb="0.01", bytes_per_s=10**9, rtt_ms=60
        )
    for key, travels in (("ana", True), ("ben", False)):
        desktop = fleet.desktop(simulated, key)
        DesktopUser.objects.filter(pk=desktop.desktop_user_id).update(home_site=sites["boston"])
        write_history(fleet, desktop, sites, travels=travels)
    return fleet


def write_history(fleet: Fleet, desktop, sites, *, travels: bool) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(len(desktop.key))
    rows = []
    for hour in hours_before(AS_OF, days=DAYS):
        if hour.weekday() >= 5 or not 8 <= hour.hour < 17:
            continue
        away = travels and hour.weekday() < 3
        rows.append(
            Activity(
                dataset=fleet.dataset,
                desktop_user_id=desktop.desktop_user_id,
                desktop=desktop,
                hour=hour,
                active_ratio=1.0,
                cpu_cores=1.0 + 0.2 * rng.random(),
                memory_bytes=3e9,
                network_bytes_per_s=1e5,
                storage_bytes_per_s=1e5,
                site=sites["seattle" if away else "boston"],
            )
        )
    Activity.objects.bulk_create(rows)


def hours_before(end: datetime, *, days: int) -> list[datetime]:
    start = end - timedelta(days=days)
    return [start + timedelta(hours=h) for h in range(days * 24)]


def test_a_forecast_is_one_row_per_person_with_quantiles_and_a_map(fleet: Fleet) -> None:
    generation = run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    assert (generation.state, generation.profiles_done) == (Generation.State.COMPLETE, 2)
    assert generation.as_of == AS_OF, "recorded history is forecast from its own clock"
    profile = ResourceDemandProfile.objects.get(desktop_user__pseudonym="ana")
    cpu = np.array(profile.cpu_cores)
    assert cpu.shape == (HORIZON_HOURS, len(LEVELS))
    assert (np.diff(cpu, axis=1) >= 0).all()
    assert np.allclose(sum(np.array(p) for p in profile.location.values()), 1, atol=1e-3)
    tuesday_noon = (
        int((datetime(2026, 3, 3, 12, tzinfo=AS_OF.tzinfo) - AS_OF).total_seconds()) // 3600
    )
    friday_noon = tuesday_noon + 72
    assert profile.location["seattle"][tuesday_noon] > 0.6
    assert profile.location["boston"][friday_noon] > 0.6
    assert profile.p_active[tuesday_noon] > 0.7 > 0.2 > profile.p_active[tuesday_noon + 12]


def test_nothing_after_the_data_sets_clock_is_used(fleet: Fleet) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    before = ResourceDemandProfile.objects.get(desktop_user__pseudonym="ben").cpu_cores
    ben = DesktopUser.objects.get(pseudonym="ben")
    Activity.objects.create(
        dataset=fleet.dataset,
        desktop_user=ben,
        desktop=ben.desktop,
        hour=AS_OF,
        active_ratio=1,
        cpu_cores=1e6,
    )
    again = run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    assert np.array_equal(again.profiles.get(desktop_user=ben).cpu_cores, before)


def test_a_failed_forecast_leaves_the_earlier_one_in_view(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    monkeypatch.setattr(forecasts.core, "build_profiles", fail)
    with pytest.raises(ForecastFailed, match="disk full"):
        run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    assert latest_generation(fleet.dataset) == first
    assert {p.generation_id for p in profiles_for(fleet.vera)} == {first.pk}
    failed = Generation.objects.get(state=Generation.State.FAILED)
    assert "disk full" in failed.failure


def fail(*args: object, **more: object) -> None:
    raise RuntimeError("disk full")


def test_an_empty_data_set_is_refused_with_a_reason(fleet: Fleet) -> None:
    Activity.objects.all().delete()
    fleet.dataset.desktops.all().delete()
    fleet.dataset.people.all().delete()
    with pytest.raises(InvalidHistory, match="import activity first"):
        run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)


def test_reading_history_takes_as_many_queries_for_many_as_for_few(fleet: Fleet) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            read_history(fleet.dataset, until=AS_OF, days=DAYS)
        return len(captured)

    few = queries()
    for number in range(30):
        DesktopUser.objects.create(
            dataset=fleet.dataset, pool=fleet.pool, pseudonym=f"new-{number}"
        )
    assert queries() == few
    history = read_history(fleet.dataset, until=AS_OF, days=DAYS)
    assert history.active_ratio.shape == (32, DAYS * 24)
    assert np.isnan(history.active_ratio[2:]).all(), "a newcomer has a row of NaN"


def test_the_plan_advises_to_follow_the_traveller_and_to_leave_the_other(fleet: Fleet) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    plan = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    advice = {r.desktop.key: r for r in plan.recommendations.select_related("desktop")}
    ana, ben = advice["ana"], advice["ben"]
    assert ben.action == Recommendation.Action.STAY
    assert (ana.action, ana.dest_region) == (Recommendation.Action.PREPARE, fleet.west)
    assert ana.state == Recommendation.State.AWAITING_APPROVAL
    assert sum(item["micros"] for item in ana.items) == ana.action_cost_micros
    assert ana.stay_cost_micros - ana.action_cost_micros == ana.gain_micros > 0
    assert "Seattle" in ana.reason
    assert Event.objects.filter(kind="plan.made", pool=fleet.pool).count() == 1


def test_a_new_plan_supersedes_what_waited_and_leaves_what_moves_alone(fleet: Fleet) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    first = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    second = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    states = set(first.recommendations.filter(action="prepare").values_list("state", flat=True))
    assert states == {Recommendation.State.SUPERSEDED}
    assert Plan.objects.get(superseded_at__isnull=True) == second
    move = second.recommendations.get(action="prepare")
    approve_recommendation(recommendation_id=move.pk, actor=fleet.alice, at=timezone.now())
    third = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    assert list(third.recommendations.values_list("desktop__key", flat=True)) == ["ben"]
    assert Transition.objects.count() == 1


def test_people_without_desktops_and_machines_without_people_have_an_empty_plan(
    fleet: Fleet,
) -> None:
    fleet.dataset.desktops.all().delete()
    Activity.objects.update(active_ratio=None, cpu_cores=None)
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    plan = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    assert plan.recommendations.count() == 0


def test_planning_without_a_forecast_is_refused(fleet: Fleet) -> None:
    with pytest.raises(NotPossible, match="no complete forecast"):
        make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())


def test_advice_expires_in_its_data_sets_time(fleet: Fleet) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    plan = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    move = plan.recommendations.get(action="prepare")
    assert expire_recommendations(wall=timezone.now()) == 0
    fleet.dataset.as_of = move.expires_at
    fleet.dataset.save()
    assert expire_recommendations(wall=timezone.now()) == 1


def test_seeing_the_person_there_confirms_and_seeing_them_elsewhere_does_not(
    fleet: Fleet,
) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    plan = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    move = plan.recommendations.get(action="prepare")
    transition = approve_recommendation(
        recommendation_id=move.pk, actor=fleet.alice, at=timezone.now()
    )
    assert confirm_seen(wall=timezone.now()) == 0, "a prediction cannot confirm itself"

    def seen(site: str, *, hours: int) -> int:
        Activity.objects.create(
            dataset=fleet.dataset,
            desktop_user=move.desktop.desktop_user,
            desktop=move.desktop,
            hour=AS_OF + timedelta(hours=hours),
            active_ratio=1,
            site=Site.objects.get(code=site),
        )
        fleet.dataset.as_of = AS_OF + timedelta(hours=hours + 1)
        fleet.dataset.save()
        return confirm_seen(wall=timezone.now())

    assert seen("boston", hours=0) == 0
    assert seen("seattle", hours=1) == 1
    transition.refresh_from_db()
    assert transition.confirmed_at is not None
    assert "Seattle" in transition.confirmation


def test_an_automatic_pool_approves_by_itself_and_waits_for_confirmation(fleet: Fleet) -> None:
    fleet.pool.cutover_mode = Pool.CutoverMode.AUTO
    fleet.pool.confidence_threshold = 0.3
    fleet.pool.save()
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    transition = Transition.objects.get()
    assert transition.approved_at is not None
    assert transition.confirmed_at is None
    assert transition.recommendation is not None
    assert transition.recommendation.decision.decided_by is None


def test_a_pool_that_stopped_moving_since_the_plan_moves_nothing(fleet: Fleet) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    plan = make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    move = plan.recommendations.get(action="prepare")
    fleet.pool.cutover_mode = Pool.CutoverMode.OFF
    fleet.pool.save()
    with pytest.raises(NotDecidable, match="does not move desktops any more"):
        approve_recommendation(recommendation_id=move.pk, actor=fleet.alice, at=timezone.now())
    assert not Transition.objects.exists()


def test_a_plan_that_cannot_be_made_says_why_to_those_who_wait(fleet: Fleet) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    FlavorPrice.objects.all().delete()
    with pytest.raises(NotPossible, match="no price"):
        make_plan(dataset_id=fleet.dataset.pk, wall=timezone.now())
    failed = Event.objects.get(kind="plan.failed", pool=fleet.pool)
    assert "no price" in failed.payload["reason"]


def test_what_is_known_of_a_person_alone_belongs_to_their_desktop(fleet: Fleet) -> None:
    ben = DesktopUser.objects.get(pseudonym="ben")
    hour = AS_OF - timedelta(hours=2)
    Activity.objects.create(
        dataset=fleet.dataset,
        desktop_user=ben,
        hour=hour,
        active_ratio=0.25,
        site=Site.objects.get(code="seattle"),
    )
    history = read_history(fleet.dataset, until=AS_OF, days=DAYS)
    rows = [r for r, s in enumerate(history.subjects) if s.desktop_user_id == ben.pk]
    assert len(rows) == 1
    assert history.active_ratio[rows[0], -2] == 0.25


def test_a_persons_page_tells_how_their_forecast_was_made_and_how_one_turned_out(
    fleet: Fleet,
) -> None:
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    person = DesktopUser.objects.get(pseudonym="ana")
    client = Client()
    root = get_user_model().objects.create_superuser("root", password="x")
    client.force_login(root)
    address = f"/people/{person.pk}/"
    assert "No earlier forecast to compare yet" in client.get(address).content.decode()

    Site.objects.filter(code="boston").update(country="US")
    Activity.objects.bulk_create(
        Activity(
            dataset=fleet.dataset,
            desktop_user=person,
            desktop=person.desktop,
            hour=AS_OF + timedelta(hours=h),
            active_ratio=1.0,
            cpu_cores=1.1 if h < 3 else 50.0,
        )
        for h in range(4)
    )
    fleet.dataset.as_of = AS_OF + timedelta(hours=30)
    fleet.dataset.save()
    Notice.objects.create(
        dataset=fleet.dataset,
        kind=Notice.Kind.BUSY,
        title="Quarter close",
        starts_at=AS_OF,
        ends_at=AS_OF + timedelta(days=2),
        origin=Notice.Origin.REST,
        provenance="test",
        uid="0" * 64,
        received_at=AS_OF,
    )
    run_forecast(dataset_id=fleet.dataset.pk, clock=timezone.now)
    row = ResourceDemandProfile.objects.filter(desktop_user=person).latest("pk")
    weights = [weight for weight, _ in row.engines["cpu_cores"].values()]
    assert sum(weights) == pytest.approx(1.0, abs=0.01)

    page = client.get(address).content.decode()
    for words in ("How it was forecast", "champion", "What repeats", "How an earlier forecast"):
        assert words in page, words
    base = f"/profiles/{row.pk}"
    parts = client.get(f"{base}/components/cpu_cores.json").json()["figure"]
    assert len(parts["data"]) >= 3, "trend, week and day"
    assert all(any(y is not None for y in trace["y"]) for trace in parts["data"])
    earlier = client.get(f"{base}/earlier/cpu_cores.json").json()["figure"]
    assert "of 4 hours observed since, 75% lay in the band" in str(earlier["layout"])
    demand = client.get(f"{base}/demand/cpu_cores.json").json()["figure"]
    assert "Quarter close (REST)" in str(demand["layout"])
    weeks = events_about(root, row, start=AS_OF - timedelta(weeks=8), end=AS_OF)
    assert "Washington's Birthday (public holiday, US)" in [event.name for event in weeks]
    assert client.get(f"{base}/components/happiness.json").status_code == 404

    stranger = Client()
    stranger.force_login(get_user_model().objects.create_user("eve", password="x"))
    for address in ("components/cpu_cores.json", "earlier/cpu_cores.json"):
        assert stranger.get(f"{base}/{address}").status_code in (403, 404)


def test_a_round_trip_nobody_entered_is_estimated_where_coordinates_are_known(fleet: Fleet) -> None:
    RoundTrip.objects.filter(site__code="seattle").delete()
    RoundTrip.objects.filter(site__code="boston", region=fleet.east).delete()
    Region.objects.filter(pk=fleet.east.pk).update(latitude=40, longitude=-71)
    given = read_plan_input(
        fleet.dataset,
        fleet.plan().generation,
        wall=timezone.now(),
        clouds=get_cloud,
        sample_paths=lambda desktops, sites: None,
    )
    assert [site.code for site in given.sites] == ["boston", "seattle"]
    assert [region.name for region in given.regions] == ["east", "west"]
    (boston_east, boston_west), (seattle_east, seattle_west) = given.tables.rtt_ms.tolist()
    assert (boston_east, boston_west) == (LAST_MILE_MS, 180)
    assert LAST_MILE_MS < seattle_east < FARTHEST_RTT_MS
    assert seattle_west == FARTHEST_RTT_MS
