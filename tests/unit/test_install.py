from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "install.py"


@pytest.fixture
def install() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def job(install: Any, log: Path, code: str, progress: Any = None) -> Any:
    return install.Job("packages", [sys.executable, "-c", code], str(log), progress)


def test_a_failed_job_is_told_in_one_line_with_its_reason(install: Any, tmp_path: Path) -> None:
    code = "print('Collecting a'); print('ERROR: no route'); print('bye'); raise SystemExit(1)"
    with pytest.raises(install.InstallError) as raised:
        install.run_jobs([job(install, tmp_path / "log", code)])
    assert str(raised.value).startswith("packages: ERROR: no route (")
    assert "\n" not in str(raised.value)


def test_a_job_without_a_word_still_has_a_reason(install: Any, tmp_path: Path) -> None:
    with pytest.raises(install.InstallError, match="no message"):
        install.run_jobs([job(install, tmp_path / "log", "raise SystemExit(1)")])


def test_jobs_run_side_by_side(install: Any, tmp_path: Path) -> None:
    wait = (
        "import pathlib, time; pathlib.Path({mine!r}).touch()\n"
        "while not pathlib.Path({other!r}).exists(): time.sleep(0.01)"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    install.run_jobs(
        [
            job(install, tmp_path / "1", wait.format(mine=a, other=b)),
            job(install, tmp_path / "2", wait.format(mine=b, other=a)),
        ]
    )


def test_progress_counts_packages(install: Any, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text("a==1 \\\n    --hash=sha256:0\n    # via b==2\nb==2 \\\n    --hash=sha256:0\n")
    progress = install.pip_progress(str(lock))
    assert progress("Collecting a==1 (from -r requirements.txt)\n") == "1 of 2 packages"
    assert progress("  Using cached a-1.whl\n") is None
    assert progress("Installing collected packages: a, b\n") == "unpacking"


def test_a_changed_lock_file_is_noticed(install: Any, tmp_path: Path) -> None:
    lock, stamp = tmp_path / "lock", str(tmp_path / "stamp")
    lock.write_text("a==1\n")
    assert not install.is_stamped(stamp, install.digest_of(lock))
    install.write_stamp(stamp, install.digest_of(lock))
    assert install.is_stamped(stamp, install.digest_of(lock))
    lock.write_text("a==2\n")
    assert not install.is_stamped(stamp, install.digest_of(lock))


def test_an_npm_that_does_not_run_is_none(install: Any, tmp_path: Path) -> None:
    broken = tmp_path / "npm"
    broken.write_text("#!/nowhere/node\n")
    broken.chmod(0o755)
    assert not install.npm_works([str(broken)])
    assert not install.npm_works([str(tmp_path / "absent")])


def test_a_missing_venv_module_is_told_with_its_debian_package(tmp_path: Path) -> None:
    """Debian's python3 without python3-venv: no ensurepip."""
    project = tmp_path / "project"
    (project / "deploy").mkdir(parents=True)
    (project / "deploy" / "install.py").write_text(SCRIPT.read_text())
    (project / "deploy" / "ensurepip.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, "deploy/install.py"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "install: Python's venv is missing. On Debian and Ubuntu: apt install python3-venv\n"
    )
    assert not (project / ".venv").exists()


def test_both_lock_files_pin_everything_alike() -> None:
    """So that an environment for development also holds what the product needs."""

    def pins(name: str) -> set[str]:
        lines = (SCRIPT.parents[1] / name).read_text().splitlines()
        return {line.partition(";")[0].strip(" \\") for line in lines if "==" in line[:60]}

    runtime = {pin for pin in pins("requirements.txt") if not pin.startswith("#")}
    assert runtime - pins("requirements-dev.txt") == set()
