"""Seconds from `make demo` to a plan that waits for approval, in a fresh clone and once more."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import httpx

from benchmarks.clone import fresh_clone
from benchmarks.figures import Figures, Goal, NotMeasured, main
from webapp.embedded import free_port

GOALS: dict[str, Goal] = {"demo_first_s": ("<", 180), "demo_second_s": ("<", 10)}
PLAN_S = 60.0


def run() -> Figures:
    """Starts the demo twice; packages come from the caches of pip and npm when they are there."""
    with fresh_clone() as (clone, env):
        return {name: _seconds_to_plan(clone, env) for name in GOALS}


def _seconds_to_plan(clone: Path, env: dict[str, str]) -> float:
    address = f"http://127.0.0.1:{(port := free_port())}"
    started = time.monotonic()
    demo = subprocess.Popen(
        ["make", "demo", f"PORT={port}"],
        cwd=clone,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with demo:
        try:
            _wait_for_plan(address, password=_read_password(demo))
            return time.monotonic() - started
        finally:
            demo.terminate()
            assert demo.stdout is not None
            demo.stdout.read()


def _read_password(demo: subprocess.Popen[str]) -> str:
    assert demo.stdout is not None
    for line in demo.stdout:
        print(f"  {line.rstrip()}", file=sys.stderr, flush=True)
        if match := re.search(r"password +(\S+)", line):
            return match.group(1)
    raise NotMeasured(f"make demo ended with exit status {demo.wait()}")


def _wait_for_plan(address: str, *, password: str) -> None:
    with httpx.Client(base_url=address, follow_redirects=True, trust_env=False) as browser:
        page = browser.get("/sign-in/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        if token is None:
            raise NotMeasured(f"{page.url} shows no form to sign in with")
        form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token.group(1)}
        browser.post("/sign-in/", data=form)
        deadline = time.monotonic() + PLAN_S
        while time.monotonic() < deadline:
            answer = browser.get("/api/v1/recommendations/?state=awaiting_approval")
            if answer.status_code == 200 and answer.json()["count"]:
                return
            time.sleep(0.2)
    raise NotMeasured(f"no recommendation waits for approval after {PLAN_S:.0f} s")


if __name__ == "__main__":
    main(sys.modules[__name__])
