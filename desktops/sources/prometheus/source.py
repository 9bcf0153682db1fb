"""Activity from Prometheus, or whatever speaks its HTTP API: range queries, one per measure.

A sample dated 09:00 says what happened in the `step_s` seconds from then on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from desktops.sources.entries import Options
from desktops.sources.http import JsonClient, open_client
from desktops.sources.prometheus.answers import series_of, to_samples
from desktops.sources.prometheus.presets import PRESETS, Preset
from desktops.sources.pulling import Pulled
from desktops.sources.registry import SiteOf
from desktops.sources.samples import MEASURES, Samples

MAKES_PEOPLE = False
SETTLE_S = 120  # scrapes of every target, and the rules that follow on them
MOST_POINTS = 11_000  # of one series in one answer; the server refuses more
PATH = "/api/v1/query_range"


def connect(options: Options, *, site_of: SiteOf) -> PrometheusSource:
    """Raises InvalidFile."""
    preset = PRESETS.get(options.one_of("preset", PRESETS, ""), Preset({}, label=""))
    queries = {**preset.queries, **options.texts("queries", MEASURES)}
    if not queries:
        raise options.wrong("preset", f"must be one of {', '.join(sorted(PRESETS))}, or [queries]")
    step_s = options.whole("step_s", 300, maximum=3600)
    window_s = options.whole("window_s", 3600, minimum=step_s)
    range_s = options.whole("range_s", max(step_s, 240))
    match = options.text("match", "")
    source = PrometheusSource(
        client=open_client(options, url=options.url("url")),
        queries={name: _filled(query, range_s, match) for name, query in queries.items()},
        label=options.text("label", preset.label or None),
        pattern=options.pattern("label_pattern", preset.label_pattern),
        step_s=step_s,
        points=min(
            window_s // step_s,
            options.whole("max_points", MOST_POINTS, maximum=MOST_POINTS),
        ),
    )
    options.finish()
    return source


def _filled(query: str, range_s: int, match: str) -> str:
    """Not string.Template: `$1` and a regular expression's `$` are PromQL's own."""
    return query.replace("$range", f"{range_s}s").replace("$match", match)


@dataclass(frozen=True, slots=True)
class PrometheusSource:
    """queries : measure → PromQL
    points : moments asked for at once
    """

    client: JsonClient
    queries: Mapping[str, str]
    label: str
    pattern: re.Pattern[str]
    step_s: int
    points: int

    def pull(self, since: datetime, until: datetime) -> Iterator[Pulled]:
        """Steps that begin at `since` or later and are over at `until`. Raises SourceFailed."""
        step = self.step_s
        begin = -(-int(since.timestamp()) // step)
        end = int(until.timestamp()) // step
        while begin < end:
            n = min(self.points, end - begin)
            yield Pulled(
                self._samples(begin * step, n), datetime.fromtimestamp((begin + n) * step, UTC)
            )
            begin += n

    def _samples(self, first_s: int, n: int) -> Samples:
        """Of n steps; a value looks back, so that of a step stands at its end."""
        asked_s = first_s + self.step_s
        answers = {
            measure: series_of(
                self.client.post(
                    PATH,
                    form={
                        "query": query,
                        "start": str(asked_s),
                        "end": str(asked_s + (n - 1) * self.step_s),
                        "step": str(self.step_s),
                    },
                )
            )
            for measure, query in self.queries.items()
        }
        return to_samples(
            answers,
            label=self.label,
            pattern=self.pattern,
            first_s=asked_s,
            step_s=self.step_s,
            n_points=n,
            shift_s=self.step_s,
        )

    def close(self) -> None:
        self.client.close()
