from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from webapp.accounts import make_administrator
from webapp.models import User

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-battery"


@pytest.fixture
def ada() -> User:
    return make_administrator(username="ada", password=PASSWORD)


def sign_in(client: Client, password: str = PASSWORD) -> bool:
    client.post(reverse("login"), {"username": "ada", "password": password})
    return "_auth_user_id" in client.session


def test_a_one_time_password_signs_in_once_and_the_session_stays(ada: User) -> None:
    first, second = Client(), Client()
    assert sign_in(first)
    assert first.get(reverse("admin:index")).status_code == 200
    assert not sign_in(second)
    assert first.get(reverse("admin:index")).status_code == 200


def test_a_wrong_attempt_does_not_spend_it(ada: User, client: Client) -> None:
    assert not sign_in(client, "guess")
    assert sign_in(client)


def test_a_new_one_replaces_it_and_ends_older_sessions(ada: User) -> None:
    old, new = Client(), Client()
    assert sign_in(old)
    make_administrator(username="ada", password="another-horse")
    assert old.get(reverse("admin:index")).status_code == 302
    assert not sign_in(new)
    assert sign_in(new, "another-horse")


def test_an_ordinary_password_is_not_spent(ada: User) -> None:
    ada.has_one_time_password = False
    ada.save()
    assert sign_in(Client()) and sign_in(Client())
