"""Disks are copied whole, holes and all, wherever the copying is cut off."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from desktops.clouds.qemu import files
from migration.cutover import copy_differences
from tests.support.simulator import eventually

BLOCK = 4096


def disk(path: Path, *, seed: int, blocks: int = 512) -> Path:
    """Some blocks of noise, and holes."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(blocks * BLOCK)
        for _ in range(chance.randrange(blocks // 4)):
            file.seek(chance.randrange(blocks) * BLOCK)
            file.write(chance.randbytes(BLOCK))
    return path


@pytest.mark.parametrize("seed", range(8))
def test_pieces_add_up_to_the_disk(tmp_path: Path, seed: int) -> None:
    source = disk(tmp_path / "source", seed=seed)
    copy = tmp_path / "copy"
    with copy.open("wb") as file:
        file.truncate(source.stat().st_size)
    offset = total = 0
    while offset < source.stat().st_size:
        offset, copied = files.copy_piece(source, copy, offset, most=5 * BLOCK + 17)
        total += copied
    assert copy.read_bytes() == source.read_bytes()
    assert total == files.data_bytes(source)
    assert files.data_bytes(copy) == total


@pytest.mark.parametrize("seed", range(8))
def test_differences_make_one_file_the_other(tmp_path: Path, seed: int) -> None:
    source, dest = disk(tmp_path / "a", seed=seed), disk(tmp_path / "b", seed=seed + 100)
    before = dest.read_bytes()
    wanted = source.read_bytes()
    differing = sum(
        wanted[at : at + BLOCK] != before[at : at + BLOCK] for at in range(0, len(wanted), BLOCK)
    )
    assert copy_differences(source, dest) == differing * BLOCK
    assert dest.read_bytes() == wanted
    assert copy_differences(source, dest) == 0


def test_differences_are_refused_between_files_of_two_sizes(tmp_path: Path) -> None:
    source, dest = disk(tmp_path / "a", seed=1), disk(tmp_path / "b", seed=1, blocks=64)
    with pytest.raises(ValueError, match="another size"):
        copy_differences(source, dest)


def test_a_file_is_made_once_by_whoever_asks(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for _ in range(5):
        files.make(made, "sh", "-c", 'echo once >> "$0"', files.part(made))
    eventually(made.exists, timeout_s=10)
    assert made.read_text() == "once\n"
    assert files.why_not(made) is None


def test_a_file_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    made = tmp_path / "made"
    files.make(made, "sh", "-c", "echo the disk is full >&2; exit 1")
    assert eventually(lambda: files.why_not(made), timeout_s=10) == "the disk is full"
    assert not made.exists()
