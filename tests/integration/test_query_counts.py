"""A list asks the database as often for many rows as for few."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.support.rows import make_rows

# Address → queries, reviewed like code: of each, four are the session, the account and its role.
BASELINE = {
    "/": 19,
    "/people/": 9,
    "/desktops/": 9,
    "/plan/": 11,
    "/transitions/": 9,
    "/api/v1/datasets/": 6,
    "/api/v1/desktops/": 6,
    "/api/v1/events/": 5,
    "/api/v1/generations/": 6,
    "/api/v1/people/": 6,
    "/api/v1/plans/": 6,
    "/api/v1/pools/": 7,
    "/api/v1/profiles/": 6,
    "/api/v1/recommendations/": 6,
    "/api/v1/regions/": 7,
    "/api/v1/shadows/": 6,
    "/api/v1/sites/": 6,
    "/api/v1/transitions/": 6,
}


@pytest.mark.django_db
def test_the_number_of_queries_does_not_follow_the_number_of_rows() -> None:
    rows, client = make_rows(), Client()
    client.force_login(rows.account("vera", "viewer"))
    for n in (10, 60):
        for desktop in rows.add_people(n):
            rows.add_transition(desktop)
        assert {address: queries(client, address) for address in BASELINE} == BASELINE, f"{n} rows"


def queries(client: Client, address: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(address).status_code == 200
    return len(asked)
