"""QEMU's command line, and what it says of itself."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

from desktops.clouds.qemu.monitor import SOCKET
from desktops.clouds.qemu.options import CloudOptions, RegionOptions
from desktops.clouds.qemu.store import ServerRecord
from desktops.core.cloud import CloudUnavailable

DISK = "disk0"
NIC = "nic0"
PID = "pid"
CONSOLE = "console.log"


def command_line(
    server: ServerRecord, cloud: CloudOptions, region: RegionOptions, *, disk: Path, memory: Path
) -> list[str]:
    """QEMU for this server, in whose folder it is started; it waits for a monitor's `cont`.

    Names of devices, blocks and memory are part of the state that travels: never change them.
    """
    machine = server.definition
    own = {"{folder}": str(region.folder / "servers" / server.id), "{interface}": server.interface}
    return [
        cloud.program,
        *("-name", f"guest={server.id},process=qemu-{server.id[:8]}"),
        *("-uuid", machine.uuid),
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-machine", f"{machine.machine},memory-backend=ram"),
        *("-accel", cloud.accelerator),
        *("-cpu", machine.cpu),
        *("-smp", str(machine.vcpus)),
        *("-m", f"{machine.memory_bytes}B"),
        *(
            "-object",
            _json(
                {
                    "qom-type": "memory-backend-file",
                    "id": "ram",
                    "mem-path": str(memory),
                    "share": True,
                    "size": machine.memory_bytes,
                }
            ),
        ),
        *(
            "-blockdev",
            _json(
                {
                    "driver": "raw",
                    "node-name": DISK,
                    "discard": "unmap",
                    "file": {"driver": "file", "filename": str(disk), "discard": "unmap"},
                }
            ),
        ),
        *("-device", f"virtio-blk-pci,id=root,drive={DISK},bootindex=1"),
        *("-netdev", f"{_filled(region.netdev, own)},id=net0"),
        *("-device", f"virtio-net-pci,id={NIC},netdev=net0,mac={machine.mac},romfile="),
        *("-device", "virtio-rng-pci"),
        *("-chardev", f"file,id=console,path={CONSOLE},append=on"),
        *("-serial", "chardev:console"),
        *("-qmp", f"unix:{SOCKET},server=on,wait=off"),
        *("-pidfile", PID),
        *_boot(disk.parent / "boot"),
        *(("-incoming", "defer") if server.is_received else ()),
        *(_filled(argument, own) for argument in cloud.arguments),
        *("-S", "-daemonize"),
    ]


def _boot(folder: Path) -> list[str]:
    """What a disk without a boot loader is booted by."""
    words: list[str] = []
    for option, name in (("-kernel", "kernel"), ("-initrd", "initrd")):
        if (folder / name).is_file():
            words += [option, str(folder / name)]
    append = folder / "append"
    return [*words, "-append", append.read_text().strip()] if append.is_file() else words


def _filled(text: str, own: dict[str, str]) -> str:
    for name, value in own.items():
        text = text.replace(name, value)
    return text


def _json(value: object) -> str:
    return json.dumps(value)


@cache
def versioned_machine(program: str, machine: str) -> str:
    """The type with its version that an alias such as q35 stands for now."""
    try:
        said = subprocess.run(
            [program, "-machine", "help"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise CloudUnavailable(f"{program} does not run: {error}") from error
    alias = re.search(rf"^{re.escape(machine)}\s.*\(alias of (\S+)\)", said, re.MULTILINE)
    return alias[1] if alias else machine
