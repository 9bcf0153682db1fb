"""An end that is killed loses nothing; a thousand kills are a benchmark's."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.killing_ends import MOST_SENT_AGAIN


def test_either_end_may_be_killed_at_any_instant(tmp_path):
    command = [sys.executable, "-m", "tests.support.killing_ends", str(tmp_path), "12"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == 12
    assert [kill for kill in kills if kill["wrong"]] == []
    assert [kill for kill in kills if kill["sent_again"] > MOST_SENT_AGAIN] == []
    assert any(kill["brought_blocks"] for kill in kills)
