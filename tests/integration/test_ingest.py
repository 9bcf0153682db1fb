"""From what a source delivers to what is stored: once, believed, resolved, and nothing lost."""

from __future__ import annotations

import gzip
import json
import math
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
from django.db import connection, transaction
from django.db.models import signals

from desktops.errors import Refused
from desktops.models import (
    Activity,
    AgentCredential,
    ApplicationUse,
    Batch,
    Dataset,
    Desktop,
    DesktopUser,
    DirtyHour,
    DiskRead,
    Network,
    Pool,
    QuarantinedRow,
    Sample,
    Sighting,
    Site,
    Source,
)
from desktops.pseudonyms import pseudonym
from desktops.services import batches, ingest
from desktops.services.batches import accept, settle
from desktops.services.ingest import Stored, ensure_source, store
from desktops.services.rollups import roll_up
from desktops.services.samples import drop_partitions, partition_days
from desktops.sources.samples import Labels, Samples
from forecasting.history import read_history

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAN = math.nan

pytestmark = pytest.mark.django_db


@pytest.fixture
def pool() -> Pool:
    dataset = Dataset.objects.create(name="live", label="Live", kind=Dataset.Kind.LIVE)
    return Pool.objects.create(dataset=dataset, name="office", label="Office")


@pytest.fixture
def paris() -> Site:
    return Site.objects.create(code="paris", label="Paris", latitude=48.9, longitude=2.3)


def desktop_of(pool: Pool, name: str, *, person: bool = True) -> Desktop:
    user = (
        DesktopUser.objects.create(dataset=pool.dataset, pool=pool, pseudonym=pseudonym(name))
        if person
        else None
    )
    return Desktop.objects.create(
        dataset=pool.dataset,
        pool=pool,
        key=f"desk-{name}",
        label=f"vm-{name}",
        desktop_user=user,
        server_id=f"server-{name}",
    )


def agent_of(desktop: Desktop) -> AgentCredential:
    return AgentCredential.objects.create(
        desktop=desktop,
        digest=uuid.uuid4().hex,
        enrolled_server_id=desktop.server_id,
        enrolled_at=NOW,
    )


def body(server_id: str, at: list[int], **more: Any) -> dict[str, Any]:
    columns = more.pop("columns", {"cpu_cores": [1.0] * len(at)})
    return {
        "batch_id": str(uuid.uuid4()),
        "server_id": server_id,
        "agent": "1.0",
        "sent_at": int(NOW.timestamp()),
        "samples": {"at": at, **columns},
        **more,
    }


def deliver(agent: AgentCredential, batch: dict[str, Any], *, at: datetime = NOW) -> bool:
    """Whether it was new."""
    data = gzip.compress(json.dumps(batch).encode())
    accepted = accept(credential=agent, body=data, content_encoding="gzip", wall=at)
    return not accepted.is_duplicate


def settle_now() -> int:
    return settle(clock=lambda: NOW)


def seconds(*minutes: float) -> list[int]:
    """Minutes before NOW as seconds since 1970."""
    return [int((NOW - timedelta(minutes=m)).timestamp()) for m in minutes]


def samples_of(
    desktop: str, at: list[int], *, person: str = "", site: str = "", **measures: list[float]
) -> Samples:
    n = len(at)

    def labels(text: str) -> Labels:
        return Labels.constant(text, n) if text else Labels.none(n)

    return Samples(
        np.arange(1, n + 1),
        np.array(at, dtype=np.int64),
        labels(person),
        labels(desktop),
        labels(site),
        {name: np.array(values, dtype=np.float64) for name, values in measures.items()},
    )


def keep(pool: Pool, samples: Samples, **options: Any) -> Stored:
    source = ensure_source(pool=pool, kind=Source.Kind.PROMETHEUS)
    return store(source=source, samples=samples, wall=NOW, **options)


# Taking in


def test_a_batch_becomes_samples_and_then_an_hour(pool: Pool) -> None:
    desktop = desktop_of(pool, "anna")
    columns = {"cpu_cores": [1.0, 3.0, None], "active_ratio": [1, 1, 0], "memory_bytes": [None] * 3}
    deliver(agent_of(desktop), body("server-anna", seconds(3, 2, 1), columns=columns))

    assert settle_now() == 1
    assert roll_up(until=NOW) == 1

    assert Sample.objects.count() == 3
    hour = Activity.objects.get()
    assert (hour.desktop_user_id, hour.desktop_id) == (desktop.desktop_user_id, desktop.pk)
    assert hour.hour == NOW.replace(minute=0)
    assert hour.cpu_cores == pytest.approx(2)
    assert hour.active_ratio == pytest.approx(2 / 3)
    assert hour.memory_bytes is None
    batch = Batch.objects.get()
    assert (batch.rows, batch.rejected_rows, batch.body, batch.settled_at) == (3, 0, None, NOW)
    source = Source.objects.get()
    assert (source.rows, source.newest_at) == (3, NOW - timedelta(minutes=1))
    assert source.last_success_at == NOW


def test_the_same_batch_again_changes_nothing(pool: Pool) -> None:
    agent = agent_of(desktop_of(pool, "anna"))
    batch = body("server-anna", seconds(1))

    assert deliver(agent, batch)
    assert not deliver(agent, batch)
    settle_now()
    assert not deliver(agent, batch)
    settle_now()

    assert Sample.objects.count() == Batch.objects.count() == 1


def test_the_same_samples_in_another_batch_are_stored_once(pool: Pool) -> None:
    agent = agent_of(desktop_of(pool, "anna"))
    deliver(agent, body("server-anna", seconds(5, 3)))
    settle_now()
    deliver(agent, body("server-anna", seconds(5, 4, 3, 3, 2)))
    settle_now()

    assert sorted(s.at for s in Sample.objects.all()) == [
        NOW - timedelta(minutes=m) for m in (5, 4, 3, 2)
    ]


def test_late_and_disordered_samples_correct_the_hour(pool: Pool) -> None:
    agent = agent_of(desktop_of(pool, "anna"))
    deliver(agent, body("server-anna", seconds(1), columns={"cpu_cores": [4.0]}))
    settle_now()
    roll_up(until=NOW)
    deliver(agent, body("server-anna", seconds(70, 2, 60), columns={"cpu_cores": [1.0, 2.0, 3.0]}))
    settle_now()
    roll_up(until=NOW)

    by_hour = {a.hour.hour: a.cpu_cores for a in Activity.objects.all()}
    assert by_hour == {9: pytest.approx(2.0), 10: pytest.approx(3.0)}
    assert not DirtyHour.objects.exists()


@pytest.mark.parametrize(
    ("spoil", "encoding", "status", "reason"),
    [
        (lambda data: data[:40], "gzip", 400, "malformed_gzip"),
        (lambda data: b"no gzip at all", "gzip", 400, "malformed_gzip"),
        (lambda data: data + b"more", "gzip", 400, "malformed_gzip"),
        (lambda data: gzip.compress(b" " * (9 << 20)), "gzip", 413, "too_large"),
        (lambda data: b"x" * ((1 << 20) + 1), "", 413, "too_large"),
        (lambda data: data, "br", 415, "unsupported_encoding"),
        (lambda data: b"{", "", 400, "malformed_json"),
        (lambda data: b'{"batch_id": NaN}', "", 400, "malformed_json"),
        (lambda data: b"[" * 100_000, "", 400, "malformed_json"),
        (lambda data: b"[]", "", 400, "malformed_batch"),
    ],
)
def test_what_is_no_batch_is_refused_whole(
    pool: Pool, spoil: Any, encoding: str, status: int, reason: str
) -> None:
    agent = agent_of(desktop_of(pool, "anna"))
    data = spoil(gzip.compress(json.dumps(body("server-anna", seconds(1))).encode()))

    with pytest.raises(Refused) as refused:
        accept(credential=agent, body=data, content_encoding=encoding, wall=NOW)

    assert (refused.value.status, refused.value.reason) == (status, reason)
    assert not Batch.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"batch_id": "1"},
        {"server_id": 7},
        {"samples": {}},
        {"samples": {"at": [1.5]}},
        {"samples": {"at": [True]}},
        {"samples": {"at": [2**63]}},
        {"samples": {"at": [1], "cpu_cores": [1, 2]}},
        {"samples": {"at": [1], "cpu_cores": ["1"]}},
        {"samples": {"at": [1], "cpu_cores": [False]}},
        {"samples": {"at": [1], "address": [5]}},
        {"samples": {"at": list(range(5001))}},
        {"applications": [{"hour": 1, "application": "x", "cpu_core_s": 1}]},
        {"applications": [{"hour": 3600, "application": "", "cpu_core_s": 1}]},
        {"applications": [{"hour": 3600, "application": "x", "cpu_core_s": -1}]},
        {"applications": "x"},
        {
            "disk_reads": [
                {"day": "yesterday", "extent_bytes": 1 << 26, "extents": [], "read_bytes": []}
            ]
        },
        {
            "disk_reads": [
                {"day": "2026-03-02", "extent_bytes": 1 << 26, "extents": [1], "read_bytes": []}
            ]
        },
        {
            "disk_reads": [
                {
                    "day": "2026-03-02",
                    "extent_bytes": 1 << 26,
                    "extents": [1, 1],
                    "read_bytes": [1, 1],
                }
            ]
        },
    ],
)
def test_a_batch_that_breaks_the_format_is_refused_whole(
    pool: Pool, change: dict[str, Any]
) -> None:
    agent = agent_of(desktop_of(pool, "anna"))

    with pytest.raises(Refused) as refused:
        deliver(agent, body("server-anna", seconds(1)) | change)

    assert (refused.value.status, refused.value.reason) == (400, "malformed_batch")


def test_a_copy_of_a_desktop_elsewhere_may_not_report(pool: Pool) -> None:
    agent = agent_of(desktop_of(pool, "anna"))

    with pytest.raises(Refused) as refused:
        deliver(agent, body("server-of-the-copy", seconds(1)))

    assert (refused.value.status, refused.value.reason) == (403, "wrong_server")


def test_pools_with_long_names_have_agents_sources_of_their_own() -> None:
    dataset = Dataset.objects.create(name="live", label="Live", kind=Dataset.Kind.LIVE)
    for end in "ab":
        pool = Pool.objects.create(dataset=dataset, name="p" * 79 + end, label=end)
        deliver(agent_of(desktop_of(pool, end)), body(f"server-{end}", seconds(1)))
    assert {batch.source.pool_id == batch.desktop.pool_id for batch in Batch.objects.all()} == {
        True
    }
    assert settle_now() == 2 and Sample.objects.count() == 2


def test_applications_and_disk_reads_of_an_earlier_owner_are_not_the_next_ones(
    pool: Pool,
) -> None:
    desktop = desktop_of(pool, "anna")
    hour = int(NOW.replace(minute=0).timestamp())
    Desktop.objects.update(owned_since=NOW.replace(minute=0))
    read = {"extent_bytes": 1 << 26, "extents": [1], "read_bytes": [1]}
    used = [{"hour": at, "application": "firefox", "cpu_core_s": 1.0} for at in (hour - 3600, hour)]
    days = [read | {"day": day} for day in ("2026-03-01", "2026-03-02")]
    deliver(
        agent_of(desktop), body("server-anna", [], columns={}, applications=used, disk_reads=days)
    )
    settle_now()
    owners = ApplicationUse.objects.order_by("hour").values_list("desktop_user", flat=True)
    assert list(owners) == [None, desktop.desktop_user_id]
    assert DiskRead.objects.get().day == date(2026, 3, 2)


def test_a_broken_batch_keeps_nobody_else_waiting(pool: Pool, caplog: Any) -> None:
    anna, bob = desktop_of(pool, "anna"), desktop_of(pool, "bob")
    deliver(agent_of(anna), body("server-anna", seconds(1)))
    Batch.objects.update(body=b"not whole rows")
    deliver(agent_of(bob), body("server-bob", seconds(1)))

    assert settle_now() == 1
    assert Sample.objects.get().desktop_id == bob.pk
    assert Batch.objects.get(settled_at=None).desktop == anna
    assert "cannot be settled; it is kept" in caplog.text


def test_batches_are_settled_together_only_as_far_as_they_fit_in_memory(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BYTES_AT_ONCE", 20_000)
    reads = {"day": "2026-03-02", "extent_bytes": 1 << 26, "read_bytes": [1] * 1000}
    for n in range(4):
        agent = agent_of(desktop_of(pool, f"anna-{n}"))
        big = {"disk_reads": [reads | {"extents": list(range(1000))}]} if n < 2 else {}
        deliver(agent, body(f"server-anna-{n}", seconds(1), **big))
    # Two that alone are more than enough, then two that are next to nothing.
    assert [settle(clock=lambda: NOW, most=1) for _ in range(4)] == [1, 1, 2, 0]
    assert DiskRead.objects.count() == 2 and Sample.objects.count() == 4


def test_what_is_refused_goes_into_quarantine_in_pieces(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "QUARANTINED_AT_ONCE", 10)
    alive: WeakValueDictionary[int, QuarantinedRow] = WeakValueDictionary()
    most = 0

    def count(instance: QuarantinedRow, **_: Any) -> None:
        nonlocal most
        alive[id(instance)] = instance
        most = max(most, len(alive))

    signals.post_init.connect(count, sender=QuarantinedRow)
    try:
        samples = samples_of("desk-nobody", seconds(*range(1, 101)), cpu_cores=[1.0] * 100)
        assert keep(pool, samples).rejected_rows == 100
    finally:
        signals.post_init.disconnect(count, sender=QuarantinedRow)
    assert QuarantinedRow.objects.count() == 100
    assert most <= 20


# Believing


def test_rows_that_cannot_be_true_are_quarantined_and_the_others_kept(pool: Pool) -> None:
    desktop = desktop_of(pool, "anna")
    at = [*seconds(9, 8, 7, 6), *seconds(-10), *seconds(60 * 24 * 8)]
    cpu = [1.0, -1.0, 5000.0, None, 1.0, 1.0]
    deliver(agent_of(desktop), body("server-anna", at, columns={"cpu_cores": cpu}))
    settle_now()

    assert Sample.objects.count() == 1
    held = QuarantinedRow.objects.order_by("pk")
    assert sorted(row.reason for row in held) == [
        "absurd",
        "future",
        "negative",
        "nothing_observed",
        "too_old",
    ]
    assert {(row.desktop, row.desktop_user) for row in held} == {(desktop, desktop.desktop_user)}
    negative = next(row for row in held if row.reason == "negative")
    assert negative.row == {"at": at[1], "desktop": "desk-anna", "cpu_cores": -1.0}
    assert (Batch.objects.get().rows, Batch.objects.get().rejected_rows) == (1, 5)
    assert Source.objects.get().rejected_rows == 5


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400, "1e39"])
def test_numbers_beyond_any_type_cost_their_row_alone(pool: Pool, number: str) -> None:
    agent = agent_of(desktop_of(pool, "anna"))
    text = json.dumps(body("server-anna", seconds(2, 1), columns={"memory_bytes": [7, 8]}))
    data = text.replace("[7, 8]", f"[{number}, 8]").encode()
    try:
        accept(credential=agent, body=data, content_encoding="", wall=NOW)
    except Refused as refused:
        assert refused.reason in ("malformed_json", "malformed_batch")
        return
    settle_now()

    assert [s.memory_bytes for s in Sample.objects.all()] == [8]
    assert QuarantinedRow.objects.get().reason in ("absurd", "negative")


def test_who_and_what_is_unknown_is_quarantined_without_a_name(pool: Pool) -> None:
    desktop_of(pool, "anna")
    unknown = keep(pool, samples_of("desk-bob", seconds(1), cpu_cores=[1]))
    stranger = keep(pool, samples_of("", seconds(1), person="Eve@Example.org", active_ratio=[1]))
    nowhere = keep(pool, samples_of("desk-anna", seconds(1), site="atlantis"))

    assert unknown.rejected == {1: "unknown_desktop"}
    assert stranger.rejected == {1: "unknown_person"}
    assert nowhere.rejected == {1: "unknown_site"}
    assert not Sample.objects.exists()
    rows = [row.row for row in QuarantinedRow.objects.all()]
    assert "eve" not in json.dumps(rows).lower()
    assert pseudonym("eve@example.org") in json.dumps(rows)


def test_another_pools_desktop_is_unknown(pool: Pool) -> None:
    other = Pool.objects.create(dataset=pool.dataset, name="other", label="Other")
    desktop_of(other, "bob")

    assert keep(pool, samples_of("desk-bob", seconds(1), cpu_cores=[1])).rejected_rows == 1


# Resolving


def test_a_desktop_is_known_by_server_id_by_key_and_by_name(pool: Pool) -> None:
    anna, bob = desktop_of(pool, "anna"), desktop_of(pool, "bob")
    # Somebody named a server like another's id: the id is the stronger word.
    Desktop.objects.filter(pk=bob.pk).update(label="server-anna")

    for minute, name in enumerate(("server-anna", "desk-anna", "vm-anna")):
        keep(pool, samples_of(name, seconds(minute), cpu_cores=[1]))

    assert {s.desktop_id for s in Sample.objects.all()} == {anna.pk}


def test_what_is_seen_of_a_person_is_their_desktops_too(pool: Pool, paris: Site) -> None:
    desktop = desktop_of(pool, "anna")
    keep(pool, samples_of("", seconds(2), person=" Anna ", site="paris"))
    keep(pool, samples_of("desk-anna", seconds(1), cpu_cores=[1]))

    subjects = {(s.desktop_user_id, s.desktop_id) for s in Sample.objects.all()}
    assert subjects == {(desktop.desktop_user_id, desktop.pk)}
    assert Sighting.objects.get().site == paris


def test_a_newer_sighting_stays_when_an_older_one_arrives(pool: Pool, paris: Site) -> None:
    desktop_of(pool, "anna")
    Site.objects.create(code="lyon", label="Lyon", latitude=45.8, longitude=4.8)
    keep(pool, samples_of("desk-anna", seconds(1), site="paris"))
    keep(pool, samples_of("desk-anna", seconds(9), site="lyon"))

    assert Sighting.objects.get().site == paris
    roll_up(until=NOW)
    assert Activity.objects.get().site == paris


def test_an_address_becomes_a_site_and_is_written_nowhere(pool: Pool, paris: Site) -> None:
    Network.objects.create(cidr="10.1.0.0/16", site=paris)
    addresses = ["10.1.2.3", "192.0.2.7", None, "not an address"]
    columns = {"active_ratio": [1, 1, 1, 1], "address": addresses}
    deliver(
        agent_of(desktop_of(pool, "anna")),
        body("server-anna", seconds(4, 3, 2, 1), columns=columns),
    )

    waiting = Batch.objects.get()
    assert waiting.extras == {"sites": ["paris"]}
    assert b"10.1.2.3" not in bytes(waiting.body)
    settle_now()
    assert [s.site_id for s in Sample.objects.order_by("at")] == [paris.pk, 0, 0, 0]


def test_of_who_opted_out_of_location_no_place_is_stored(pool: Pool, paris: Site) -> None:
    desktop = desktop_of(pool, "anna")
    DesktopUser.objects.update(is_located=False)
    both = keep(pool, samples_of("desk-anna", seconds(2), site="paris", cpu_cores=[1]))
    only_place = keep(pool, samples_of("desk-anna", seconds(1), site="paris"))

    assert (both.rows, only_place.rows) == (1, 0)
    assert Sample.objects.get().site_id == 0
    assert not Sighting.objects.filter(desktop_user=desktop.desktop_user).exists()


def test_who_opted_out_is_not_placed_by_a_desktop_of_another_pool(pool: Pool, paris: Site) -> None:
    other = Pool.objects.create(dataset=pool.dataset, name="other", label="Other")
    desktop = desktop_of(pool, "anna")
    DesktopUser.objects.update(is_located=False, pool=other)
    keep(pool, samples_of("desk-anna", seconds(1), site="paris", cpu_cores=[1]))

    assert Sample.objects.get().site_id == 0
    assert not Sighting.objects.filter(desktop_user=desktop.desktop_user).exists()


def test_of_what_an_agent_adds_to_an_item_nothing_is_kept(pool: Pool) -> None:
    agent = agent_of(desktop_of(pool, "anna"))
    hour = int(NOW.replace(minute=0).timestamp())
    use = {"hour": hour, "application": "x", "cpu_core_s": 1e-300, "title": "a\0b"}
    deliver(agent, body("server-anna", seconds(1), applications=[use]))

    assert "title" not in json.dumps(Batch.objects.get().extras)
    assert settle_now() == 1
    assert ApplicationUse.objects.get().cpu_core_s == 0


def test_a_pulled_batch_and_its_cursor_are_one_change(pool: Pool) -> None:
    desktop_of(pool, "anna")
    with pytest.raises(RuntimeError), transaction.atomic():
        keep(pool, samples_of("desk-anna", seconds(1), cpu_cores=[1]), cursor_at=NOW)
        raise RuntimeError("the worker dies here")

    assert not Sample.objects.exists()
    keep(pool, samples_of("desk-anna", seconds(1), cpu_cores=[1]), cursor_at=NOW)
    assert Source.objects.get().cursor_at == NOW


def test_only_who_was_seen_becomes_a_person(pool: Pool, paris: Site) -> None:
    def hour(name: str, ratio: float, site: str = "") -> Samples:
        return samples_of("", seconds(1), person=name, site=site, active_ratio=[ratio])

    for samples in (hour("absent", 0), hour("working", 0.5), hour("arrived", 0, site="paris")):
        assert keep(pool, samples, makes_people=True).rejected_rows == 0

    seen = {pseudonym("working"), pseudonym("arrived")}
    assert set(DesktopUser.objects.values_list("pseudonym", flat=True)) == seen
    assert not QuarantinedRow.objects.exists()
    # Somebody who is known is also known not to work.
    keep(pool, samples_of("", seconds(0), person="working", active_ratio=[0]), makes_people=True)
    assert Sample.objects.filter(active_ratio=0, site_id=0).count() == 1


# Behaviour


def test_applications_and_disk_reads_add_up(pool: Pool) -> None:
    desktop = desktop_of(pool, "anna")
    agent = agent_of(desktop)
    hour = int(NOW.replace(minute=0).timestamp())
    for extents, read in (([3, 5], [10, 20]), ([5, 9], [1, 2])):
        deliver(
            agent,
            body(
                "server-anna",
                [],
                columns={},
                applications=[
                    {"hour": hour, "application": "firefox", "cpu_core_s": 2.5},
                    {"hour": hour, "application": "h:0011223344556677", "cpu_core_s": 1},
                    {"hour": hour + 100 * 3600, "application": "tomorrow", "cpu_core_s": 1},
                ],
                disk_reads=[
                    {
                        "day": "2026-03-02",
                        "extent_bytes": 1 << 26,
                        "extents": extents,
                        "read_bytes": read,
                    }
                ],
            ),
        )
        settle_now()

    used = dict(ApplicationUse.objects.values_list("application", "cpu_core_s"))
    assert used == {"firefox": 5.0, "h:0011223344556677": 2.0}
    reads = DiskRead.objects.get()
    assert (reads.desktop, reads.day) == (desktop, date(2026, 3, 2))
    assert dict(zip(reads.extents, reads.read_bytes, strict=True)) == {3: 10, 5: 21, 9: 2}


# Partitions and roll-ups


def test_days_have_partitions_that_go_as_a_whole(pool: Pool) -> None:
    desktop_of(pool, "anna")
    keep(pool, samples_of("desk-anna", seconds(0, 60 * 24, 60 * 48), cpu_cores=[1, 1, 1]))
    days = [date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 2)]

    assert [day for day in partition_days() if day in days] == days
    assert days[0] in drop_partitions(before=days[1])
    assert Sample.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_samples_that_arrive_during_a_roll_up_are_rolled_up_again(pool: Pool) -> None:
    """A roll-up may not take the mark of an hour whose newest samples it cannot see."""
    desktop_of(pool, "anna")
    keep(pool, samples_of("desk-anna", seconds(5), cpu_cores=[2]))

    def other_worker() -> None:
        try:
            roll_up(until=NOW)
        finally:
            connection.close()

    with transaction.atomic():
        keep(pool, samples_of("desk-anna", seconds(4), cpu_cores=[4]))
        meanwhile = threading.Thread(target=other_worker)
        meanwhile.start()
        meanwhile.join(10)
        assert not meanwhile.is_alive()
    roll_up(until=NOW)

    assert Activity.objects.get().cpu_cores == pytest.approx(3)


def test_many_desktops_many_batches_match_a_plain_sum(pool: Pool) -> None:
    rng = np.random.default_rng(5)
    agents = [agent_of(desktop_of(pool, f"p{i}", person=i % 3 > 0)) for i in range(12)]
    expected: dict[tuple[int, int], dict[int, float]] = {}
    for _ in range(60):
        agent = agents[rng.integers(len(agents))]
        at = (int(NOW.timestamp()) - rng.integers(0, 3 * 3600, 40)).tolist()
        cpu = rng.random(40).round(3).tolist()
        deliver(agent, body(agent.desktop.server_id, at, columns={"cpu_cores": cpu}))
        for second, value in zip(at, cpu, strict=True):
            hour = expected.setdefault((agent.desktop_id, second // 3600), {})
            hour.setdefault(second, value)
        if rng.random() < 0.3:
            settle_now()
            roll_up(until=NOW)
    settle_now()
    roll_up(until=NOW)

    found = {
        (a.desktop_id, int(a.hour.timestamp()) // 3600): a.cpu_cores for a in Activity.objects.all()
    }
    assert found == {
        key: pytest.approx(np.mean(list(values.values())), rel=1e-5)
        for key, values in expected.items()
    }
    assert Sample.objects.count() == sum(map(len, expected.values()))


# What the forecaster reads


@pytest.fixture
def history_rows(pool: Pool, paris: Site) -> Iterator[tuple[Desktop, Desktop]]:
    anna, machine = desktop_of(pool, "anna"), desktop_of(pool, "machine", person=False)
    end = NOW.replace(minute=0)
    Activity.objects.bulk_create(
        [
            Activity(dataset=pool.dataset, desktop_user=anna.desktop_user, desktop=anna,
                     hour=end - 2 * HOUR, cpu_cores=1.5, active_ratio=1, site=paris),
            Activity(dataset=pool.dataset, desktop_user=anna.desktop_user,
                     hour=end - HOUR, memory_bytes=4e9),
            Activity(dataset=pool.dataset, desktop=machine, hour=end - 24 * HOUR, cpu_cores=2),
            # Out of the window, and somebody at another desktop than theirs.
            Activity(dataset=pool.dataset, desktop=machine, hour=end - 25 * HOUR, cpu_cores=9),
            Activity(dataset=pool.dataset, desktop_user=anna.desktop_user, desktop=machine,
                     hour=end - 3 * HOUR, cpu_cores=7),
        ]
    )  # fmt: skip
    yield anna, machine


def test_history_is_read_by_subject_and_hour(
    pool: Pool, history_rows: tuple[Desktop, Desktop]
) -> None:
    anna, machine = history_rows
    history = read_history(pool.dataset, until=NOW, days=1)

    row_of = {(s.desktop_user_id, s.desktop_id): row for row, s in enumerate(history.subjects)}
    cpu, memory = history.demand["cpu_cores"], history.demand["memory_bytes"]
    own = row_of[anna.desktop_user_id, anna.pk]
    assert cpu.shape == (2, 24)
    assert (cpu[own, 21], cpu[own, 22], memory[own, 23]) == (7, 1.5, 4e9)
    assert history.sites[history.site[own, 22]] == "paris"
    assert cpu[row_of[None, machine.pk], 0] == 2
    assert np.isfinite(cpu).sum() == 3
