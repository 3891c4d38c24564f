"""Resource use of a virtual machine, as libvirt tells it."""

import time
from typing import Any

import libvirt

from drivers.contracts import Stats

BETWEEN = 0.2  # seconds between the samples that a share of the processor is taken from
KINDS = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
    | libvirt.VIR_DOMAIN_STATS_BLOCK
)


def use(domain: Any) -> Stats:
    """What it uses now. Its memory is what the guest says it uses; where it says nothing, what QEMU takes of it."""
    (_, before), start = _sample(domain), time.monotonic()
    time.sleep(BETWEEN)
    (_, after), end = _sample(domain), time.monotonic()
    limit = after["balloon.maximum"]
    if "balloon.available" in after and "balloon.unused" in after:
        used = after["balloon.available"] - after["balloon.unused"]
    else:
        used = after.get("balloon.rss", 0)
    return Stats(
        cpu_percentage=max(0, after["cpu.time"] - before["cpu.time"]) / (end - start) / 1e7,
        memory_usage_bytes=min(used, limit) * 1024,
        memory_limit_bytes=limit * 1024,
        network_rx_bytes=_total(after, "net", "rx.bytes"),
        network_tx_bytes=_total(after, "net", "tx.bytes"),
        disk_read_bytes=_total(after, "block", "rd.bytes"),
        disk_write_bytes=_total(after, "block", "wr.bytes"),
        cpu_time_nanoseconds=after["cpu.time"],
    )


def _sample(domain: Any) -> Any:
    [sample] = domain.connect().domainListGetStats([domain], KINDS)
    if "cpu.time" not in sample[1]:
        raise LookupError(f"{domain.name()} does not run")
    return sample


def _total(sample: dict[str, Any], kind: str, what: str) -> int | None:
    """The sum over all of a kind; None when it is told of none."""
    found = [value for key, value in sample.items() if key.startswith(f"{kind}.") and key.endswith(f".{what}")]
    return sum(found) if found else None
