"""The embedded servers, as whoever runs the tests; as root also where others may not enter."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.processes import eventually, processes_of
from webapp.embedded import Embedded, EmbeddedError, make_data_folder

IS_ROOT = os.geteuid() == 0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    assert eventually(lambda: not processes_of(tmp_path / "data")), "a server outlived its test"


def query(servers: Embedded, statement: str) -> object:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_both_servers_answer_and_ask_for_a_password(data_dir: Path) -> None:
    servers = Embedded(data_dir, is_durable=False)
    servers.start()
    try:
        assert query(servers, "SELECT lower('ÄÖ')") == "äö"
        assert redis.Redis.from_url(servers.redis_url).ping()
        port = servers.postgres_port
        for nobody_knows in ("foredesk:wrong", "postgres:postgres"):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(f"postgresql://{nobody_knows}@127.0.0.1:{port}/foredesk")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=servers.redis_port).ping()
    finally:
        servers.stop()


def test_what_is_committed_outlives_a_stop_and_a_kill(data_dir: Path) -> None:
    servers = Embedded(data_dir)
    servers.start()
    query(servers, "CREATE TABLE kept (n int)")
    servers.stop()
    servers = Embedded(data_dir)
    servers.start()
    query(servers, "INSERT INTO kept VALUES (1)")
    servers.postgres.signal(signal.SIGKILL)
    servers.stop()
    servers = Embedded(data_dir)
    servers.start()
    assert query(servers, "SELECT count(*) FROM kept") == 1
    servers.stop()


def test_a_pid_file_that_names_an_unrelated_process_is_no_obstacle(data_dir: Path) -> None:
    servers = Embedded(data_dir, is_durable=False)
    servers.start()
    servers.stop()
    pid_file = servers.cluster / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{servers.cluster}\n")
    os.chown(pid_file, servers.cluster.stat().st_uid, servers.cluster.stat().st_gid)
    servers = Embedded(data_dir, is_durable=False)
    servers.start()
    assert query(servers, "SELECT 1") == 1
    servers.stop()


def test_an_interrupted_first_start_is_done_again(data_dir: Path) -> None:
    unfinished = data_dir / "servers" / "postgres.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    servers = Embedded(data_dir, is_durable=False)
    servers.start()
    assert query(servers, "SELECT 1") == 1
    servers.stop()


def test_servers_end_with_the_process_that_started_them(data_dir: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from webapp.embedded import Embedded;"
        "Embedded(Path(sys.argv[1]), is_durable=False).start();"
        "print('started', flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(data_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        assert any("postgres" in command for command in processes_of(data_dir).values())
        starter.kill()
    assert eventually(lambda: not processes_of(data_dir))


def test_a_leftover_server_is_seen_off(data_dir: Path) -> None:
    """As after a killed supervisor, whose PostgreSQL may take a while to end."""
    leftover = Embedded(data_dir, is_durable=False)
    leftover.start()
    servers = Embedded(data_dir, is_durable=False)
    servers.start()
    assert not leftover.postgres.is_running()
    assert query(servers, "SELECT 1") == 1
    servers.stop()
    leftover.stop()


def test_secrets_are_for_the_owner_alone(data_dir: Path) -> None:
    servers = Embedded(data_dir, is_durable=False)
    servers.start()
    assert mode_of(data_dir) == (0o711 if IS_ROOT else 0o700)
    assert mode_of(servers.cluster) == 0o700
    secrets = (servers.database_url, servers.redis_url)
    passwords = [url.rpartition("@")[0].rpartition(":")[2] for url in secrets]
    commands = " ".join(processes_of(data_dir).values())
    assert not any(password in commands for password in passwords)
    servers.stop()


def test_a_folder_that_cannot_be_made_is_one_clear_line() -> None:
    with pytest.raises(EmbeddedError, match=r"^Cannot make the folder /proc/foredesk: [^\n]+$"):
        make_data_folder(Path("/proc/foredesk"))


@pytest.mark.skipif(not IS_ROOT, reason="only root has to run them as somebody else")
class TestAsRoot:
    def test_servers_run_without_privileges(self, data_dir: Path) -> None:
        # pytest's folders are closed to others; what is reachable needs no capability at all.
        data_dir.parent.chmod(0o755)
        servers = Embedded(data_dir, is_durable=False)
        servers.start()
        for child in (servers.postgres, servers.redis):
            assert child.pid is not None
            status = status_of(child.pid)
            assert set(status["Uid"].split()) == {str(pwd.getpwnam("nobody").pw_uid)}
            assert status["Groups"] == ""
            assert status["NoNewPrivs"] == "1"
            # No more than the right to pass closed folders, and none to gain another.
            assert int(status["CapEff"], 16) in {0, 1 << 2, 1 << 1}
            assert int(status["CapBnd"], 16) == int(status["CapEff"], 16)
        servers.stop()

    @pytest.mark.parametrize("missing", ["", "cap_dac_read_search"])
    def test_servers_run_below_a_closed_folder_and_leave_it_closed(
        self, data_dir: Path, missing: str
    ) -> None:
        closed = data_dir / "closed"
        closed.mkdir(parents=True)
        closed.chmod(0o700)
        script = (
            "import sys; from pathlib import Path; from webapp.embedded import Embedded;"
            "servers = Embedded(Path(sys.argv[1]), is_durable=False); servers.start();"
            "servers.stop()"
        )
        drop = [f"--bounding-set=-{missing.removeprefix('cap_')}"] if missing else []
        command = [sys.executable, "-c", script, str(closed / "data")]
        subprocess.run(["setpriv", *drop, "--", *command], cwd=ROOT, check=True, timeout=60)
        assert mode_of(closed) == 0o700
        assert closed.stat().st_uid == 0

    def test_a_plain_user_runs_them_as_themselves(self, data_dir: Path) -> None:
        nobody = pwd.getpwnam("nobody")
        data_dir.mkdir(parents=True)
        os.chown(data_dir, nobody.pw_uid, nobody.pw_gid)
        script = (
            "import sys; from pathlib import Path; from webapp.embedded import Embedded;"
            "servers = Embedded(Path(sys.argv[1]), is_durable=False); servers.start();"
            "print(Path(f'/proc/{servers.postgres.pid}').stat().st_uid); servers.stop()"
        )
        # The right to read is for the interpreter, which may lie in root's own home.
        identity = [
            *(f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"),
            *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
            *("--bounding-set=-all,+dac_read_search", "--securebits=+no_setuid_fixup"),
        ]
        command = [sys.executable, "-c", script, str(data_dir / "own")]
        done = subprocess.run(
            ["setpriv", *identity, "--", *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.strip() == str(nobody.pw_uid), done.stderr
        assert (data_dir / "own" / "servers").stat().st_uid == nobody.pw_uid

    def test_a_plain_user_is_told_that_the_data_is_roots(self, data_dir: Path) -> None:
        nobody = pwd.getpwnam("nobody")
        data_dir.mkdir(parents=True, mode=0o700)
        for folder in (data_dir, *data_dir.parents):
            if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/pytest"):
                folder.chmod(0o711)
        script = (
            "import os, sys; from pathlib import Path; import webapp.embedded as e;"
            f"os.setgid({nobody.pw_gid}); os.setuid({nobody.pw_uid})\n"
            "try: e.make_data_folder(Path(sys.argv[1]))\n"
            "except e.EmbeddedError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(data_dir)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"Cannot write to the folder {data_dir}.\n"
