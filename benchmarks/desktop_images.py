"""A pair of disk images of one desktop, before and after a day: the work of `replication`.

Debian with a desktop is installed into an ext4 file system; then, in a copy of it, one more
program is installed as its user would, documents are written, edited, copied and deleted. It needs
root, debootstrap and a loop device; built once per folder.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUITE = "bookworm"
SIZE = 4 << 30
DESKTOP = ("xfce4", "evince", "vim", "python3", "fonts-dejavu", "fonts-noto-core")
ONE_MORE_PROGRAM = "gnumeric"
SEED = 20260302
KIB = 1024


class ImagesUnavailable(Exception):
    """They cannot be built on this machine; the message says why."""


def image_pair(folder: Path) -> tuple[Path, Path]:
    """Images before and after, built if they are not in `folder`."""
    before, after = folder / "before.img", folder / "after.img"
    if not after.exists():
        if shutil.which("debootstrap") is None:
            raise ImagesUnavailable("debootstrap is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        if not before.exists():
            _build(folder / "before.part", _install_desktop)
            (folder / "before.part").rename(before)
        _run("cp", "--sparse=always", before, folder / "after.part")
        with _mounted(folder / "after.part") as root:
            _work_for_a_day(root)
        (folder / "after.part").rename(after)
    return before, after


def _build(image: Path, fill) -> None:
    with image.open("wb") as file:
        file.truncate(SIZE)
    _run("mke2fs", "-q", "-F", "-t", "ext4", image)
    with _mounted(image) as root:
        fill(root)


def _install_desktop(root: Path) -> None:
    _run("debootstrap", "--variant=minbase", SUITE, root)
    _install(root, *DESKTOP)
    documents = random.Random(SEED)
    for number in range(200):
        _write_document(root, number, documents)


def _work_for_a_day(root: Path) -> None:
    _install(root, ONE_MORE_PROGRAM)
    documents = random.Random(SEED + 1)
    home = root / "home/desk"
    for number in range(200, 230):
        _write_document(root, number, documents)
    for number in range(0, 200, 7):
        path = home / f"{number}.txt"
        text = path.read_bytes()
        cut = documents.randrange(len(text))
        path.write_bytes(text[:cut] + b"\nadded later\n" + text[cut:])
    for number in range(1, 200, 31):
        shutil.copy(home / f"{number}.txt", home / f"{number}-copy.txt")
    for number in range(2, 200, 23):
        (home / f"{number}.txt").unlink()


def _write_document(root: Path, number: int, choose: random.Random) -> None:
    words = (root / "usr/share/common-licenses/GPL-3").read_text().split()
    path = root / f"home/desk/{number}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(" ".join(choose.choices(words, k=choose.randrange(KIB, 64 * KIB))))


def _install(root: Path, *packages: str) -> None:
    apt = ("apt-get", "-y", "-qq", "--no-install-recommends", "install")
    environment = ("env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
    _run("chroot", root, *environment, *apt, *packages)
    _run("chroot", root, *environment, "apt-get", "clean")


@contextmanager
def _mounted(image: Path) -> Iterator[Path]:
    root = image.with_suffix(".root")
    root.mkdir(exist_ok=True)
    _run("mount", "-o", "loop", image, root)
    try:
        yield root
    finally:
        _run("umount", root)
        root.rmdir()


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last = done.stdout.strip().splitlines()[-3:]
        raise ImagesUnavailable(f"{command[0]} failed: " + " ".join(last))


if __name__ == "__main__":
    print(*image_pair(Path(sys.argv[1])))
