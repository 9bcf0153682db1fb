"""Real processes: what is started is stopped, and never outlives its starter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.processes import eventually, is_alive, processes_of
from webapp.child import Child, stop_together
from webapp.supervisor import Supervisor

# Marks its start in a file, and refuses to end when told once.
STUBBORN = 'trap "echo term >> $0.log" TERM; echo start >> $0.log; while :; do sleep 0.1; done'


def sleeper(name: str, folder: Path, script: str = "sleep 1000") -> Child:
    return Child(name, ["sh", "-c", script, str(folder / name)], grace_s=0.5)


def test_a_stopped_child_is_gone_with_all_it_started(tmp_path: Path) -> None:
    child = sleeper("parent", tmp_path, f"sleep 1000 {tmp_path} 2>&1 | cat & wait")
    child = Child(
        "parent", ["sh", "-c", "sleep 1000 & sleep 1000"], env={**os.environ, "X": str(tmp_path)}
    )
    child.start()
    assert eventually(lambda: len(processes_of(tmp_path)) == 3)
    child.stop()
    assert eventually(lambda: not processes_of(tmp_path))
    assert not child.is_running()


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    child = sleeper("stubborn", tmp_path, STUBBORN)
    child.start()
    log = tmp_path / "stubborn.log"
    assert eventually(log.exists)
    started = time.monotonic()
    child.stop()
    assert 0.5 <= time.monotonic() - started < 5
    assert child.status == -signal.SIGKILL
    assert "term" in log.read_text()


def test_children_stop_side_by_side(tmp_path: Path) -> None:
    children = [sleeper(f"stubborn{n}", tmp_path, STUBBORN) for n in range(8)]
    for child in children:
        child.start()
        assert eventually((tmp_path / f"{child.name}.log").exists)
    started = time.monotonic()
    stop_together(children)
    assert time.monotonic() - started < 3


def test_stopping_what_has_ended_or_never_started_is_no_error(tmp_path: Path) -> None:
    ended, never = sleeper("ended", tmp_path, "exit 3"), sleeper("never", tmp_path)
    ended.start()
    assert ended.wait(timeout_s=10)
    stop_together([ended, never])
    assert ended.status == 3
    assert never.pid is None


def test_input_reaches_the_child_and_output_its_log(tmp_path: Path) -> None:
    log = tmp_path / "echo.log"
    child = Child("echo", ["cat"], log=log, stdin=b"hello\n")
    child.start()
    assert child.wait(timeout_s=10)
    child.reap()
    assert log.read_text() == "hello\n"


def test_a_later_stage_is_stopped_first(tmp_path: Path) -> None:
    order = tmp_path / "order"
    note = f'trap "echo $0 >> {order}; exit" TERM; touch $0.ready; while :; do sleep 0.05; done'
    supervisor = Supervisor(lambda text: None)
    for name in ("database", "web"):
        supervisor.start(sleeper(name, tmp_path, note))
        assert eventually((tmp_path / f"{name}.ready").exists)
    supervisor.stop()
    assert [Path(line).name for line in order.read_text().split()] == ["web", "database"]


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(said.append)
    child = sleeper("worker", tmp_path)
    supervisor.start(child)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    supervisor.watch(until=lambda: child.pid not in {first, None} and child.is_running())
    supervisor.stop()
    assert said == ["worker was ended by SIGKILL; starting it again in 1 s"]


def test_no_child_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from webapp.child import Child;"
        "from webapp.supervisor import Supervisor;"
        "s = Supervisor(print); s.start(*(Child(n, ['sleep', '1000']) for n in 'abc'));"
        "print('started', flush=True); s.watch(until=lambda: False)"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "MARK": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    with supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"started\n"
        family = processes_of(tmp_path)
        assert len(family) == 4
        supervisor.kill()
    assert eventually(lambda: not any(is_alive(pid) for pid in family))
