"""What was observed reaches the server once, whatever happens in between."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.agent.guest import SERVER_ID, Guest, fa, killed

AWAY = fa.Answer(503, {"reason": "unavailable"}, retry_after_s=40.0)


def sampled_times(guest: Guest) -> list[int]:
    return [at for batch in guest.server.batches for at in batch["samples"]["at"]]


def test_every_sample_arrives_once(guest: Guest) -> None:
    agent = guest.agent()
    guest.live(agent, 600)
    agent.close()
    guest.agent()._talk()
    times = sampled_times(guest)
    assert len(times) == len(set(times)) == 40
    assert {batch["server_id"] for batch in guest.server.batches} == {SERVER_ID}
    assert len({batch["batch_id"] for batch in guest.server.batches}) == len(guest.server.batches)


def test_what_is_spooled_survives_being_killed(guest: Guest) -> None:
    guest.server.answers = [fa.Unreachable("no route")] * 1000
    agent = guest.agent()
    guest.live(agent, 300)
    kept = [path.name for path in guest.spooled]
    assert len(kept) >= 4
    (guest.spooled[0].parent / "half.json.gz.tmp").write_bytes(b"\x1f\x8b")
    killed(agent)

    guest.server.answers = []
    agent = guest.agent()
    assert [path.name for path in guest.spooled] == kept
    guest.clock.now += 600
    agent._talk()
    assert guest.spooled == []
    assert [b["batch_id"] for b in guest.server.batches] == [name[13:49] for name in kept]
    assert not list((guest.folder / "state/spool").glob("*.tmp"))


def test_stopping_keeps_the_minute_in_hand(guest: Guest) -> None:
    agent = guest.agent()
    agent.observer.sample()
    agent.close()
    assert len(guest.spooled) == 1


def test_a_batch_whose_answer_was_lost_is_sent_again_under_its_id(guest: Guest) -> None:
    agent = guest.agent()
    agent.observer.sample()
    agent.flush()
    guest.server.answers = [fa.Unreachable("timed out")]
    agent._talk()
    (path,) = guest.spooled
    guest.live(agent, 30)
    assert guest.server.batches[0]["batch_id"] in path.name


def test_a_moved_desktop_sends_old_batches_from_its_new_server(guest: Guest) -> None:
    agent = guest.agent()
    agent.observer.sample()
    agent.flush()
    killed(agent)
    guest.config = replace(guest.config, server_id="99991d0e-1111-4222-8333-444455556666")
    guest.agent()._talk()
    assert guest.server.batches[0]["server_id"].startswith("9999")


@pytest.mark.parametrize(
    "answer",
    [
        AWAY,
        fa.Answer(403, {"reason": "wrong_server"}),  # not committed there yet
        fa.Answer(401, {"reason": "revoked_token"}),
        fa.Answer(404, {}),
        fa.Answer(301, {}),
        fa.Answer(200, {}),  # something that says 200 to everything
        fa.Unreachable("no route"),
    ],
)
def test_a_batch_is_kept_while_the_fault_is_not_its_own(guest: Guest, answer: object) -> None:
    agent = guest.agent()
    agent.observer.sample()
    agent.flush()
    guest.server.answers = [answer]
    agent._talk()
    assert len(guest.spooled) == 1
    assert guest.refused == []
    assert agent.back_off.failures == 1


def test_a_refused_batch_is_set_aside_and_the_next_goes_through(guest: Guest) -> None:
    agent = guest.agent()
    for _ in range(2):
        agent.observer.sample()
        agent.flush()
        guest.clock.now += 1
    guest.server.answers = [fa.Answer(400, {"reason": "malformed_batch"})]
    agent._talk()
    assert guest.spooled == []
    assert len(guest.refused) == len(guest.server.batches) == 1


def test_a_damaged_file_is_set_aside(guest: Guest) -> None:
    agent = guest.agent()
    agent.observer.sample()
    agent.flush()
    guest.spooled[0].write_bytes(guest.spooled[0].read_bytes()[:30])
    agent._talk()
    assert guest.spooled == []
    assert len(guest.refused) == 1


def test_without_knowing_its_server_it_keeps_and_waits(guest: Guest) -> None:
    agent = guest.agent()
    agent.config = replace(agent.config, server_id="")
    agent.server_id = ""
    agent.observer.sample()
    agent.flush()
    agent._talk()
    assert len(guest.spooled) == 1
    assert guest.server.batches == []
    assert agent.back_off.failures == 1


class TestSpool:
    def make(self, guest: Guest, *, most_bytes: int = 1 << 20, most_age_s: float = 1e9):
        return fa.Spool(
            guest.folder / "spool",
            most_bytes=most_bytes,
            most_age_s=most_age_s,
            wall=guest.clock,
        )

    def add(self, guest: Guest, spool, n: int) -> None:
        for i in range(n):
            guest.clock.now += 60
            noise = random.Random(i).randbytes(400).hex()
            spool.add({"batch_id": f"batch-{i}", "noise": noise})

    def test_the_oldest_go_when_it_grows_too_large(self, guest: Guest) -> None:
        spool = self.make(guest, most_bytes=2000)
        self.add(guest, spool, 10)
        files = spool.files()
        assert sum(path.stat().st_size for path in files) <= 2000
        assert spool.dropped == 10 - len(files) > 0
        assert files[-1].name.endswith("batch-9.json.gz")

    def test_the_oldest_go_when_they_are_too_old(self, guest: Guest) -> None:
        spool = self.make(guest, most_age_s=150)
        self.add(guest, spool, 10)
        assert [path.name[13:-8] for path in spool.files()] == ["batch-7", "batch-8", "batch-9"]
        assert spool.dropped == 7

    def test_what_was_set_aside_is_bounded_too(self, guest: Guest) -> None:
        spool = self.make(guest)
        self.add(guest, spool, 120)
        for path in spool.files():
            spool.refuse(path)
        kept = sorted(path.name for path in spool.refused.iterdir())
        assert len(kept) == 100
        assert kept[-1].endswith("batch-119.json.gz")

    def test_files_are_for_the_owner_alone(self, guest: Guest) -> None:
        spool = self.make(guest)
        self.add(guest, spool, 1)
        assert spool.files()[0].stat().st_mode & 0o777 == 0o600
        assert spool.folder.stat().st_mode & 0o777 == 0o700


class TestBackOff:
    def pauses(self, guest: Guest, n: int, *, retry_after_s: float = 0.0) -> list[float]:
        back_off = fa.BackOff(monotonic=guest.clock, chance=random.Random(1))
        pauses = []
        for _ in range(n):
            back_off.failed("away", retry_after_s=retry_after_s)
            pauses.append(back_off.until - guest.clock.now)
        return pauses

    def test_pauses_grow_to_five_minutes_and_differ(self, guest: Guest) -> None:
        pauses = self.pauses(guest, 20)
        for n, pause in enumerate(pauses):
            assert min(300, 5 * 2**n) / 2 <= pause <= min(300, 5 * 2**n)
        assert len(set(pauses)) == 20

    def test_the_server_may_ask_for_more(self, guest: Guest) -> None:
        assert all(600 <= pause <= 660 for pause in self.pauses(guest, 5, retry_after_s=600))

    def test_an_agent_that_waits_does_not_ask_and_does_not_spin(self, guest: Guest) -> None:
        agent = guest.agent()
        guest.server.answers = [AWAY]
        agent.observer.sample()
        agent.flush()
        agent._talk()
        asked, steps = len(guest.server.asked), 0
        until = guest.clock.now + 39
        while guest.clock.now < until:
            agent.step()
            guest.clock.now += agent.wait_s()
            steps += 1
        assert len(guest.server.asked) == asked
        assert steps < 10
        guest.live(agent, 60)
        assert guest.server.batches


class TestEnrolment:
    def test_a_token_left_in_a_file_is_used_and_deleted(self, guest: Guest) -> None:
        agent = guest.agent(is_enrolled=False)
        with pytest.raises(fa.NotEnrolled, match="--enrol"):
            agent.check_enrolled()
        agent.token_file.write_text("foredesk_enrol_x\n")
        agent.check_enrolled()
        guest.live(agent, 90)
        assert not agent.token_file.exists()
        assert agent.state.desktop == "d-1"
        assert guest.server.batches

    def test_a_server_that_is_not_known_yet_is_tried_again(self, guest: Guest) -> None:
        good = guest.server.enrolment
        guest.server.enrolment = fa.Answer(404, {"reason": "unknown_server"})
        agent = guest.agent(is_enrolled=False)
        agent.token_file.write_text("foredesk_enrol_x")
        guest.live(agent, 300)
        assert agent.token_file.exists()
        assert guest.server.asked.count("POST enrol/") < 12
        guest.server.enrolment = good
        guest.live(agent, 400)
        assert not agent.token_file.exists()
        # What was observed before it was let in is not lost.
        assert len(sampled_times(guest)) > 40

    def test_a_spent_token_leaves_the_enrolment_of_before(self, guest: Guest) -> None:
        agent = guest.agent()
        agent.token_file.write_text("foredesk_enrol_old")
        guest.server.enrolment = fa.Answer(401, {"reason": "token_spent"})
        guest.live(agent, 90)
        assert not agent.token_file.exists()
        assert guest.server.batches

    def test_what_answers_must_be_a_foredesk(self, guest: Guest) -> None:
        guest.server.enrolment = fa.Answer(200, {})
        with pytest.raises(fa.NotEnrolled, match="no Foredesk"):
            guest.agent()

    def test_the_credential_is_for_its_owner_alone(self, guest: Guest) -> None:
        agent = guest.agent()
        assert agent.state.path.stat().st_mode & 0o777 == 0o600


def test_two_agents_do_not_share_a_spool(guest: Guest) -> None:
    agent = guest.agent()
    with pytest.raises(fa.AgentError, match="another agent"):
        guest.agent()
    agent.close()
    guest.agent().close()


def test_a_step_that_fails_does_not_end_the_agent(
    guest: Guest, caplog: pytest.LogCaptureFixture
) -> None:
    class Stop:
        steps = 0

        def is_set(self) -> bool:
            self.steps += 1
            return self.steps > 50

        def wait(self, seconds: float) -> None:
            guest.clock.now += seconds

    agent = guest.agent()
    guest.counters.cores = "odd"  # type: ignore[assignment]
    agent.run(Stop())
    assert "a step failed" in caplog.text
    guest.counters.cores = 4
    agent.run(Stop())
    assert guest.server.batches


def test_a_damaged_state_says_what_to_do(guest: Guest) -> None:
    folder = Path(guest.config.state_dir)
    folder.mkdir()
    (folder / "state.json").write_text("{")
    with pytest.raises(fa.AgentError, match="enrol again"):
        guest.agent()
