"""What hosts that we drive ourselves can do: hand out a machine's running state, and go on from it.

A desktop's state is three things that lie beside each other as files or devices: its memory, its
disk, and the state of its processors and devices. While a machine runs, the first two may be read
again and again; once it is frozen nothing changes them any more. The state of the processors is
saved when it is frozen.

Elsewhere, a machine of the same definition is received: it waits, with memory and disk to be
written by whoever carries the state. It loads the state of the processors, and when it is thawed
it goes on at the instruction where the first one was frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from desktops.core.cloud import Server, ServerSpec
from desktops.core.exports import VolumeExports


@dataclass(frozen=True, slots=True)
class MachineDefinition:
    """What a machine looks like to its guest: the same wherever its state is loaded.

    machine : type with its version, such as pc-q35-7.2
    """

    machine: str
    cpu: str
    vcpus: int
    memory_bytes: int
    uuid: str
    mac: str


@dataclass(frozen=True, slots=True)
class VirtualDesktopState:
    """Where the state of one machine lies.

    memory_snapshot : `definition.memory_bytes` long; what the machine itself works in while it runs
    processor_state : there once it was saved
    data_volume : raw
    """

    definition: MachineDefinition
    memory_snapshot: Path
    processor_state: Path
    data_volume: Path


@runtime_checkable
class Hypervisor(VolumeExports, Protocol):
    """A cloud whose machines' state can be carried. Commands are idempotent by the state they
    ask for, and raise Conflict in any other state than they name."""

    def desktop_state(self, region: str, server_id: str) -> VirtualDesktopState: ...

    def freeze_server(self, region: str, server_id: str) -> None:
        """Stop the clocks of a running server: SUSPENDED, and its disk written out."""

    def save_processor_state(self, region: str, server_id: str) -> None:
        """Write the processor state of a frozen server."""

    def receive_server(
        self, region: str, spec: ServerSpec, definition: MachineDefinition, *, key: str
    ) -> Server:
        """A server, in BUILD, that waits for its state; its memory and disk may be written."""

    def load_processor_state(self, region: str, server_id: str) -> None:
        """Have a received server take its state; SUSPENDED then."""

    def thaw_server(self, region: str, server_id: str) -> None:
        """Let a frozen server, or a received one with its state, run on."""
