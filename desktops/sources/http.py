"""Questions over HTTP to a monitoring system: asked again while that may help, else explained."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import orjson

from desktops.errors import SourceFailed
from desktops.sources.entries import Options

ATTEMPTS = 4
FIRST_PAUSE_S = 1.0
MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
SHOWN = 300  # characters of an answer in a message


class JsonClient:
    """Asks one server. A question changes nothing there, so it can always be asked again."""

    def __init__(
        self, client: httpx.Client, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._sleep = sleep

    def close(self) -> None:
        self._client.close()

    def post(
        self,
        path: str,
        *,
        form: Mapping[str, str] | None = None,
        json: object = None,
        params: Mapping[str, str] | None = None,
        absent: frozenset[int] = frozenset(),
    ) -> Any:
        """The parsed answer; None where its status is one of `absent`.

        form, json : the body, one of them

        Raises SourceFailed when it stays without an answer, or is refused.
        """
        fault = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                answer = self._client.post(path, data=form, json=json, params=params)
            except httpx.TransportError as error:
                fault = str(error) or type(error).__name__
                continue
            if answer.is_success:
                return _parsed(answer)
            if answer.status_code in absent:
                return None
            fault = f"answers {answer.status_code}: {_complaint(answer)}"
            if answer.status_code not in MAY_PASS:
                break
        raise SourceFailed(f"{str(self._client.base_url).rstrip('/')}{path} {fault}")


def _parsed(answer: httpx.Response) -> Any:
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        raise SourceFailed(
            f"{answer.url.copy_with(query=None)} does not answer with JSON."
        ) from None


def _complaint(answer: httpx.Response) -> str:
    if answer.status_code in {401, 403}:
        return "the credentials are refused, or have no right to this."
    if answer.is_redirect:
        return "it redirects elsewhere; is the url right?"
    return " ".join(answer.text.split())[:SHOWN]


def open_client(options: Options, *, url: str, auth: httpx.Auth | None = None) -> JsonClient:
    """A client with the entry's credentials, CA file and time limit.

    No proxy of the environment stands between us and a monitoring system.
    """
    headers = {}
    if options.has("token"):
        headers["Authorization"] = f"Bearer {options.text('token')}"
    elif options.has("user"):
        auth = httpx.BasicAuth(options.text("user"), options.text("password", ""))
    ca_file = options.file("ca_file")
    try:
        verify = ssl.create_default_context(cafile=ca_file) if ca_file else True
    except ssl.SSLError as error:
        raise options.wrong("ca_file", f"holds no certificates ({error})") from None
    return JsonClient(
        httpx.Client(
            base_url=url,
            headers=headers,
            auth=auth,
            verify=verify,
            timeout=options.whole("timeout_s", 60, maximum=600),
            trust_env=False,
        )
    )
