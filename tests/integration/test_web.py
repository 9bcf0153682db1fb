"""What the web server adds around every page."""

from __future__ import annotations

import pytest
import redis
from django.core.cache import cache
from django.test import AsyncClient, Client
from django.test.utils import override_settings


@pytest.mark.django_db
class TestHealth:
    def test_all_parts_answer(self, client: Client) -> None:
        response = client.get("/healthz")
        assert response.status_code == 200
        assert response.json() == {"database": True, "redis": True}

    def test_a_broken_part_is_named_without_its_reason(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(key: str) -> None:
            raise redis.ConnectionError("redis://:secret@host refused")

        monkeypatch.setattr(cache, "get", refuse)
        response = client.get("/healthz")
        assert response.status_code == 503
        assert response.json() == {"database": True, "redis": False}

    @override_settings(SECURE_SSL_REDIRECT=True)
    def test_a_load_balancer_may_ask_over_plain_http(self, client: Client) -> None:
        assert client.get("/healthz").status_code == 200


class TestStaticFiles:
    async def test_a_file_is_served_with_its_type_and_without_streaming(
        self, async_client: AsyncClient
    ) -> None:
        response = await async_client.get("/static/admin/css/base.css")
        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/css")
        assert not response.streaming
        assert len(response.content) == int(response["Content-Length"])

    async def test_an_unchanged_file_is_not_sent_again(self, async_client: AsyncClient) -> None:
        first = await async_client.get("/static/admin/css/base.css")
        again = await async_client.get(
            "/static/admin/css/base.css", headers={"if-none-match": first["ETag"]}
        )
        assert again.status_code == 304
        assert again.content == b""

    async def test_head_sends_no_body(self, async_client: AsyncClient) -> None:
        response = await async_client.head("/static/admin/css/base.css")
        assert response.status_code == 200
        assert int(response["Content-Length"]) > 0

    def test_the_synchronous_client_gets_the_same(self, client: Client) -> None:
        assert client.get("/static/admin/css/base.css").status_code == 200

    @pytest.mark.parametrize("path", ["/static/nothing.css", "/static/../manage.py"])
    def test_nothing_else_is_served(self, client: Client, path: str) -> None:
        assert client.get(path).status_code == 404

    def test_other_origins_get_no_invitation(self, client: Client) -> None:
        response = client.get("/static/admin/css/base.css")
        assert "Access-Control-Allow-Origin" not in response


@pytest.mark.django_db
def test_pages_allow_scripts_from_here_alone(client: Client) -> None:
    policy = client.get("/healthz")["Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == directives["script-src"] == "'self'"
    assert directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"
