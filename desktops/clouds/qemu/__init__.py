"""Plain QEMU hosts behind the cloud protocol, over QMP; no service has to run beside them.

A region is a host, or a part of one: a folder, and a way to run a process. The folder holds all
there is to know, and every process of QEMU outlives the worker that started it.

    options   what a fleet admin says, checked
    store     records, as files
    monitor   QMP
    command   QEMU's command line
    presence  whether there is a process
    process   started once, ended
    files     disks made by processes of their own
    quota     what a region may hold
    volumes   images, volumes, snapshots
    copies    a volume's way into another region
    servers   records and their processes
    states    frozen, saved, loaded elsewhere, gone on from
    driver    the protocols
"""

from desktops.clouds.qemu.driver import connect

__all__ = ["connect"]
