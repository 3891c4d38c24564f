"""What instances in no VPC are kept from: link-local addresses (RFC 3927).

They mean something only to the host that asks; at one of them, providers tell a machine who it is, with keys.
"""

import structlog

from drivers import linux_kernel as kernel

LINK_LOCAL = "169.254.0.0/16"

log = structlog.get_logger()


def guard(bridge: str) -> str:
    """The firewall's table that refuses what comes from this bridge for such addresses, of the host or beyond."""
    name = f"inet {bridge}_guard"
    refuse = f'iifname "{bridge}" ip daddr {LINK_LOCAL} reject with icmpx admin-prohibited'
    return f"""add table {name}
delete table {name}
add table {name}
add chain {name} input {{ type filter hook input priority -10; }}
add chain {name} forward {{ type filter hook forward priority -10; }}
add rule {name} input {refuse}
add rule {name} forward {refuse}
"""


def keep_from_link_local(bridge: str) -> None:
    """Have the guard there. Where this process may not, say so: then it is for the operator to do."""
    try:
        kernel.nft(guard(bridge))
    except (OSError, RuntimeError) as error:
        log.warning("instances_reach_link_local_addresses", error=str(error),
                    advice=f"run the server as root with nftables, or have the firewall refuse {LINK_LOCAL} to what "
                           f"comes from {bridge}")  # fmt: skip
