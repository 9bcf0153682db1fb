"""Whatever two images hold and wherever a pass is interrupted, the next one makes them equal."""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration.replication.errors import Corrupted, Interrupted, ReplicationError
from migration.replication.shadow import DIRECT
from migration.replication.volume import MappedVolume
from tests.unit.replication.ends import Cut, Ends, Flip

BLOCK = 4096
MIB = 1 << 20


@st.composite
def images(draw, block_bytes: int, n_blocks: int):
    """Blocks that repeat, are zero, or are like no other; the last may be cut."""
    kinds = draw(st.lists(st.integers(0, 9), min_size=n_blocks, max_size=n_blocks))
    content = b"".join(
        bytes(block_bytes)
        if kind == 0
        else random.Random(kind).randbytes(block_bytes)
        if kind < 6
        else random.Random(1000 * kind + place).randbytes(block_bytes)
        for place, kind in enumerate(kinds)
    )
    return content[: len(content) - draw(st.integers(0, block_bytes - 1))]


@st.composite
def histories(draw):
    """How volumes are cut, and what one holds at one time after another; it may grow."""
    block_bytes = draw(st.sampled_from([512, 1024, 4096]))
    sizes = sorted(draw(st.lists(st.integers(1, 24), min_size=2, max_size=3)))
    cut = {"block_bytes": block_bytes, "blocks_per_super": draw(st.sampled_from([1, 2, 8]))}
    states = [draw(images(block_bytes, n)) for n in sizes]
    states.sort(key=len)
    return cut, states


modes = st.sampled_from(["staged", "direct"])


@settings(max_examples=60, deadline=None)
@given(histories(), modes, st.booleans())
def test_a_shadow_holds_what_its_source_held_at_each_pass(history, mode, is_cache_lost):
    cut, states = history
    with tempfile.TemporaryDirectory() as folder:
        ends = Ends(Path(folder))
        for number, state in enumerate(states, 1):
            ends.write_source(state)
            if is_cache_lost:
                (ends.folder / "cache" / "index").unlink(missing_ok=True)
            report = ends.send(mode=mode, **cut)
            assert ends.held() == state
            assert ends.generation() == report.generation >= number
            assert ends.verify().is_equal


@settings(max_examples=80, deadline=None)
@given(
    histories(),
    modes,
    st.lists(st.tuples(st.integers(1, 120_000), modes), min_size=1, max_size=3),
    st.booleans(),
)
def test_an_interrupted_pass_is_gone_on_with(history, first_mode, cuts, is_source_changing):
    cut, states = history
    with tempfile.TemporaryDirectory() as folder:
        ends = Ends(Path(folder))
        ends.write_source(states[0])
        ends.send(mode=first_mode, **cut)
        for after, mode in cuts:
            ends.write_source(states[-1])
            generation = ends.generation()
            before = ends.held()
            try:
                ends.send(hurt=partial(Cut, after=after), mode=mode, **cut)
            except Interrupted:
                if mode == "staged" and generation == ends.generation():
                    # Longer at most, by the zeros that the source grew by.
                    assert ends.held().rstrip(b"\0") == before.rstrip(b"\0")
            if is_source_changing:
                states[-1] = states[-1][::-1]
        ends.write_source(states[-1])
        ends.send(**cut)
        assert ends.held() == states[-1]
        assert ends.verify().is_equal


@pytest.fixture
def ends(tmp_path):
    return Ends(tmp_path)


def some_content(seed: int, n_bytes: int = 8 * MIB) -> bytes:
    return random.Random(seed).randbytes(n_bytes)


def changed(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


def test_only_what_changed_is_sent(ends):
    content = some_content(1)
    ends.write_source(content)
    ends.send()
    ends.write_source(changed(content, 5 * MIB + 17, b"other"))
    report = ends.send()
    assert report.data_bytes == report.changed_bytes == BLOCK
    assert report.sent_bytes < BLOCK + 1000


def test_what_the_destination_holds_elsewhere_is_not_sent(ends):
    content = some_content(1, 2 * MIB) + bytes(2 * MIB)
    ends.write_source(content)
    ends.send()
    ends.write_source(changed(content, 2 * MIB, content[: MIB + BLOCK]))
    report = ends.send()
    # Some are forgotten: where contents are is a hint of bounded size.
    assert report.copied_bytes > 0.98 * MIB
    assert report.sent_bytes < 0.02 * MIB


def test_what_repeats_is_sent_once(ends):
    ends.write_source(some_content(1, MIB) * 3 + some_content(2, BLOCK) * 5)
    report = ends.send()
    assert report.data_bytes < 1.05 * MIB
    assert report.repeated_bytes > 1.95 * MIB + 4 * BLOCK


def test_what_became_zero_takes_no_room(ends):
    content = some_content(1)
    ends.write_source(content)
    ends.send()
    ends.write_source(bytes(len(content)))
    report = ends.send()
    assert report.zero_bytes == len(content)
    assert report.sent_bytes < 2_000
    volume = ends.folder / "store/desk/volume"
    assert volume.stat().st_blocks * 512 < MIB


def test_a_change_map_is_relied_on(ends):
    content = some_content(1)
    ends.write_source(content)
    ends.send()
    ends.write_source(changed(changed(content, 0, b"missed"), 6 * MIB, b"seen"))
    report = ends.send(changes=[(6 * MIB, 6 * MIB + 4)])
    assert report.scanned_bytes == MIB
    assert ends.held() == changed(content, 6 * MIB, b"seen")


def test_a_change_map_is_not_relied_on_once_the_index_was_lost(ends):
    content = some_content(1)
    ends.write_source(content)
    ends.send()
    (ends.folder / "cache/index").unlink()
    state = changed(changed(content, 0, b"missed"), 6 * MIB, b"seen")
    ends.write_source(state)
    ends.send(changes=[(6 * MIB, 6 * MIB + 4)])
    assert ends.held() == state


def test_a_new_shadow_begins_with_one_that_has_the_same_image(ends):
    image = some_content(1)
    ends.write_source(image)
    ends.send(volume="image")
    ends.write_source(changed(image, MIB, b"of this desktop only"))
    report = ends.send(base="image", folder=ends.folder / "other cache")
    assert report.data_bytes == BLOCK
    assert report.sent_bytes + report.received_bytes < 3 * BLOCK
    assert ends.held() == ends.source.read_bytes()
    assert ends.held("image") == image


def test_what_was_brought_before_an_interruption_is_not_sent_again(ends):
    ends.write_source(some_content(1, 80 * MIB))
    with pytest.raises(Interrupted):
        ends.send(hurt=partial(Cut, after=70 * MIB))
    report = ends.send()
    # Told stored: two windows of 32 MiB.
    assert report.data_bytes <= 16 * MIB
    assert ends.held() == ends.source.read_bytes()


@pytest.mark.parametrize("at", [3, 5, 2000, 3 * MIB])
def test_a_bit_flipped_on_its_way_is_noticed(ends, at):
    ends.write_source(some_content(1))
    with pytest.raises(ReplicationError):
        ends.send(hurt=partial(Flip, at=at))
    ends.send()
    assert ends.held() == ends.source.read_bytes()


def test_a_bit_flipped_on_the_destinations_disk_is_found_and_repaired(ends):
    content = some_content(1)
    ends.write_source(content)
    ends.send()
    volume = ends.folder / "store/desk/volume"
    volume.write_bytes(changed(content, 3 * MIB + 5, bytes([content[3 * MIB + 5] ^ 1])))
    found = ends.verify()
    assert found.differing.tolist() == found.damaged.tolist() == [3]
    report = ends.send()
    assert report.data_bytes == BLOCK
    assert ends.verify().is_equal


def test_a_copy_of_a_damaged_block_is_sent_as_data(ends):
    content = some_content(1, 2 * MIB)
    ends.write_source(content + bytes(MIB))
    ends.send()
    volume = ends.folder / "store/desk/volume"
    volume.write_bytes(changed(volume.read_bytes(), 5, b"damage"))
    ends.write_source(content + content[:BLOCK] + bytes(MIB - BLOCK))
    report = ends.send()
    assert report.copied_bytes == report.data_bytes == BLOCK
    assert ends.held()[2 * MIB :] == ends.source.read_bytes()[2 * MIB :]


def test_a_staged_block_that_was_damaged_is_sent_again(ends, monkeypatch):
    from migration.replication.shadow import Pass

    ends.write_source(some_content(1))
    apply = Pass.apply
    is_damaged = []

    def damage(self, alive):
        if not is_damaged:
            is_damaged.append(True)
            self._place.write(memoryview(b"damage"), 4 * MIB)
        apply(self, alive)

    monkeypatch.setattr(Pass, "apply", damage)
    ends.send()
    assert is_damaged
    assert ends.held() == ends.source.read_bytes()
    assert ends.verify().is_equal


def test_a_disk_that_keeps_changing_what_is_written_is_given_up(ends, monkeypatch):
    from migration.replication.volume import FileVolume

    write = FileVolume.write

    def lose(self, data, at):
        write(self, memoryview(bytes(data).replace(b"a", b"b")), at)

    monkeypatch.setattr(FileVolume, "write", lose)
    ends.write_source(b"a" * MIB)
    with pytest.raises(Corrupted, match="its memory, changes what is written"):
        ends.send()
    assert ends.generation() is None


def test_a_source_that_changes_while_it_is_read_is_brought_over_by_the_next_pass(ends):
    content = some_content(1)
    ends.write_source(content)
    ends.send()
    report = ends.send(is_consistent=False)
    assert report.changed_bytes == 0
    shadow = ends.store.open("desk")
    assert not shadow.point.is_consistent
    assert shadow.point.generation == 2
    shadow.close()


def test_what_is_mapped_is_passed_over_where_it_is_known_and_sent_where_it_is_not(
    tmp_path: Path,
) -> None:
    """As memory is: looked through in place, again and again."""
    ends = Ends(tmp_path)
    content = bytearray(random.Random(3).randbytes(3 * (1 << 20) + 4096))
    ends.write_source(bytes(content))
    with MappedVolume(ends.source) as memory:
        first = ends.send(source=memory, mode=DIRECT)
        at = (1 << 20) + 5
        content[at] ^= 1
        with ends.source.open("r+b") as file:
            file.seek(at)
            file.write(content[at : at + 1])
        second = ends.send(source=memory, mode=DIRECT)
    assert first.changed_bytes >= 3 << 20
    assert (second.scanned_bytes, second.changed_bytes) == (4 << 20, 4096)
    assert ends.verify().is_equal
