"""What pages say of where people will be, and to whom."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from desktops.models import (
    Activity,
    Dataset,
    Desktop,
    DesktopUser,
    FlavorPrice,
    Look,
    Notice,
    Pool,
    RoundTrip,
)
from forecasting.models import Generation, ResourceDemandProfile
from tests.support.rows import AS_OF, HOUR, Rows, add_profile, make_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def rows() -> Rows:
    rows = make_rows()
    FlavorPrice.objects.get_or_create(flavor=rows.flavor, region=rows.west, price_per_hour="0.1")
    return rows


def signed_in(rows: Rows, *roles: str, name: str = "vera") -> Client:
    client = Client()
    client.force_login(rows.account(name, *(roles or ("viewer",))))
    return client


def page_of(client: Client, desktop: Desktop, query: str = "") -> str:
    response = client.get(f"/people/{desktop.desktop_user_id}/{query}")
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def foretell(
    desktop: Desktop, rows: Rows, *, days_ago: int, kind: str = "full"
) -> ResourceDemandProfile:
    """An earlier forecast of somebody: 70 % Paris, as the present one."""
    as_of = AS_OF - timedelta(days=days_ago)
    generation, _ = Generation.objects.get_or_create(
        dataset=rows.dataset,
        kind=kind,
        as_of=as_of,
        engine="test",
        state=Generation.State.COMPLETE,
        defaults={"started_at": as_of},
    )
    person = desktop.desktop_user
    return add_profile(generation, desktop.pool, person=person, desktop=desktop, site=rows.sites[0])


def see(desktop: Desktop, rows: Rows, *, paris: int, lyon: int) -> None:
    """In the first hours of the last two days, where somebody was."""
    Activity.objects.filter(desktop_user=desktop.desktop_user).delete()
    Activity.objects.bulk_create(
        Activity(
            dataset=rows.dataset,
            desktop_user=desktop.desktop_user,
            desktop=desktop,
            hour=AS_OF - timedelta(days=2) + hour * HOUR,
            site=rows.sites[0 if hour < paris else 1],
        )
        for hour in range(paris + lyon)
    )


def test_a_person_is_said_to_be_where_they_are_likeliest(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    location = {"paris": [0.7] * 24 + [0.2] * 144, "lyon": [0.3] * 24 + [0.8] * 144}
    ResourceDemandProfile.objects.update(location=location)
    text = page_of(signed_in(rows), desktop)
    assert "<strong>70 %</strong> Paris</div> <div>now until Tue 09:00" in text
    assert "<strong>80 %</strong> Lyon</div> <div>from Tue 09:00 until Wed 09:00" in text
    assert "by the clock of Europe/Paris" in text
    assert text.count("Too seldom said") == 2


def test_hours_that_are_over_are_not_foretold_any_more(rows: Rows) -> None:
    desktop, client = rows.add_people(1)[0], signed_in(rows)
    location = {"paris": [0.7] * 24 + [0.2] * 144, "lyon": [0.3] * 24 + [0.8] * 144}
    ResourceDemandProfile.objects.update(location=location)
    Dataset.objects.update(as_of=AS_OF + 30 * HOUR)
    text = page_of(client, desktop)
    assert "<strong>80 %</strong> Lyon</div> <div>now until" in text and "70 %" not in text
    Dataset.objects.update(as_of=AS_OF + 200 * HOUR)
    assert "The forecast is over" in page_of(client, desktop)


def test_the_page_says_how_often_the_same_came_true(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    foretell(desktop, rows, days_ago=2)
    see(desktop, rows, paris=9, lyon=3)
    assert "The same said before came true in 9 of 12 hours seen" in page_of(
        signed_in(rows), desktop
    )


def test_what_was_seen_before_it_was_said_is_no_proof(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    told = foretell(desktop, rows, days_ago=2)
    see(desktop, rows, paris=9, lyon=12)
    # Seen in the ninth hour, and the map moved to that: what it says since is not hindsight.
    ResourceDemandProfile.objects.filter(pk=told.pk).update(
        seen_at=told.starts_at + timedelta(hours=8, minutes=20)
    )
    assert "The same said before came true in 0 of 12 hours seen" in page_of(
        signed_in(rows), desktop
    )


def test_refreshes_and_forecasts_of_others_are_no_record_of_theirs(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    foretell(desktop, rows, days_ago=2, kind="refresh")
    see(desktop, rows, paris=12, lyon=0)
    assert "Too seldom said" in page_of(signed_in(rows), desktop)


def test_their_pools_record_stands_in_where_theirs_is_short(rows: Rows) -> None:
    desktop, colleague = rows.add_people(2)
    foretell(colleague, rows, days_ago=2)
    see(colleague, rows, paris=10, lyon=5)
    text = page_of(signed_in(rows), desktop)
    assert "of their pool, the same said before came true in 10 of 15 hours seen" in text


def test_the_record_of_another_pool_stands_in_for_nobody(rows: Rows) -> None:
    desktop, stranger = rows.add_people(2)
    stranger.pool = Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    DesktopUser.objects.filter(pk=stranger.desktop_user_id).update(pool=stranger.pool)
    foretell(stranger, rows, days_ago=2)
    see(stranger, rows, paris=10, lyon=5)
    assert "Too seldom said" in page_of(signed_in(rows), desktop)


def test_regions_say_how_far_they_will_be_and_who_says_so(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    RoundTrip.objects.create(site=rows.sites[0], region=rows.east, rtt_ms=42, source="measured")
    text = page_of(signed_in(rows), desktop)
    east, west = text.index("East <span"), text.index("<td>West")
    assert east < west
    assert '<strong>42 ms</strong><div class="text-secondary small">70 % within' in text[east:west]
    assert "Measured 70 %" in text[east:west] and "not known 30 %" in text[east:west]
    assert "Great-circle estimate 70 %" in text[west:]
    assert "60 ms, the SLO of Pool test" in text


def test_only_regions_the_desktop_could_run_in_are_listed(rows: Rows) -> None:
    desktop, client = rows.add_people(1)[0], signed_in(rows)
    assert "<td>West" in page_of(client, desktop)
    FlavorPrice.objects.filter(region=rows.west).delete()
    assert "<td>West" not in page_of(client, desktop)
    FlavorPrice.objects.create(flavor=rows.flavor, region=rows.west, price_per_hour="0.1")
    rows.pool.residency.add(rows.west)
    text = page_of(client, desktop)
    assert "<td>West" in text and "East <span" in text  # where it runs is shown in any case


def test_of_somebody_who_is_expected_elsewhere_no_round_trip_is_known(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    ResourceDemandProfile.objects.update(location={"elsewhere": [1.0] * 168})
    text = page_of(signed_in(rows), desktop)
    assert "<strong>100 %</strong> elsewhere" in text
    assert '<strong>—</strong><div class="text-secondary small">0 % within' in text
    assert "not known 100 %" in text


def test_somebody_who_is_not_to_be_located_has_no_places(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    ResourceDemandProfile.objects.update(location={})
    DesktopUser.objects.update(is_located=False)
    text = page_of(signed_in(rows), desktop)
    for trace in ('id="stays"', 'id="regions"', "Likely places", 'id="what-if"'):
        assert trace not in text


def test_a_look_at_where_somebody_will_be_is_noted(rows: Rows) -> None:
    page_of(signed_in(rows), rows.add_people(1)[0])
    assert Look.objects.filter(viewer="vera", what=Look.What.PAGE).count() == 1


def queries(client: Client, address: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(address).status_code == 200
    return len(asked)


def test_a_persons_page_asks_as_often_in_a_large_pool_as_in_a_small_one(rows: Rows) -> None:
    client, counts = signed_in(rows), []
    for n in (2, 40):
        for desktop in rows.add_people(n):
            foretell(desktop, rows, days_ago=2)
        counts.append(queries(client, f"/people/{desktop.desktop_user_id}/"))
    assert counts[0] == counts[1]


def fleet_page(client: Client, query: str = "") -> str:
    response = client.get(f"/whereabouts/{query}")
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def row(place: str, people: str) -> str:
    return f'<td>{place}</td><td class="text-end text-nowrap">{people}</td>'


def test_the_fleets_page_adds_up_where_people_are_expected(rows: Rows) -> None:
    rows.add_people(6)
    text = fleet_page(signed_in(rows))
    assert row("Paris", "4.2") in text
    assert row("Elsewhere, at no known site", "1.8") in text
    assert "the sum of the probabilities of 6 people in your pools" in text
    assert "forecast from what was known at" in text and "by test" in text


def test_the_fleets_page_shows_the_hour_that_is_asked_for(rows: Rows) -> None:
    rows.add_people(6)
    location = {"paris": [0.5] * 24 + [1.0] * 144, "lyon": [0.5] * 24 + [0.0] * 144}
    ResourceDemandProfile.objects.update(location=location)
    client = signed_in(rows)
    assert row("Paris", "3.0") in fleet_page(client)
    later = fleet_page(client, "?hour=30")
    assert row("Paris", "6.0") in later and "Tue 3 Mar 2026 14:00 UTC" in later
    Dataset.objects.update(as_of=AS_OF + 30 * HOUR)
    assert row("Paris", "6.0") in fleet_page(client)


@pytest.mark.parametrize(
    "query", ["?hour=-1", "?hour=168", "?hour=x", "?dataset=%00", "?dataset=no"]
)
def test_an_hour_or_a_data_set_there_is_not_asks_for_none(rows: Rows, query: str) -> None:
    rows.add_people(6)
    assert row("Paris", "4.2") in fleet_page(signed_in(rows), query)


def test_a_place_of_few_people_is_not_shown_on_the_fleets_page(rows: Rows) -> None:
    people = rows.add_people(16)
    lyon = {"lyon": [1.0] * 168}
    few = [desktop.desktop_user_id for desktop in people[:3]]
    ResourceDemandProfile.objects.filter(desktop_user__in=few).update(location=lyon)
    client = signed_in(rows)
    text = fleet_page(client)
    assert "Lyon" not in text and row("Paris", "9.1") in text
    assert "fewer than 5 people" in text
    figure = figure_of(client, rows)
    assert "Lyon" not in str(figure)
    # Elsewhere has enough of its own, and hides so that Lyon cannot be had by subtraction.
    assert figure["layout"]["sliders"][0]["steps"][0]["table"] == ["9.1", "6.9"]


def figure_of(client: Client, rows: Rows) -> dict[str, Any]:
    answer = client.get(f"/whereabouts/{rows.generation.pk}/map.json")
    assert answer.status_code == 200
    figure: dict[str, Any] = answer.json()["figure"]
    return figure


def test_the_map_says_what_the_table_says_at_every_hour(rows: Rows) -> None:
    rows.add_people(6)
    client = signed_in(rows)
    (slider,) = figure_of(client, rows)["layout"]["sliders"]
    assert len(slider["steps"]) == 168
    step = slider["steps"][30]
    assert step["label"] == "Tue 03 Mar 14:00" and step["table"] == ["4.2", "1.8", "0.0"]
    assert step["args"][0]["text"] == [["Paris: 4.2 people"]]
    assert step["args"][0]["marker.size"] == [[4.2]]


def test_whoever_opted_out_is_not_counted(rows: Rows) -> None:
    people = rows.add_people(7)
    gone = DesktopUser.objects.filter(pk=people[0].desktop_user_id)
    gone.update(is_located=False)
    client = signed_in(rows)
    assert row("Paris", "4.2") in fleet_page(client)
    gone.update(is_located=True)
    assert row("Paris", "4.9") in fleet_page(client)
    ResourceDemandProfile.objects.filter(desktop_user__in=gone).update(location={})
    assert row("Paris", "4.2") in fleet_page(client)


def test_people_of_other_pools_are_not_counted(rows: Rows) -> None:
    people = rows.add_people(12)
    other = Pool.objects.create(dataset=rows.dataset, name="other", label="Other")
    moved = [desktop.desktop_user_id for desktop in people[:6]]
    ResourceDemandProfile.objects.filter(desktop_user__in=moved).update(pool=other)
    assert row("Paris", "4.2") in fleet_page(signed_in(rows))
    assert row("Paris", "8.4") in fleet_page(signed_in(rows, "admin", name="ada"))


def test_a_stranger_sees_nothing_of_a_fleet(rows: Rows) -> None:
    rows.add_people(6)
    stranger = signed_in(make_rows("other"), name="sven")
    text = fleet_page(stranger, f"?dataset={rows.dataset.name}")
    assert "Paris" not in text and "Fleet test" not in text
    assert stranger.get(f"/whereabouts/{rows.generation.pk}/map.json").status_code == 404
    assert "No pool to see" in fleet_page(signed_in(rows, "none", name="nora"))


def test_a_fleet_without_forecast_or_places_says_so(rows: Rows) -> None:
    client = signed_in(rows)
    assert "Nobody's whereabouts are forecast" in fleet_page(client)
    assert figure_of(client, rows)["data"][0]["lat"] == []
    Generation.objects.update(state=Generation.State.FAILED)
    assert "No forecast yet" in fleet_page(client)
    assert client.get(f"/whereabouts/{rows.generation.pk}/map.json").status_code == 404


def test_programs_read_how_many_people_are_expected_where(rows: Rows) -> None:
    people = rows.add_people(16)
    few = [desktop.desktop_user_id for desktop in people[:3]]
    ResourceDemandProfile.objects.filter(desktop_user__in=few).update(location={"lyon": [1] * 168})
    client = signed_in(rows)
    told = client.get("/api/v1/whereabouts/?dataset=test").json()
    assert (told["total"], told["k_anonymity"]) == (16, 5)
    assert told["generation"]["id"] == rows.generation.pk
    assert told["sites"] == [{"site": "paris", "people": [9.1] * 168}]
    assert told["others"] == [6.9] * 168


def test_programs_are_told_what_is_wrong_with_what_they_asked(rows: Rows) -> None:
    client = signed_in(rows)
    assert "dataset" in client.get("/api/v1/whereabouts/").json()
    assert client.get("/api/v1/whereabouts/").status_code == 400
    assert client.get("/api/v1/whereabouts/?dataset=no").status_code == 404
    stranger = signed_in(make_rows("other"), name="sven")
    assert stranger.get("/api/v1/whereabouts/?dataset=test").status_code == 404
    assert Client().get("/api/v1/whereabouts/?dataset=test").status_code in (401, 403)


def test_programs_read_how_far_the_regions_will_be(rows: Rows) -> None:
    rows.add_people(1)
    RoundTrip.objects.create(site=rows.sites[0], region=rows.east, rtt_ms=42, source="measured")
    profile = ResourceDemandProfile.objects.get().pk
    told = signed_in(rows).get(f"/api/v1/profiles/{profile}/regions/").json()
    assert told["slo_rtt_ms"] == 60
    east = next(each for each in told["regions"] if each["region"]["name"] == "east")
    assert (east["rtt_ms"], east["within"], east["known"]) == ([42] * 168, [0.7] * 168, [0.7] * 168)
    assert Look.objects.filter(viewer="vera", what=Look.What.WHEREABOUTS).count() == 1
    stranger = signed_in(make_rows("other"), name="sven")
    assert stranger.get(f"/api/v1/profiles/{profile}/regions/").status_code == 404


def test_programs_learn_nothing_of_somebody_without_places(rows: Rows) -> None:
    rows.add_people(1)
    ResourceDemandProfile.objects.update(location={})
    profile = ResourceDemandProfile.objects.get().pk
    told = signed_in(rows).get(f"/api/v1/profiles/{profile}/regions/").json()
    assert [each["rtt_ms"] for each in told["regions"]] == [[], []]


def trip(site: str, start: str, until: str) -> str:
    return f"?trip-site={site}&trip-start={start}&trip-until={until}"


# On the clock of Paris; the forecast begins on Monday 2 March at nine there.
TO_LYON = trip("lyon", "2026-03-03T09:00", "2026-03-05T18:00")


def cells(text: str, table: str) -> list[list[str]]:
    """The rows of a table as words."""
    body = text.split(f'id="{table}"')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [
        [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", each)]
        for each in body.split("</tr>")[:-1]
    ]


def test_a_trip_that_nobody_announced_shows_what_it_would_change(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    for site, rtt_ms in zip(rows.sites, (20, 200), strict=True):
        RoundTrip.objects.create(site=site, region=rows.east, rtt_ms=rtt_ms, source="table")
    text = page_of(signed_in(rows), desktop, TO_LYON)
    places = cells(text, "what-if-places")
    (lyon, before, after), (paris, *at_home) = places[0], next(p for p in places if p[0] == "Paris")
    assert (lyon, before, paris, at_home[0]) == ("Lyon", "0 %", "Paris", "70 %")
    assert int(after.split()[-2]) > 80 and int(at_home[1].split()[-2]) < 20
    east = next(row for row in cells(text, "what-if-regions") if row[0] == "East")
    assert east[1].split()[:2] == ["20", "ms"] and int(east[2].split()[0]) > 150
    assert "Nothing of this is stored" in text
    assert "Tue 3 Mar 09:00 \N{EN DASH} Thu 5 Mar 18:00" in text


def test_asking_what_if_stores_nothing(rows: Rows) -> None:
    desktop, client = rows.add_people(1)[0], signed_in(rows)
    before = page_of(client, desktop)
    page_of(client, desktop, TO_LYON)
    assert not Notice.objects.exists()
    location = ResourceDemandProfile.objects.get().location
    assert sorted(location) == ["elsewhere", "paris"] and set(location["paris"]) == {
        np.float32(0.7)
    }
    assert page_of(client, desktop).count("70 %") == before.count("70 %")


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        (trip("oslo", "2026-03-03T09:00", "2026-03-04T09:00"), "site", "There is no such site."),
        (trip("", "2026-03-03T09:00", "2026-03-04T09:00"), "site", "This field is required."),
        (trip("lyon", "yesterday", "2026-03-04T09:00"), "start", "Enter a valid date/time."),
        (trip("lyon", "2026-03-03T09:00", ""), "until", "This field is required."),
        (trip("lyon", "2026-03-03T09:00", "2026-03-03T09:00"), "until", "after the beginning"),
        (trip("lyon", "2026-03-03T09:00", "2026-03-09T09:01"), "until", "The forecast reaches"),
        (trip("lyon", "2026-03-02T08:59", "2026-03-03T09:00"), "start", "The forecast reaches"),
        ("?trip-site=lyon", "start", "This field is required."),
        (trip("%00", "%00", "9999999-01-01T00:00"), "until", "Enter a valid date/time."),
    ],
)
def test_a_trip_that_makes_no_sense_is_refused_by_the_field(
    rows: Rows, query: str, field: str, words: str
) -> None:
    desktop = rows.add_people(1)[0]
    response = signed_in(rows).get(f"/people/{desktop.desktop_user_id}/{query}")
    assert response.status_code == 400
    text = " ".join(response.content.decode().split())
    error = text.split(f'id="id_trip-{field}-error"')[1].split("</div>")[0]
    assert words in error
    assert 'id="what-if-places"' not in text


def test_a_trip_of_the_whole_week_can_be_asked_about(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    week = trip("lyon", "2026-03-02T09:00", "2026-03-09T09:00")
    assert cells(page_of(signed_in(rows), desktop, week), "what-if-places")[0][0] == "Lyon"


def test_those_who_may_announce_are_told_how(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    assert "/api/v1/notices/" not in page_of(signed_in(rows), desktop, TO_LYON)
    operator = signed_in(rows, "operator", name="otto")
    assert "POST /api/v1/notices/?dataset=test" in page_of(operator, desktop, TO_LYON)


def test_no_trip_is_foretold_of_somebody_who_is_not_to_be_located(rows: Rows) -> None:
    desktop = rows.add_people(1)[0]
    ResourceDemandProfile.objects.update(location={})
    assert "what-if" not in page_of(signed_in(rows), desktop, TO_LYON)
