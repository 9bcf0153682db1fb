"""Sources that are asked, each against its real counterpart."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from math import isnan
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command

from desktops.errors import InvalidFile
from desktops.models import (
    Activity,
    Dataset,
    Desktop,
    DesktopUser,
    Network,
    Pool,
    Sample,
    Site,
    Source,
)
from desktops.pseudonyms import pseudonym
from desktops.services.locating import forget_sites
from desktops.services.pulling import PULL_LOCK, PullReport, configured_sources, pull_source
from desktops.services.rollups import roll_up
from tests.support.prometheus import HOST, Prometheus, prometheus
from tests.support.services import database_url

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
SETTLE = SECOND  # as prometheus_entry has it


# What exporters of hypervisors and of Windows tell, of two servers and a guest, with the labels of
# their documentation: the first server as Tinkoff's exporter names it, the second as inovex' does.
OTHER_EXPORTERS = """
libvirt_domain_info_meta{domain="instance-01",uuid="server-1",instance_name="one"} 1
libvirt_domain_openstack_info{domain="instance-02",instance_id="server-2",instance_name="two"} 1
libvirt_domain_info_cpu_time_seconds_total{domain="instance-01"} 70
libvirt_domain_memory_stats_available_bytes{domain="instance-01"} 8e9
libvirt_domain_memory_stats_usable_bytes{domain="instance-01"} 5e9
libvirt_domain_memory_stats_available_bytes{domain="instance-02"} 4e9
libvirt_domain_memory_stats_usable_bytes{domain="instance-02"} 3e9
libvirt_domain_interface_stats_receive_bytes_total{domain="instance-01",target_device="tap1"} 7
libvirt_domain_interface_stats_receive_bytes_total{domain="instance-01",target_device="tap2"} 7
libvirt_domain_interface_stats_transmit_bytes_total{domain="instance-01",target_device="tap1"} 7
libvirt_domain_block_stats_read_bytes_total{domain="instance-02",target_device="vda"} 7
libvirt_domain_block_stats_write_bytes_total{domain="instance-02",target_device="vda"} 7
windows_cpu_time_total{core="0,0",mode="idle"} 9
windows_cpu_time_total{core="0,0",mode="user"} 9
windows_cs_physical_memory_bytes 16e9
windows_os_physical_memory_free_bytes 10e9
windows_net_bytes_received_total{nic="Ethernet"} 5
windows_net_bytes_sent_total{nic="Ethernet"} 5
windows_logical_disk_read_bytes_total{volume="C:"} 5
windows_logical_disk_write_bytes_total{volume="C:"} 5
"""


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(tmp_path_factory.mktemp("prometheus"), also=OTHER_EXPORTERS) as servers:
        servers.wait_for_scrapes(12)
        yield servers


@pytest.fixture
def pool(db: None) -> Pool:
    Sample.objects.all().delete()  # what tests that commit may have left
    dataset = Dataset.objects.create(name="office", label="Office", kind=Dataset.Kind.LIVE)
    return Pool.objects.create(dataset=dataset, name="office", label="Office")


@pytest.fixture
def write_entry(tmp_path: Path, settings: Any) -> Callable[[str], None]:
    def write(text: str) -> None:
        path = tmp_path / "sources.toml"
        path.write_text(text)
        path.chmod(0o640)
        settings.SOURCES_FILE = path

    return write


def now() -> datetime:
    return datetime.now(UTC)


def pull(name: str, clock: Callable[[], datetime] = now, **given: Any) -> PullReport:
    return pull_source(entry=configured_sources()[name], clock=clock, **given)


def add_desktop(pool: Pool, key: str, **given: Any) -> Desktop:
    person = DesktopUser.objects.create(
        dataset=pool.dataset, pool=pool, pseudonym=pseudonym(f"user-of-{key}")
    )
    return Desktop.objects.create(
        dataset=pool.dataset, pool=pool, key=key, label=key, desktop_user=person, **given
    )


def settled(monitored: Prometheus, *, after: datetime | None = None) -> datetime:
    """A moment at which a pull finds whole steps with something in them, later than `after`.

    It is not now: on a busy machine nothing may have been scraped for some seconds.
    """
    return monitored.wait_for_scrapes(6, after=after) + SETTLE


def meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def prometheus_entry(monitored: Prometheus, more: str = "") -> str:
    return f"""
[metrics]
kind = "prometheus"
pool = "office"
url = "{monitored.url}"
preset = "node"
match = 'job="desks"'
step_s = 2
range_s = 4
settle_s = 1
first_days = 1
{more}
"""


def test_what_a_real_prometheus_scraped_is_stored_once(
    monitored: Prometheus, pool: Pool, write_entry: Callable[[str], None]
) -> None:
    desktop = add_desktop(pool, HOST)
    write_entry(prometheus_entry(monitored))
    begin = settled(monitored)
    first = pull("metrics", lambda: begin)
    assert first.error == "" and first.rejected_rows == 0 and first.rows >= 4

    rows = list(Sample.objects.order_by("at"))
    memory = meminfo()
    assert {row.desktop_id for row in rows} == {desktop.pk}
    assert {row.desktop_user_id for row in rows} == {desktop.desktop_user_id}
    assert {int(row.at.timestamp()) % 2 for row in rows} == {0}
    newest = rows[-1]
    # Within a quarter of the machine: other tests come and go meanwhile.
    used = memory["MemTotal"] - memory["MemAvailable"]
    assert abs(newest.memory_bytes - used) < memory["MemTotal"] / 4
    # A busy machine misses scrapes, and a rate needs two.
    cpu = [row.cpu_cores for row in rows if not isnan(row.cpu_cores)]
    assert all(0 <= cores <= (os.cpu_count() or 1) + 0.5 for cores in cpu)
    assert any(cores > 0 for cores in cpu)
    source = Source.objects.get(name="metrics")
    assert source.cursor_at and source.cursor_at == first.until
    assert source.cursor_at >= newest.at + 2 * SECOND, "the last steps may have been empty"
    assert (source.rows, source.last_error) == (first.rows, "")

    wall = settled(monitored, after=source.cursor_at)
    second = pull("metrics", lambda: wall)
    assert second.rows > 0 and second.duplicates == 0
    in_two = list(Sample.objects.order_by("at").values_list("at", flat=True))
    assert len(in_two) == len(set(in_two)) == first.rows + second.rows

    Sample.objects.all().delete()
    Source.objects.all().delete()
    pull("metrics", lambda: wall)
    assert list(Sample.objects.order_by("at").values_list("at", flat=True)) == in_two


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("libvirt", {"server-1": (0, 3e9, 0, None), "server-2": (None, 1e9, None, 0)}),
        ("windows", {HOST: (0, 6e9, 0, 0)}),
    ],
)
def test_other_exporters_are_understood(
    monitored: Prometheus,
    pool: Pool,
    write_entry: Callable[[str], None],
    preset: str,
    expected: dict[str, tuple[float | None, ...]],
) -> None:
    names = {add_desktop(pool, f"of-{name}", server_id=name).pk: name for name in expected}
    write_entry(prometheus_entry(monitored).replace('"node"', f'"{preset}"'))
    report = pull("metrics")
    assert report.error == "" and report.strangers == 0 and report.rows > 0
    seen: dict[str, list[float | None]] = {name: [None] * 4 for name in expected}
    # A rate needs two scrapes, and on a busy machine some are missed: any row may tell it.
    for row in Sample.objects.order_by("at"):
        values = (
            row.cpu_cores,
            row.memory_bytes,
            row.network_bytes_per_s,
            row.storage_bytes_per_s,
        )
        for n, value in enumerate(values):
            if not isnan(value):
                seen[names[row.desktop_id]][n] = value
    assert {name: tuple(values) for name, values in seen.items()} == expected


def test_pages_of_few_points_bring_the_same_rows(
    monitored: Prometheus, pool: Pool, write_entry: Callable[[str], None]
) -> None:
    add_desktop(pool, HOST)
    wall = settled(monitored)
    write_entry(prometheus_entry(monitored))
    pull("metrics", lambda: wall)
    fields = ("at", "memory_bytes")
    at_once = list(Sample.objects.order_by("at").values_list(*fields))
    assert len(at_once) >= 4

    Sample.objects.all().delete()
    Source.objects.all().delete()
    write_entry(prometheus_entry(monitored, "max_points = 3"))
    # A day in pages of three points would take long: begin shortly before the first.
    Source.objects.create(
        name="metrics",
        kind="prometheus",
        dataset=pool.dataset,
        pool=pool,
        cursor_at=at_once[0][0] - 20 * SECOND,
    )
    pages: list[datetime] = []

    def goes_on() -> bool:
        pages.append(Source.objects.get(name="metrics").cursor_at)
        return True

    pull("metrics", lambda: wall, goes_on=goes_on)
    assert len(pages) >= len(at_once) // 3
    assert pages == sorted(set(pages))
    assert list(Sample.objects.order_by("at").values_list(*fields)) == at_once


def test_a_restart_of_prometheus_is_waited_for(
    monitored: Prometheus, pool: Pool, write_entry: Callable[[str], None], monkeypatch: Any
) -> None:
    monkeypatch.setattr("desktops.sources.http.FIRST_PAUSE_S", 3)  # a busy machine starts slowly
    add_desktop(pool, HOST)
    write_entry(prometheus_entry(monitored))
    monitored.stop_server()
    back = threading.Timer(1.5, monitored.start_server)
    back.start()
    try:
        report = pull("metrics")
    finally:
        back.join()
        monitored.wait_until_ready()
    assert report.error == "" and report.rows >= 4


def test_a_prometheus_that_stays_away_costs_nothing_but_time(
    pool: Pool, write_entry: Callable[[str], None], monitored: Prometheus, monkeypatch: Any
) -> None:
    monkeypatch.setattr("desktops.sources.http.FIRST_PAUSE_S", 0.01)
    add_desktop(pool, HOST)
    write_entry(prometheus_entry(monitored))
    pull("metrics")
    before = Source.objects.get(name="metrics")
    write_entry(prometheus_entry(monitored).replace(monitored.url, "http://127.0.0.1:1"))
    assert before.cursor_at
    wall = settled(monitored, after=before.cursor_at)
    report = pull("metrics", lambda: wall)
    after = Source.objects.get(name="metrics")
    assert "127.0.0.1:1" in report.error and report.error == after.last_error
    assert after.cursor_at == before.cursor_at
    assert after.last_attempt_at > before.last_attempt_at
    assert after.last_success_at == before.last_success_at

    write_entry(prometheus_entry(monitored))
    again = pull("metrics", lambda: wall)
    assert again.rows > 0 and again.duplicates == 0
    assert Source.objects.get(name="metrics").last_error == ""


def test_a_bad_query_is_told_in_prometheus_words(
    monitored: Prometheus, pool: Pool, write_entry: Callable[[str], None]
) -> None:
    write_entry(prometheus_entry(monitored, '[metrics.queries]\ncpu_cores = "rate(("'))
    report = pull("metrics")
    assert "400" in report.error and "parse error" in report.error
    assert Source.objects.get(name="metrics").cursor_at is None


def test_a_source_without_a_desktop_of_the_pool_is_asked_again_later(
    monitored: Prometheus, pool: Pool, write_entry: Callable[[str], None]
) -> None:
    write_entry(prometheus_entry(monitored))
    report = pull("metrics")
    assert HOST in report.error and "office" in report.error.casefold()
    assert Source.objects.get(name="metrics").cursor_at < now() - timedelta(minutes=1)
    add_desktop(pool, "another", server_id=HOST)
    assert pull("metrics").rows >= 4


def test_two_workers_do_not_ask_one_source_at_once(
    monitored: Prometheus, pool: Pool, write_entry: Callable[[str], None]
) -> None:
    add_desktop(pool, HOST)
    write_entry(prometheus_entry(monitored))
    source = Source.objects.create(
        name="metrics", kind="prometheus", dataset=pool.dataset, pool=pool
    )
    with psycopg.connect(database_url(), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", [PULL_LOCK, source.pk])
        assert pull("metrics").is_busy
        assert not Sample.objects.exists()
    assert pull("metrics").rows >= 4


def test_the_command_names_what_is_wrong(
    pool: Pool, write_entry: Callable[[str], None], capsys: Any
) -> None:
    with pytest.raises(CommandError, match="SOURCES_FILE"):
        call_command("pull_sources", once=True)
    write_entry('[metrics]\nkind = "prometheus"\npool = "office"\npreset = "nude"\nurl = "x"\n')
    with pytest.raises(CommandError, match="metrics"):
        call_command("pull_sources", check=True)
    assert "preset" in capsys.readouterr().err
    with pytest.raises(CommandError, match="no source 'other'"):
        call_command("pull_sources", "other", once=True)
    write_entry('[metrics]\nkind = "prometheus"\npool = "nowhere"\npreset = "node"\n')
    with pytest.raises(InvalidFile, match="no pool 'nowhere'"):
        pull("metrics")


# Guacamole. The tables are written here from their documentation: Guacamole's own server is not to
# be had where the tests run.
HISTORY = """
CREATE SCHEMA guacamole;
CREATE TABLE guacamole.guacamole_connection_history (
    history_id serial PRIMARY KEY,
    user_id integer,
    username varchar(128) NOT NULL,
    remote_host varchar(256),
    connection_id integer,
    connection_name varchar(128) NOT NULL,
    sharing_profile_id integer,
    sharing_profile_name varchar(128),
    start_date timestamptz NOT NULL,
    end_date timestamptz
)
"""
NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)


class Guacamole:
    def __init__(self, link: psycopg.Connection) -> None:
        self._link = link

    def session(
        self,
        who: str,
        start: datetime,
        end: datetime | None,
        *,
        address: str | None = None,
        desktop: str = "elsewhere",
        shared: int | None = None,
    ) -> int:
        row = self._link.execute(
            "INSERT INTO guacamole.guacamole_connection_history"
            " (username, remote_host, connection_name, sharing_profile_id, start_date, end_date)"
            " VALUES (%s, %s, %s, %s, %s, %s) RETURNING history_id",
            [who, address, desktop, shared, start, end],
        ).fetchone()
        assert row
        return int(row[0])

    def end(self, history_id: int, at: datetime) -> None:
        self._link.execute(
            "UPDATE guacamole.guacamole_connection_history SET end_date = %s WHERE history_id = %s",
            [at, history_id],
        )


@pytest.fixture
def guacamole(transactional_db: None, write_entry: Callable[[str], None]) -> Iterator[Guacamole]:
    write_entry(
        f"""
[sessions]
kind = "guacamole"
pool = "office"
dsn = "{database_url()}?options=-csearch_path%3Dguacamole"
desktop_pattern = "^(?:VDI )?(.+)$"
first_days = 1
"""
    )
    with psycopg.connect(database_url(), autocommit=True) as link:
        link.execute("DROP SCHEMA IF EXISTS guacamole CASCADE")
        link.execute(HISTORY)
        yield Guacamole(link)
        link.execute("DROP SCHEMA guacamole CASCADE")


@pytest.fixture
def office(transactional_db: None) -> Iterator[Pool]:
    dataset = Dataset.objects.create(name="office", label="Office", kind=Dataset.Kind.LIVE)
    for code in ("paris", "lyon"):
        site = Site.objects.create(code=code, label=code, latitude=48, longitude=2)
        cidr = {"paris": "10.1.0.0/16", "lyon": "10.2.0.0/16"}[code]
        Network.objects.create(cidr=cidr, site=site)
    forget_sites()
    Sample.objects.all().delete()
    yield Pool.objects.create(dataset=dataset, name="office", label="Office")
    forget_sites()
    # Django empties the tables it made, and that one it did not make.
    Sample.objects.all().delete()


def ratios(who: str) -> dict[int, float]:
    """Hour of the day → share in session, as stored of that person."""
    person = DesktopUser.objects.get(pseudonym=pseudonym(who))
    rows = Sample.objects.filter(desktop_user_id=person.pk).exclude(active_ratio=float("nan"))
    return {row.at.hour: round(row.active_ratio, 4) for row in rows if row.at >= NINE - 2 * HOUR}


def at(hours: float) -> Callable[[], datetime]:
    return lambda: NINE + hours * HOUR


def test_hours_in_session_become_shares_of_each_person(guacamole: Guacamole, office: Pool) -> None:
    guacamole.session("ann", NINE + 0.25 * HOUR, NINE + 1.5 * HOUR)
    guacamole.session("bob", NINE, NINE + 0.5 * HOUR)
    guacamole.session("bob", NINE + 0.25 * HOUR, NINE + 0.75 * HOUR)
    guacamole.session("eve", NINE, NINE + HOUR, shared=7)
    report = pull("sessions", at(2.1))
    assert report.error == "" and report.rejected_rows == 0
    assert ratios("ann") == {7: 0, 8: 0, 9: 0.75, 10: 0.5}
    assert ratios("bob") == {7: 0, 8: 0, 9: 0.75, 10: 0}
    assert DesktopUser.objects.count() == 2
    assert not DesktopUser.objects.filter(pseudonym__in=["ann", "bob"]).exists()


def test_an_hour_is_told_once_whenever_the_session_ends(guacamole: Guacamole, office: Pool) -> None:
    open_session = guacamole.session("ann", NINE + 0.5 * HOUR, None)
    pull("sessions", at(0.8))
    assert not Sample.objects.exists()
    pull("sessions", at(1.1))
    assert ratios("ann")[9] == 0.5
    guacamole.end(open_session, NINE + 1.25 * HOUR)
    pull("sessions", at(2.5))
    again = pull("sessions", at(2.6))
    assert ratios("ann") == {9: 0.5, 10: 0.25}
    assert again.rows == again.duplicates == 0


def test_a_record_that_a_crash_left_open_ends_some_day(guacamole: Guacamole, office: Pool) -> None:
    guacamole.session("ann", NINE - 23.5 * HOUR, None)
    pull("sessions", at(3.1))
    assert ratios("ann") == {7: 1, 8: 1, 9: 0.5, 10: 0, 11: 0}


def test_where_somebody_signs_in_is_known_at_once(guacamole: Guacamole, office: Pool) -> None:
    ann = add_desktop(office, "desk-1")
    guacamole.session(
        "user-of-desk-1", NINE + 0.5 * HOUR, None, address="10.1.2.3", desktop="VDI desk-1"
    )
    pull("sessions", at(0.6))
    (row,) = Sample.objects.filter(desktop_user_id=ann.desktop_user_id, at__gte=NINE)
    assert row.at == NINE + 0.5 * HOUR and row.desktop_id == ann.pk
    assert Site.objects.get(pk=row.site_id).code == "paris"
    assert ann.desktop_user.sighting.site.code == "paris"

    guacamole.session(
        "user-of-desk-1", NINE + HOUR, NINE + 1.5 * HOUR, address="10.2.2.3", desktop="VDI desk-1"
    )
    pull("sessions", at(1.1))
    pull("sessions", at(2.1))
    assert ratios("user-of-desk-1")[10] == 1  # the first is still open
    ann.desktop_user.sighting.refresh_from_db()
    assert ann.desktop_user.sighting.site.code == "lyon"
    roll_up(until=NINE + 3 * HOUR)
    hours = Activity.objects.filter(desktop_user=ann.desktop_user, hour__gte=NINE).order_by("hour")
    assert [(row.active_ratio, row.site.code) for row in hours] == [(0.5, "paris"), (1, "lyon")]


def test_a_guacamole_that_is_away_is_told_without_its_password(
    guacamole: Guacamole, office: Pool, write_entry: Callable[[str], None]
) -> None:
    write_entry(
        '[sessions]\nkind = "guacamole"\npool = "office"\n'
        'dsn = "postgresql://guac:open-sesame@127.0.0.1:1/guac"\n'
    )
    report = pull("sessions", at(1))
    assert "127.0.0.1" in report.error and "sesame" not in report.error
    assert Source.objects.get(name="sessions").last_error == report.error
