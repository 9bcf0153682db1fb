"""The program itself: its options, its configuration, and the Python it needs."""

from __future__ import annotations

import ast
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.agent import PROGRAM
from tests.unit.agent.guest import fa

CONFIG = """
[server]
url = https://foredesk.example.org
[agent]
sample_s = 1
state_dir = {state_dir}
[identity]
server_id = 5b4a1d0e-1111-4222-8333-444455556666
"""


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_is_written_for_python_3_9() -> None:
    ast.parse(PROGRAM.read_text(), feature_version=(3, 9))


def test_it_needs_psutil_and_the_standard_library_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse(PROGRAM.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names == {"psutil"}


def test_a_dry_run_prints_a_batch_and_leaves_no_trace(tmp_path: Path) -> None:
    config = tmp_path / "agent.conf"
    config.write_text(CONFIG.format(state_dir=tmp_path / "state"))
    ran = run("--config", str(config), "--once", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    batch = json.loads(ran.stdout)
    assert batch["server_id"] == "5b4a1d0e-1111-4222-8333-444455556666"
    assert len(batch["samples"]["at"]) == 1
    assert batch["samples"]["memory_bytes"][0] > 10**6
    assert list(tmp_path.iterdir()) == [config]


def test_a_dry_run_asks_no_server(tmp_path: Path) -> None:
    """There is no such server: whoever asked it would fail."""
    ran = run("--config", str(tmp_path / "none.conf"), "--dry-run")
    assert ran.returncode == 0, ran.stderr
    assert "samples" in json.loads(ran.stdout)


def test_it_says_its_version() -> None:
    assert run("--version").stdout.strip() == fa.VERSION


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\nurl = http://foredesk.example.org", "https"),
        ("[server]\nurl = foredesk.example.org", "https"),
        ("[privacy]\naplications = firefox", "aplications"),
        ("[nothing]\nx = 1", "nothing"),
        ("[agent]\nsample_s = 0", "sample_s"),
        ("[agent]\nsample_s = often", "sample_s"),
        ("[privacy]\nclient_address = maybe", "client_address"),
        ("[sessions]\nremote_ports = rdp", "remote_ports"),
        ("url = x", "section"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "agent.conf"
    path.write_text(text)
    with pytest.raises(fa.BadConfig, match=complaint):
        fa.read_config(path)


def test_options_are_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.conf"
    path.write_text(
        "[server]\nurl = http://127.0.0.1:8000\n"
        "[privacy]\napplications = firefox, soffice.bin\ndisk_reads = no\n"
        "[sessions]\nremote_ports = 3389 4822\n"
    )
    config = fa.read_config(path)
    assert config.url == "http://127.0.0.1:8000"
    assert config.applications == ("firefox", "soffice.bin")
    assert config.disk_reads is False
    assert config.remote_ports == (3389, 4822)


def test_a_missing_configuration_ends_it_with_one_line(tmp_path: Path) -> None:
    ran = run("--config", str(tmp_path / "none.conf"))
    assert ran.returncode == 1
    assert ran.stderr.strip() == f"ERROR {tmp_path}/none.conf does not exist"


def test_told_to_stop_it_keeps_what_it_has_and_ends_well(tmp_path: Path) -> None:
    config, state = tmp_path / "agent.conf", tmp_path / "state"
    text = CONFIG.format(state_dir=state)
    config.write_text(text.replace("https://foredesk.example.org", "http://127.0.0.1:1"))
    state.mkdir()
    (state / "state.json").write_text(json.dumps({"token": "t", "command_key": "00"}))
    process = subprocess.Popen([sys.executable, str(PROGRAM), "--config", str(config)])
    try:
        deadline = time.monotonic() + 30
        while not (state / "lock").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
    assert list((state / "spool").glob("*.json.gz"))


def test_the_example_shows_every_option_with_its_default() -> None:
    example = PROGRAM.with_name("foredesk-agent.conf.example")
    assert fa.read_config(example) == fa.Config(url="https://foredesk.example.org")
    text = example.read_text()
    for name in (option for options in fa.SECTIONS.values() for option in options):
        assert f"{name} =" in text, name
