from __future__ import annotations

from collections.abc import Callable

import pytest

from desktops.clouds.openstack.copies import VolumePass
from desktops.core.cloud import CloudFault, Conflict, JobState, Unsupported, VolumeCopy
from tests.unit.openstack.services import Died, Region, Wire

KEY = "transition:1:copy"
PATIENCE = 60


class Copying:
    """A volume in east, and workers that copy it to west: each call is another worker's."""

    def __init__(self) -> None:
        self.wire = Wire()
        regions: dict[str, Region] = {}
        self.east = Region("east", self.wire, regions)
        self.west = Region("west", self.wire, regions)
        volume = {"name": "desk", "size": 20, "status": "in-use"}
        self.volume = self.east._add("volumes", volume)

    def worker(self, key: str = KEY) -> VolumePass:
        return VolumePass(self.east, self.west, source_region="east", key=key)

    def advance(self, key: str = KEY) -> VolumeCopy:
        return self.worker(key).advance(self.volume["id"])

    def drive(self, key: str = KEY) -> VolumeCopy:
        for _ in range(PATIENCE):
            copy = self.advance(key)
            if copy.state is not JobState.RUNNING:
                return copy
        raise AssertionError(f"still running: {copy}")

    def abandon(self) -> None:
        for _ in range(PATIENCE):
            try:
                self.worker().abandon()
            except Conflict:
                continue
            return
        raise AssertionError("never abandoned")

    def settle(self) -> None:
        for _ in range(PATIENCE):
            self.east._pass_time()
            self.west._pass_time()

    def leftovers(self) -> list[str]:
        """Everything but the source volume."""
        self.settle()
        everything = [
            *self.east.volumes,
            *self.east.snapshots,
            *self.east.images,
            *self.west.volumes,
            *self.west.snapshots,
            *self.west.images,
        ]
        return [one for one in everything if one != self.volume["id"]]

    def until_dead(self, work: Callable[[], object]) -> bool:
        """Whether the worker died at it; the next one lives."""
        try:
            work()
        except Died:
            return True
        finally:
            self.wire.dies_before = self.wire.dies_after = None
        return False


def test_a_copy_ends_with_one_volume_and_nothing_else() -> None:
    copying = Copying()
    copy = copying.drive()
    assert copy.state is JobState.DONE
    assert copying.leftovers() == [copy.volume_id]
    made = copying.west.volumes[str(copy.volume_id)]
    assert (made["name"], made["size"]) == ("desk", 20)
    assert (copy.bytes_done, copy.bytes_total) == (4096, 4096)
    assert copying.advance() == copy


def test_bytes_are_known_once_the_image_is_and_never_go_back() -> None:
    copying = Copying()
    seen = [copying.advance()]
    while seen[-1].state is JobState.RUNNING:
        seen.append(copying.advance())
    totals = [copy.bytes_total for copy in seen]
    assert totals[0] is None
    assert sorted(copy.bytes_done for copy in seen) == [copy.bytes_done for copy in seen]
    assert set(totals) == {None, 4096}


@pytest.mark.parametrize("moment", ["dies_before", "dies_after"])
def test_a_worker_may_die_at_any_request(moment: str) -> None:
    whole = Copying()
    whole.drive()
    requests = whole.wire.sent
    for cut in range(1, requests + 1):
        copying = Copying()
        setattr(copying.wire, moment, cut)
        assert copying.until_dead(copying.drive), cut
        copy = copying.drive()
        assert copy.state is JobState.DONE, (cut, copy.detail)
        assert copying.leftovers() == [copy.volume_id], cut


@pytest.mark.parametrize("calls", range(14))
def test_a_copy_may_be_abandoned_at_any_time_and_begun_anew(calls: int) -> None:
    copying = Copying()
    for _ in range(calls):
        copying.advance()
    copying.abandon()
    assert copying.leftovers() == []
    copy = copying.drive()
    assert copy.state is JobState.DONE
    assert copying.leftovers() == [copy.volume_id]


def test_a_worker_may_die_while_it_abandons() -> None:
    for calls in range(14):
        for cut in range(1, 20):
            copying = Copying()
            for _ in range(calls):
                copying.advance()
            copying.wire.dies_after = copying.wire.sent + cut
            copying.until_dead(copying.abandon)
            copying.abandon()
            assert copying.leftovers() == [], (calls, cut)


def test_nobody_takes_up_a_copy_that_is_being_abandoned() -> None:
    copying = Copying()
    while not copying.east.volumes.keys() - {copying.volume["id"]}:
        copying.advance()
    with pytest.raises(Conflict):
        copying.worker().abandon()
    copy = copying.advance()
    assert copy.state is JobState.FAILED
    assert "abandoned" in copy.detail


def test_a_refused_import_fails_with_the_words_of_its_task() -> None:
    copying = Copying()
    copying.west.import_fails = 1
    copy = copying.drive()
    assert copy.state is JobState.FAILED
    assert "the other Glance said no" in copy.detail
    assert copying.advance() == copy, "it stays failed"
    copying.abandon()
    assert copying.leftovers() == []


def test_an_upload_that_fails_is_tried_once_more() -> None:
    copying = Copying()
    copying.east.upload_fails = 1
    assert copying.drive().state is JobState.DONE


def test_an_upload_that_fails_twice_fails_the_copy() -> None:
    copying = Copying()
    copying.east.upload_fails = 2
    copy = copying.drive()
    assert copy.state is JobState.FAILED
    assert "upload" in copy.detail
    copying.abandon()
    assert copying.leftovers() == []


def test_nothing_is_made_where_the_destination_cannot_fetch() -> None:
    copying = Copying()
    copying.west.imports = False
    with pytest.raises(Unsupported, match="glance-download"):
        copying.advance()
    assert copying.leftovers() == []


def test_what_cinder_will_never_delete_is_for_an_administrator() -> None:
    copying = Copying()
    copying.advance()
    (snapshot,) = copying.east.snapshots.values()
    copying.settle()
    snapshot["status"] = "error_deleting"
    with pytest.raises(CloudFault, match="administrator"):
        copying.worker().abandon()


def test_two_copies_of_one_volume_do_not_meet() -> None:
    copying = Copying()
    done: dict[str, VolumeCopy] = {}
    for _ in range(PATIENCE):
        for key in ("first", "second"):
            done[key] = copying.advance(key)
    assert {copy.state for copy in done.values()} == {JobState.DONE}
    made = [copy.volume_id for copy in done.values()]
    assert sorted(copying.leftovers()) == sorted(str(one) for one in made)
    assert len(set(made)) == 2
