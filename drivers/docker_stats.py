"""What two samples of a Docker Engine tell of a container's use."""

from datetime import datetime
from typing import Any

from drivers.contracts import Stats


def use(before: dict[str, Any], now: dict[str, Any]) -> Stats:
    """What two samples of the engine tell."""
    seconds = (datetime.fromisoformat(now["read"]) - datetime.fromisoformat(before["read"])).total_seconds()
    cpu_time: int = now["cpu_stats"]["cpu_usage"]["total_usage"]
    spent = cpu_time - before["cpu_stats"]["cpu_usage"]["total_usage"]
    memory = now["memory_stats"]
    cache = memory["stats"].get("total_inactive_file", memory["stats"].get("inactive_file", 0))  # cgroup v1, v2
    cards = now.get("networks", {}).values()
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


def transferred(blocks: list[dict[str, Any]] | None, operation: str) -> int | None:
    if blocks is None:
        return None
    total: int = sum(entry["value"] for entry in blocks if entry["op"].lower() == operation)
    return total
