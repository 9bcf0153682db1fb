"""What the agent sees of its desktop, and what of it leaves the machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from desktops.sources.agent import open_batch
from tests.unit.agent.guest import DESKTOP, NOW, SERVER_ID, Guest, fa


def look(guest: Guest) -> tuple[float | None, str | None]:
    machine = guest.machine()
    seen = fa.LinuxSessions(
        guest.config, run=machine.run, monotonic=machine.monotonic, system=machine.system
    ).look()
    return seen.active_ratio, seen.address


class TestSessions:
    def test_somebody_works(self, guest: Guest) -> None:
        assert look(guest) == (1.0, "10.1.2.3")

    @pytest.mark.parametrize(
        "changes",
        [
            {"LockedHint": "yes"},
            {"IdleHint": "yes"},
            {"State": "online"},
            {"State": "closing"},
            {"Class": "greeter"},
            {"Type": "unspecified"},
            {"Name": "root"},
        ],
    )
    def test_nobody_works(self, guest: Guest, changes: dict[str, str]) -> None:
        guest.programs.sessions = [{**DESKTOP, **changes}]
        assert look(guest) == (0.0, None)

    def test_one_of_two_sessions_is_locked(self, guest: Guest) -> None:
        guest.programs.sessions = [
            {**DESKTOP, "LockedHint": "yes", "RemoteHost": "10.9.9.9"},
            {**DESKTOP, "Id": "c3"},
        ]
        assert look(guest) == (1.0, "10.1.2.3")

    def test_without_logind_nothing_is_claimed(self, guest: Guest) -> None:
        guest.programs.sessions = None
        assert look(guest) == (None, None)

    def test_an_address_comes_from_utmp_when_logind_has_a_name(self, guest: Guest) -> None:
        guest.programs.sessions = [{**DESKTOP, "RemoteHost": "laptop.example.org"}]
        guest.counters.signed_in = [
            SimpleNamespace(name="otto", host="10.4.4.4"),
            SimpleNamespace(name="mira", host=":10.0"),
            SimpleNamespace(name="mira", host="2001:db8::7%eth0"),
        ]
        assert look(guest) == (1.0, "2001:db8::7")

    def test_an_address_comes_from_the_remote_desktops_port_last(self, guest: Guest) -> None:
        def connected(port: int, ip: str) -> SimpleNamespace:
            return SimpleNamespace(
                status=psutil.CONN_ESTABLISHED,
                laddr=SimpleNamespace(port=port),
                raddr=SimpleNamespace(ip=ip),
            )

        guest.programs.sessions = [{**DESKTOP, "RemoteHost": ""}]
        guest.counters.connections = [
            connected(22, "10.5.5.5"),
            connected(3389, "127.0.0.1"),
            connected(3389, "::ffff:10.6.6.6"),
        ]
        assert look(guest) == (1.0, "10.6.6.6")

    def test_addresses_can_be_left_out(self, guest: Guest) -> None:
        guest.config = replace(guest.config, client_address=False)
        assert look(guest) == (1.0, None)


class TestMeter:
    def test_rates_are_over_the_time_that_passed(self, guest: Guest) -> None:
        meter = fa.Meter(monotonic=guest.clock, system=guest.counters)
        guest.clock.now += 20
        guest.counters.received, guest.counters.read = 4000, 1000
        assert meter.read() == {
            "cpu_cores": 2.0,
            "memory_bytes": 3 << 30,
            "network_bytes_per_s": 200.0,
            "storage_bytes_per_s": 50.0,
        }

    def test_a_counter_that_was_reset_says_nothing(self, guest: Guest) -> None:
        guest.counters.received = 4000
        meter = fa.Meter(monotonic=guest.clock, system=guest.counters)
        guest.clock.now += 20
        guest.counters.received = 10
        assert meter.read()["network_bytes_per_s"] is None

    def test_what_passes_through_a_bridge_is_not_counted_twice(self, tmp_path: Path) -> None:
        (tmp_path / "ens3/device").mkdir(parents=True)
        (tmp_path / "docker0").mkdir()
        assert fa.real_devices(["lo", "docker0", "ens3"], tmp_path) == ["ens3"]
        assert fa.real_devices(["lo", "veth0"], tmp_path) == ["veth0"]

    def test_this_machine_can_be_read(self) -> None:
        reading = fa.Meter(monotonic=iter(range(10)).__next__).read()
        assert reading["memory_bytes"] > 10**6
        assert reading["cpu_cores"] >= 0


class TestApplications:
    def make(self, guest: Guest, *, most: int = 20, token: str = "t"):
        return fa.Applications(
            allowed=guest.config.applications,
            most=most,
            key=fa.application_key(token),
            processes=guest._running,
        )

    def test_names_on_the_list_are_clear_and_all_others_hashed(self, guest: Guest) -> None:
        guest.processes = {(1, 0.0): ("FIREFOX.exe", 100.0), (2, 0.0): ("payroll-secret", 50.0)}
        applications = self.make(guest)
        guest.processes = {(1, 0.0): ("FIREFOX.exe", 130.0), (2, 0.0): ("payroll-secret", 60.0)}
        applications.read(NOW + 60)
        first, second = applications.take(before=None)
        assert first == {"hour": NOW, "application": "firefox", "cpu_core_s": 30.0}
        assert second["application"].startswith("h:") and len(second["application"]) == 18
        assert "payroll" not in repr([first, second])

    def test_a_hash_means_nothing_to_another_agent(self, guest: Guest) -> None:
        one, two = self.make(guest), self.make(guest, token="another")
        assert one.label("payroll") == one.label("Payroll.EXE") != two.label("payroll")

    def test_an_hour_is_told_when_it_is_over_with_its_largest(self, guest: Guest) -> None:
        applications = self.make(guest, most=2)
        guest.processes = {(n, 0.0): (f"program-{n}", 10.0 * n) for n in range(5)}
        applications.read(NOW + 60)
        assert applications.take(before=NOW + 3599) == []
        told = applications.take(before=NOW + 3600)
        assert [row["cpu_core_s"] for row in told] == [40.0, 30.0]
        assert applications.take(before=NOW + 7200) == []

    def test_a_number_used_again_is_another_process(self, guest: Guest) -> None:
        guest.processes = {(1, 0.0): ("firefox", 100.0)}
        applications = self.make(guest)
        guest.processes = {(1, 9.0): ("firefox", 5.0)}
        applications.read(NOW)
        assert applications.take(before=None)[0]["cpu_core_s"] == 5.0

    def test_processes_can_be_left_alone(self, guest: Guest) -> None:
        guest.processes = {(1, 0.0): ("firefox", 100.0)}
        applications = self.make(guest, most=0)
        applications.read(NOW)
        assert applications.take(before=None) == []

    def test_the_processes_of_this_machine_can_be_read(self) -> None:
        assert os.getpid() in {process[0] for process, _, _ in fa.running_processes()}


TRACE = b"""\
 firefox-812 [001] d..1. 51.1: block_rq_issue: 252,0 R 4096 () 0 + 8 [firefox]
 firefox-812 [001] d..1. 51.2: block_rq_issue: 252,0 RA 8192 () 131072 + 16 none,0,0 [firefox]
 firefox-812 [001] d..1. 51.3: block_rq_issue: 252,0 RA 8192 () 131088 + 16 [firefox]
 sync-9 [000] d..1. 51.4: block_rq_issue: 252,0 WS 4096 () 262144 + 8 [sync]
 CPU:1 [LOST 12 EVENTS]
 other-9 [000] d..1. 51.5: block_rq_issue: 8,16 R 4096 () 262144 + 8 [other]
 half a li"""


@pytest.fixture
def kernel(guest: Guest) -> Path:
    """A kernel with tracefs and a system on the second partition of one disk; its root folder."""
    root = guest.folder
    disk = root / "sys/devices/vda"
    (disk / "vda2").mkdir(parents=True)
    (disk / "dev").write_text("252:0\n")
    (disk / "vda2/dev").write_text("252:2\n")
    (disk / "vda2/partition").write_text("2\n")
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/252:2").symlink_to(disk / "vda2")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(
        "20 1 0:5 / /dev rw - devtmpfs udev rw\n21 1 252:2 / / rw shared:1 - ext4 /dev/vda2 rw\n"
    )
    tracing = root / "sys/kernel/tracing"
    for folder in (tracing, tracing / f"instances/foredesk-{os.getpid()}"):
        (folder / "events/block/block_rq_issue").mkdir(parents=True)
    (tracing / f"instances/foredesk-{os.getpid()}/trace_pipe").write_bytes(TRACE)
    return root


class TestDiskReads:
    def test_bytes_read_are_counted_by_extent(self, kernel: Path) -> None:
        reads = fa.DiskReads.open(kernel)
        reads.read(NOW)
        (day,) = reads.take()
        assert day == {
            "day": "2026-01-05",
            "extent_bytes": 64 << 20,
            "extents": [0, 1],
            "read_bytes": [4096, 16384],
        }
        assert reads.take() == []
        assert reads.rest == b" half a li"

    def test_tracing_is_on_while_it_is_looked_at(self, kernel: Path) -> None:
        reads = fa.DiskReads.open(kernel)
        enable = reads.folder / "events/block/block_rq_issue/enable"
        assert enable.read_text() == "1"
        reads.close()
        assert enable.read_text() == "0"

    def test_without_tracefs_it_says_so_once_and_goes_on(
        self, guest: Guest, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("INFO"):
            agent = guest.agent()
            guest.live(agent, 120)
        assert caplog.text.count("disk reads are not observed: there is no tracefs") == 1
        agent.close()


class TestServerId:
    METADATA = '{"uuid": "AAAA1D0E-1111-4222-8333-444455556666"}'

    def find(self, root: Path, metadata: str | None = None) -> str:
        def fetch(url: str) -> bytes:
            if metadata is None:
                raise OSError("no route")
            return metadata.encode()

        return fa.find_server_id(fa.Config(), fetch=fetch, root=root)

    def test_the_present_is_asked_before_what_was_read_at_boot(self, tmp_path: Path) -> None:
        assert self.find(tmp_path) == ""
        firmware = tmp_path / "sys/class/dmi/id/product_uuid"
        firmware.parent.mkdir(parents=True)
        firmware.write_text("CCCC1D0E-1111-4222-8333-444455556666\n")
        assert self.find(tmp_path).startswith("cccc1d0e-")
        drive = tmp_path / "mnt/config/openstack/latest/meta_data.json"
        drive.parent.mkdir(parents=True)
        drive.write_text('{"uuid": "bbbb1d0e-1111-4222-8333-444455556666"}')
        assert self.find(tmp_path).startswith("bbbb1d0e-")
        assert self.find(tmp_path, self.METADATA).startswith("aaaa1d0e-")
        assert self.find(tmp_path, "<html>sign in</html>").startswith("bbbb1d0e-")

    def test_an_admin_may_say_it(self, guest: Guest) -> None:
        machine = guest.machine()
        found = fa.find_server_id(guest.config, fetch=machine.fetch, root=machine.root)
        assert found == SERVER_ID


def test_what_is_sent_keeps_to_what_the_server_reads(guest: Guest, kernel: Path) -> None:
    guest.processes = {(1, 0.0): ("firefox", 0.0)}
    observer = fa.Observer(guest.config, guest.machine(), token="t")
    for _ in range(3):
        guest.clock.now += 15
        guest.counters.received += 1500
        observer.sample()
    guest.processes = {(1, 0.0): ("firefox", 12.5)}
    batch = observer.batch(is_last=True)
    observer.close()
    assert set(batch) == {"batch_id", "agent", "samples", "applications", "disk_reads"}
    sent = fa.finished(batch, server_id=SERVER_ID, sent_at=guest.clock())
    opened = open_batch(
        fa.gzip.compress(fa.json.dumps(sent).encode()), "gzip", site_of={"10.1.2.3": "lyon"}.get
    )
    assert opened.rows["at"].tolist() == [NOW + 15, NOW + 30, NOW + 45]
    assert opened.rows["network_bytes_per_s"].tolist() == [100.0] * 3
    assert opened.rows["active_ratio"].tolist() == [1.0] * 3
    assert opened.extras["sites"] == ["lyon"]
    assert opened.extras["applications"] == [
        {"hour": NOW, "application": "firefox", "cpu_core_s": 12.5}
    ]
    assert opened.extras["disk_reads"][0]["extents"] == [0, 1]
