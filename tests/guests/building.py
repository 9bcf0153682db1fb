"""The test guest: Debian's cloud kernel, busybox, and a small program of our own (guest.c).

build_guest(folder) -> Guest(kernel, initrd)
build_starter(folder) -> Guest(kernel, initrd), which runs what is installed on its disk

It is made from Debian packages, once per folder and kernel; nothing is installed. The packages
come through apt, into the folder.
"""

from __future__ import annotations

import fcntl
import gzip
import lzma
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = ("qemu-system-x86_64", "qemu-img", "gcc", "apt-get", "dpkg-deb")
META_PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "button", "evdev")
STARTER_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
USABLE, FAILED = "the desktop is usable", "the desktop failed"

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in guest.address=*) address=${{word#*=}};; esac
done
/bin/busybox ip link set lo up
/bin/busybox ip address add ${{address:-10.0.2.15/24}} dev eth0
/bin/busybox ip link set eth0 up
exec /guest
"""

STARTER_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /disk
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in {modules}; do /bin/busybox insmod /modules/$module.ko; done
/bin/busybox mount -t ext4 /dev/vda /disk
for folder in proc sys dev; do /bin/busybox mount --bind /$folder /disk/$folder; done
if /bin/busybox chroot /disk /bin/sh -c "$(/bin/busybox cat /start)"; then
    echo "{usable}"
else
    echo "{failed}"
fi
/bin/busybox umount -l /disk
/bin/busybox sync
/bin/busybox poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Guest:
    kernel: Path
    initrd: Path


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


def build_guest(folder: Path) -> Guest:
    """The guest in `folder`, made there when it is not yet, or not yet of these sources."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        stamp = folder / "stamp"
        sources = (HERE / "guest.c").read_text() + Path(__file__).read_text()
        if not (stamp.is_file() and stamp.read_text() == sources):
            stamp.unlink(missing_ok=True)
            _build(folder)
            stamp.write_text(sources)
    return _guest(folder)


def build_starter(folder: Path, commands: str) -> Guest:
    """A guest that runs these commands of the shell on the file system of its disk, ext4 on all
    of it, says USABLE or FAILED on its console, and switches itself off."""
    folder.mkdir(parents=True, exist_ok=True)
    root = _unpacked(folder)
    modules = _modules(root, STARTER_MODULES)
    init = STARTER_INIT.format(modules=" ".join(modules), usable=USABLE, failed=FAILED)
    return _written(folder, root, modules, {"init": init.encode(), "start": commands.encode()})


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path) -> None:
    root = _unpacked(folder)
    program = folder / "guest"
    _run("gcc", "-O2", "-Wall", "-Wextra", "-static", "-o", program, HERE / "guest.c", "-pthread")
    modules = _modules(root, MODULES)
    files = {
        "init": INIT.format(modules=" ".join(modules)).encode(),
        "guest": program.read_bytes(),
    }
    _written(folder, root, modules, files)


def _unpacked(folder: Path) -> Path:
    _fetch(folder, _kernel_package(folder), "busybox-static")
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for package in sorted(folder.glob("*.deb")):
        _run("dpkg-deb", "-x", package, root)
    return root


def _written(folder: Path, root: Path, modules: dict[str, bytes], files: dict[str, bytes]) -> Guest:
    made = _guest(folder)
    (image,) = root.glob("boot/vmlinuz-*")
    shutil.copy(image, made.kernel)
    files |= {"bin/busybox": next(root.rglob("bin/busybox")).read_bytes()}
    files |= {f"modules/{name}.ko": body for name, body in modules.items()}
    made.initrd.write_bytes(gzip.compress(_cpio(files), compresslevel=1))
    shutil.rmtree(root)
    return made


def _guest(folder: Path) -> Guest:
    return Guest(folder / "kernel", folder / "initrd")


def _fetch(folder: Path, *packages: str) -> None:
    for old in folder.glob("*.deb"):
        old.unlink()
    _run("apt-get", *_apt(folder), "download", *packages, cwd=folder)


def _kernel_package(folder: Path) -> str:
    """The package that the metapackage names; the archive is asked when apt has no list."""
    for is_asked in (False, True):
        if is_asked:
            (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            _run("apt-get", *_apt(folder), "update", "-qq")
        said = _run("apt-cache", *_apt(folder), "depends", META_PACKAGE, check=False)
        if found := re.search(r"Depends: (linux-image-\S+)", said):
            return found[1]
    raise RuntimeError(f"apt does not know {META_PACKAGE}")


def _apt(folder: Path) -> list[str]:
    """apt's own lists, or ours where there are some: ours need no root."""
    ours = folder / "lists"
    return ["-o", f"Dir::State::Lists={ours}"] if ours.is_dir() else []


def _modules(root: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The modules and what they depend on, in the order in which they must be loaded."""
    paths = {_name_of(path): path for path in root.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name not in paths:  # what has no file is built in
            return
        body = paths[name].read_bytes()
        if paths[name].suffix == ".xz":
            body = lzma.decompress(body)
        if needed := re.search(rb"\0depends=([^\0]*)\0", body):
            for other in filter(None, needed[1].decode().split(",")):
                load(other.replace("-", "_"))
        loaded[name] = body

    for name in names:
        load(name)
    return loaded


def _name_of(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _cpio(files: dict[str, bytes]) -> bytes:
    """An archive as the kernel unpacks it ("newc"), of programs and the folders they are in."""
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    entries += [(name, stat.S_IFREG | 0o755, body) for name, body in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    archive = b""
    for number, (name, mode, body) in enumerate(entries, start=1):
        name_size = len(name) + 1
        fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, name_size, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        archive += _padded(header + name.encode() + b"\0") + _padded(body)
    return archive


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)


def _run(*command: str | Path, cwd: Path | None = None, check: bool = True) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
