from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import parse_qs

import httpx
import numpy as np
import pytest

from desktops.errors import SourceFailed
from desktops.sources.http import ATTEMPTS, JsonClient
from desktops.sources.prometheus.answers import series_of, to_samples
from desktops.sources.prometheus.source import PrometheusSource

HOST = re.compile(r"(.+?)(?::\d+)?$")


def series(instance: str, *values: tuple[int, str]) -> dict[str, object]:
    return {"metric": {"instance": instance}, "values": [list(pair) for pair in values]}


def columns(**answers: list[object]):  # type: ignore[no-untyped-def]
    return to_samples(
        answers, label="instance", pattern=HOST, first_s=1000, step_s=10, n_points=3, shift_s=10
    )


def test_series_of_all_measures_become_rows_by_time_and_desktop() -> None:
    samples = columns(
        cpu_cores=[series("a:9100", (1000, "0.5"), (1020, "0.7")), series("b", (1010, "2"))],
        memory_bytes=[series("b", (1010, "3e9"), (1020, "4e9"))],
    )
    rows = list(
        zip(
            samples.unix_s.tolist(),
            [samples.desktop.text(n) for n in range(len(samples))],
            samples.measures["cpu_cores"].tolist(),
            samples.measures["memory_bytes"].tolist(),
            strict=True,
        )
    )
    nan = pytest.approx(np.nan, nan_ok=True)
    assert rows == [
        (990, "a", 0.5, nan),
        (1000, "b", 2, 3e9),
        (1010, "a", 0.7, nan),
        (1010, "b", nan, 4e9),
    ]


def test_what_is_no_number_was_not_observed() -> None:
    samples = columns(
        cpu_cores=[
            series("a", (1000, "NaN"), (1010, "+Inf"), (1020, "1")),
            series("b", (1000, "-Inf")),
        ]
    )
    assert samples.unix_s.tolist() == [1010]
    assert samples.desktop.used() == ["a"]


def test_of_two_series_of_one_desktop_the_larger_counts() -> None:
    samples = columns(cpu_cores=[series("a:1", (1000, "1")), series("a:2", (1000, "3"))])
    assert samples.measures["cpu_cores"].tolist() == [3]


def test_a_series_without_the_label_is_left_out() -> None:
    assert len(columns(cpu_cores=[{"metric": {}, "values": [[1000, "1"]]}])) == 0
    assert len(columns(cpu_cores=[])) == 0


def test_half_an_answer_is_none() -> None:
    good = {"status": "success", "data": {"resultType": "matrix", "result": []}}
    assert series_of(good) == []
    assert series_of({**good, "warnings": ["PromQL info: metric might not be a counter"]}) == []
    with pytest.raises(SourceFailed, match="only a part: no store"):
        series_of({**good, "warnings": ["no store matched"]})
    with pytest.raises(SourceFailed):
        series_of({"status": "success", "data": {"resultType": "vector", "result": []}})
    with pytest.raises(SourceFailed):
        series_of([])


class Server:
    """Answers each question with the next of `statuses`, then with 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.asked: list[dict[str, list[str]]] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(parse_qs(request.content.decode()))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return httpx.Response(status, text="not today")
        empty = {"status": "success", "data": {"resultType": "matrix", "result": []}}
        return httpx.Response(200, json=empty)

    def source(self, *, points: int = 10) -> PrometheusSource:
        client = httpx.Client(transport=httpx.MockTransport(self), base_url="http://prometheus")
        return PrometheusSource(
            client=JsonClient(client, sleep=self.pauses.append),
            queries={"cpu_cores": "up"},
            label="instance",
            pattern=HOST,
            step_s=60,
            points=points,
        )


def moment(unix_s: int) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def test_pages_cover_every_step_that_is_over_exactly_once() -> None:
    server = Server()
    pulled = list(server.source(points=3).pull(moment(61), moment(610)))
    asked = [int(at) for one in server.asked for at in (one["start"][0], one["end"][0])]
    # Steps begin at 120 … 540; the value of each is asked for at its end.
    assert asked == [180, 300, 360, 480, 540, 600]
    assert [each.until for each in pulled] == [moment(300), moment(480), moment(600)]
    assert list(server.source().pull(moment(61), moment(119))) == []


def test_a_server_that_is_busy_is_asked_again_more_and_more_slowly() -> None:
    server = Server(503, 500, 429)
    assert len(list(server.source().pull(moment(0), moment(60)))) == 1
    assert server.pauses == [1, 2, 4] and len(server.asked) == 4


def test_a_server_that_stays_away_fails_and_one_that_refuses_is_not_asked_twice() -> None:
    server = Server(*[503] * ATTEMPTS)
    with pytest.raises(SourceFailed, match="503: not today"):
        list(server.source().pull(moment(0), moment(60)))
    refusing = Server(401)
    with pytest.raises(SourceFailed, match="credentials are refused"):
        list(refusing.source().pull(moment(0), moment(60)))
    assert len(refusing.asked) == 1
