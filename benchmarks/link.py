"""Two hosts on this machine, and a link between them of a given speed: network namespaces.

It needs root, iproute2 and the kernel's token bucket (tc tbf).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from benchmarks.figures import NotMeasured


@dataclass(frozen=True)
class Host:
    """namespace : its name; address : on the link"""

    namespace: str
    address: str

    def command(self, *command: object) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]


@contextmanager
def linked_hosts(mbit: float) -> Iterator[tuple[Host, Host]]:
    if os.geteuid() != 0 or not shutil.which("tc"):
        raise NotMeasured("a link of a given speed needs root and iproute2")
    name = f"bench{os.getpid()}"
    near, far = Host(f"{name}a", "10.213.0.1"), Host(f"{name}b", "10.213.0.2")
    try:
        for host in (near, far):
            _run("ip", "netns", "add", host.namespace)
        ends = {near: f"{name[-8:]}a", far: f"{name[-8:]}b"}
        _run("ip", "link", "add", ends[near], "type", "veth", "peer", "name", ends[far])
        for host, device in ends.items():
            _run("ip", "link", "set", device, "netns", host.namespace)
            _run(*host.command("ip", "address", "add", f"{host.address}/24", "dev", device))
            _run(*host.command("ip", "link", "set", device, "up"))
            shape = ("rate", f"{mbit}mbit", "burst", "256kb", "latency", "50ms")
            _run(*host.command("tc", "qdisc", "add", "dev", device, "root", "tbf", *shape))
        yield near, far
    finally:
        for host in (near, far):
            with suppress(NotMeasured):
                _run("ip", "netns", "delete", host.namespace)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotMeasured(f"{' '.join(command)}: {done.stderr.strip()}")
