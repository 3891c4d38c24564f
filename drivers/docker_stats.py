"""What two samples of a Docker Engine tell of a container's use."""

from datetime import datetime
from pathlib import Path
from typing import Any

from drivers.contracts import Stats


def use(before: dict[str, Any], now: dict[str, Any]) -> Stats:
    """What two samples of the engine tell."""
    seconds = (datetime.fromisoformat(now["read"]) - datetime.fromisoformat(before["read"])).total_seconds()
    cpu_time: int = now["cpu_stats"]["cpu_usage"]["total_usage"]
    spent = cpu_time - before["cpu_stats"]["cpu_usage"]["total_usage"]
    memory = now["memory_stats"]
    cache = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))  # cgroup v1, v2
    cards = now.get("networks", {}).values()  # none of an engine that did not make them: see `interfaces`
    blocks = now["blkio_stats"]["io_service_bytes_recursive"]
    return Stats(
        cpu_percentage=100 * spent / 1e9 / seconds if seconds > 0 else 0.0,
        memory_usage_bytes=max(0, memory["usage"] - cache),
        memory_limit_bytes=memory["limit"],
        network_rx_bytes=sum(card["rx_bytes"] for card in cards) if cards else None,
        network_tx_bytes=sum(card["tx_bytes"] for card in cards) if cards else None,
        disk_read_bytes=transferred(blocks, "read"),
        disk_write_bytes=transferred(blocks, "write"),
        cpu_time_nanoseconds=cpu_time,
    )


def interfaces(pid: int) -> dict[str, dict[str, int]]:
    """What a process' network namespace counts on each interface but lo, in the form of the engine's samples."""
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return {}
    counted = {name.strip(): numbers.split() for name, _, numbers in (line.partition(":") for line in lines)}
    return {
        name: {"rx_bytes": int(numbers[0]), "tx_bytes": int(numbers[8])}
        for name, numbers in counted.items()
        if name != "lo"
    }


def transferred(blocks: list[dict[str, Any]] | None, operation: str) -> int | None:
    if blocks is None:
        return None
    total: int = sum(entry["value"] for entry in blocks if entry["op"].lower() == operation)
    return total
