"""An end that is killed loses nothing; a thousand kills are a benchmark's."""

from __future__ import annotations

from tests.support.killing_ends import MOST_SENT_AGAIN, kill_ends


def test_either_end_may_be_killed_at_any_instant(tmp_path):
    kills = list(kill_ends(tmp_path, 16, seed=1))
    assert [kill for kill in kills if kill.wrong] == []
    assert [kill for kill in kills if kill.sent_again > MOST_SENT_AGAIN] == []
    assert any(kill.brought_blocks for kill in kills)
