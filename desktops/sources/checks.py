"""What an observation must be to be believed, whatever its source."""

from __future__ import annotations

from collections.abc import Container
from datetime import UTC, datetime

from desktops.sources.samples import Rejections, Samples, Screen

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
SKEW_S = 300  # a clock may be ahead of ours by this much
LONGEST_NAME = 200

# Name → the most that can be true of one desktop. Nothing may be negative.
MOST = {
    "cpu_cores": 1024.0,
    "memory_bytes": 64.0 * 2**40,
    "network_bytes_per_s": 1e11,
    "storage_bytes_per_s": 1e12,
    "active_ratio": 1.0,
}


def believable(
    samples: Samples,
    *,
    wall: datetime,
    sites: Container[str],
    rejections: Rejections,
    earliest: datetime = EARLIEST,
) -> Samples:
    """The samples that pass; the others are added to `rejections`.

    wall : now; what claims to be later has a wrong clock or unit
    sites : the codes a site may have
    earliest : what is older comes too late to be believed
    """
    screen = Screen(samples.line, rejections)
    at = samples.unix_s
    screen.refuse(
        at > wall.timestamp() + SKEW_S,
        lambda n: f"time {_instant(int(at[n]))} lies in the future",
        "future",
    )
    screen.refuse(
        at < earliest.timestamp(),
        lambda n: f"time {_instant(int(at[n]))} lies before {_day(earliest)}",
        "too_old",
    )
    for name, values in samples.measures.items():
        most = MOST[name]
        screen.refuse(
            values < 0,
            lambda n, v=values, name=name: f"{name} {v[n]:g} is negative",
            "negative",
        )
        screen.refuse(
            values > most,
            lambda n, v=values, name=name, most=most: f"{name} {v[n]:g} is more than {most:g}",
            "absurd",
        )
    for kind, labels in (("person", samples.person), ("desktop", samples.desktop)):
        screen.refuse(
            labels.among(lambda text: len(text) > LONGEST_NAME or not text.isprintable()),
            lambda n, kind=kind: f"{kind} is longer than {LONGEST_NAME} or not printable",
        )
        screen.refuse(
            labels.among(lambda text: "\ufffd" in text),
            lambda n, kind=kind: f"{kind} is not UTF-8",
        )
    screen.refuse(
        ~samples.person.is_given & ~samples.desktop.is_given,
        lambda n: "neither a person nor a desktop",
        "no_subject",
    )
    screen.refuse(
        samples.site.among(lambda code: code not in sites),
        lambda n: f"site {samples.site.text(n)!r} is not known",
        "unknown_site",
    )
    observed = samples.site.is_given
    for values in samples.measures.values():
        observed = observed | (values == values)
    screen.refuse(~observed, lambda n: "nothing was observed", "nothing_observed")
    return samples.take(screen.passed)


def _day(moment: datetime) -> str:
    return "2000" if moment == EARLIEST else f"{moment:%Y-%m-%d %H:%M} UTC"


def _instant(unix_s: int) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{unix_s} s (not milliseconds?)"
