"""Nothing accepted is lost or doubled while both servers are ended and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.services import ROOT

MINUTES = float(os.environ.get("SOAK_MINUTES", "30"))


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_a_fleet_that_posts_through_restarts_loses_and_doubles_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", str(MINUTES)]
    # A database of its own: it ends the server, which the other tests share.
    own = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    done = subprocess.run(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, check=True, text=True)

    figures = json.loads(done.stdout.splitlines()[-1])["figures"]
    assert figures == {"soak_lost": 0, "soak_doubled": 0}
