"""A network of its own: a bridge in a namespace, to which machines and this process connect."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "fdbr0"
OURS = "10.77.0.1/24"
# Else a bridge takes the lowest of its ports' addresses, and changes it when machines come and go.
OURS_MAC = "02:fd:00:00:00:01"

# Connects over there, and hands the connection over.
_CONNECT = """
import socket, sys, time
address, port, within_s, back = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
until = time.monotonic() + within_s
while True:
    try:
        made = socket.create_connection((address, port), timeout=1)
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.1)
socket.send_fds(socket.socket(fileno=back), [b"here"], [made.fileno()])
"""


@dataclass(frozen=True, slots=True)
class Segment:
    """run : what a command is put behind to run there; netdev : a tap on its bridge"""

    run: tuple[str, ...]
    netdev: str

    def connect(self, address: str, port: int, *, within_s: float = 60) -> socket.socket:
        """A TCP connection made from within."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            words = [address, str(port), str(within_s), str(theirs.fileno())]
            subprocess.run(
                [*self.run, sys.executable, "-c", _CONNECT, *words],
                pass_fds=[theirs.fileno()],
                check=True,
                timeout=within_s + 30,
            )
            _, (handle, *_), _, _ = socket.recv_fds(ours, 16, 1)
        return socket.socket(fileno=handle)


@contextmanager
def segment(folder: Path) -> Iterator[Segment]:
    """Gone with the block, and whatever still runs there loses it."""
    as_user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    holder = subprocess.Popen(
        ["unshare", "--net", *as_user, "sh", "-c", "echo; exec sleep infinity"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    own = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
    run = ("nsenter", "--target", str(holder.pid), "--net", *own)
    script = folder / "join-bridge"
    script.write_text(f'#!/bin/sh\nip link set "$1" master {BRIDGE} up\n')
    script.chmod(0o755)
    try:
        for line in (
            "link set lo up",
            f"link add {BRIDGE} address {OURS_MAC} type bridge",
            f"address add {OURS} dev {BRIDGE}",
            f"link set {BRIDGE} up",
        ):
            subprocess.run([*run, "ip", *line.split()], check=True)
        yield Segment(run, f"tap,ifname={{interface}},script={script},downscript=no")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
