"""Queries for the exporters a fleet is likely to run.

In a query, $range is how far each value looks back and $match the entry's label matchers. A query
answers with one series per desktop; devices are summed, and a gauge is never counted twice when two
hosts show the same server for a moment while it moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """queries : measure → PromQL
    label : of the answer's series, which names the desktop
    label_pattern : the part of that label that counts
    """

    queries: Mapping[str, str]
    label: str
    label_pattern: str = "(.+)"


# A domain is called instance-0000002a; the id of its Nova server is in a series of its own.
# libvirt-exporter of Tinkoff and its forks (2.x), then prometheus-libvirt-exporter of inovex (2.x).
_SERVER = (
    "max by (instance, domain, desktop) ("
    'label_replace(last_over_time(libvirt_domain_info_meta{$match}[$range]), "desktop", "$1",'
    ' "uuid", "(.+)") or '
    "label_replace(last_over_time(libvirt_domain_openstack_info{$match}[$range]),"
    ' "desktop", "$1", "instance_id", "(.+)"))'
)


def _of_server(aggregate: str, query: str) -> str:
    return (
        f"{aggregate} by (desktop) ({aggregate} by (instance, domain) ({query})"
        f" * on (instance, domain) group_left (desktop) {_SERVER})"
    )


def _libvirt_rates(*counters: str) -> str:
    return " + ".join(
        _of_server("sum", f"rate(libvirt_domain_{name}{{$match}}[$range])") for name in counters
    )


LIBVIRT = Preset(
    {
        "cpu_cores": _libvirt_rates("info_cpu_time_seconds_total"),
        # What the guest itself says is in use; libvirt_domain_info_memory_usage_bytes is what it
        # was given, and never moves.
        "memory_bytes": _of_server(
            "max",
            "avg_over_time(libvirt_domain_memory_stats_available_bytes{$match}[$range])"
            " - avg_over_time(libvirt_domain_memory_stats_usable_bytes{$match}[$range])",
        ),
        "network_bytes_per_s": _libvirt_rates(
            "interface_stats_receive_bytes_total", "interface_stats_transmit_bytes_total"
        ),
        "storage_bytes_per_s": _libvirt_rates(
            "block_stats_read_bytes_total", "block_stats_write_bytes_total"
        ),
    },
    label="desktop",
)

_HOST = r"(.+?)(?::\d+)?$"  # an instance is host:port


def _rates(*selectors: str) -> str:
    """selectors : metric and its matchers, as in name{device!="lo",$match}"""
    return " + ".join(f"sum by (instance) (rate({each}[$range]))" for each in selectors)


def _used(total: str, free: str) -> str:
    return (
        f"max by (instance) (avg_over_time({total}{{$match}}[$range])"
        f" - avg_over_time({free}{{$match}}[$range]))"
    )


# node_exporter 0.16 and newer.
_NO_CARD = 'device!~"lo|(br|docker|tap|tun|veth|virbr|wg).*",$match'
_DISK = 'device!~"(dm-|loop|md|ram|sr|zram).*",$match'  # what lies on disks that are counted
NODE = Preset(
    {
        "cpu_cores": _rates('node_cpu_seconds_total{mode!~"idle|iowait|steal",$match}'),
        "memory_bytes": _used("node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes"),
        "network_bytes_per_s": _rates(
            f"node_network_receive_bytes_total{{{_NO_CARD}}}",
            f"node_network_transmit_bytes_total{{{_NO_CARD}}}",
        ),
        "storage_bytes_per_s": _rates(
            f"node_disk_read_bytes_total{{{_DISK}}}", f"node_disk_written_bytes_total{{{_DISK}}}"
        ),
    },
    label="instance",
    label_pattern=_HOST,
)

# windows_exporter, and wmi_exporter as it was called before 0.13. Privileged time holds that of
# interrupts and deferred calls.
_NIC = 'nic!~"(isatap|Loopback|Teredo).*",$match'
_VOLUME = 'volume!~"HarddiskVolume.*|_Total",$match'


def _windows(name: str, matchers: str) -> str:
    return f'{{__name__=~"(windows|wmi)_{name}",{matchers}}}'


WINDOWS = Preset(
    {
        "cpu_cores": _rates(_windows("cpu_time_total", 'mode=~"privileged|user",$match')),
        # Since 0.30 the size of memory is told by the collector `memory`, before by `cs`.
        "memory_bytes": " or ".join(
            _used(total, free)
            for total, free in (
                ("windows_memory_physical_total_bytes", "windows_memory_available_bytes"),
                ("windows_cs_physical_memory_bytes", "windows_os_physical_memory_free_bytes"),
                ("wmi_cs_physical_memory_bytes", "wmi_os_physical_memory_free_bytes"),
            )
        ),
        "network_bytes_per_s": _rates(
            _windows("net_bytes_received_total", _NIC), _windows("net_bytes_sent_total", _NIC)
        ),
        "storage_bytes_per_s": _rates(
            _windows("logical_disk_read_bytes_total", _VOLUME),
            _windows("logical_disk_write_bytes_total", _VOLUME),
        ),
    },
    label="instance",
    label_pattern=_HOST,
)

PRESETS = {"libvirt": LIBVIRT, "node": NODE, "windows": WINDOWS}
