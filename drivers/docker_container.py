"""An instance as a container: what the engine is asked to make, and what it shows of it."""

import re
from typing import Any
from uuid import UUID

from drivers.contracts import InstanceSeen, InstanceSpec, Power, hostname
from drivers.docker_images import reference

NETWORK = "thecloud"  # of all instances that are in no VPC

POWER: dict[str, Power] = {
    "created": "STOPPED",
    "exited": "STOPPED",
    "running": "RUNNING",
    "restarting": "RUNNING",
    "paused": "PAUSED",
}


def name(id: UUID) -> str:
    """The container's name."""
    return f"thecloud-{id}"


def container(spec: InstanceSpec, cloud_id: str, publish_address: str) -> dict[str, Any]:
    """What the engine is asked to make."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports if spec.attachment is None else ():
        binding = {"HostIp": publish_address, "HostPort": str(port.host)}
        bindings.setdefault(f"{port.container}/tcp", []).append(binding)
    return {
        "Image": reference(spec.image),
        "Hostname": hostname(spec.name),
        "Cmd": list(spec.cmd) or None,
        "Env": list(spec.env),
        "OpenStdin": True,  # an image whose command is a shell keeps running
        "Labels": {
            "thecloud.cloud": cloud_id,
            "thecloud.instance": str(spec.id),
            "thecloud.name": spec.name,
            "thecloud.tenant": str(spec.tenant_id),
        },
        "ExposedPorts": {port: {} for port in bindings},
        "HostConfig": limits(spec)
        | {
            "PidsLimit": 4096,
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
            "PortBindings": bindings,
            "Mounts": [{"Type": "bind", "Source": each.folder, "Target": each.path} for each in spec.mounts],
        }
        | attached(spec),
    }


def attached(spec: InstanceSpec) -> dict[str, Any]:
    """How the engine is to attach the container to a network."""
    vpc, own = spec.attachment, hostname(spec.name)
    if vpc is None:
        return {"NetworkMode": NETWORK}
    hosts = [f"{own}:{vpc.address}"] if own else []
    return {"NetworkMode": "none", "Dns": [vpc.resolver], "DnsSearch": [vpc.domain], "ExtraHosts": hosts}


def size(spec: InstanceSpec) -> dict[str, int]:
    return {"NanoCpus": round(spec.vcpus * 1e9), "Memory": spec.memory_mb * 2**20}


def limits(spec: InstanceSpec) -> dict[str, Any]:
    """The size, without any swap. In one update with the memory, or growing would exceed the old sum of both."""
    return size(spec) | {"MemorySwap": spec.memory_mb * 2**20}


def seen(box: dict[str, Any]) -> InstanceSeen:
    """An inspected container as the contract tells it."""
    state = box["State"]
    power = POWER.get(state["Status"])
    settings = box["NetworkSettings"]
    networks = settings["Networks"]
    plugged = power in ("RUNNING", "PAUSED") and "none" in networks
    return InstanceSeen(
        power=power,
        private_ip=next((network["IPAddress"] for network in networks.values() if network["IPAddress"]), None),
        backend_id=box["Id"][:12],
        exit_code=state["ExitCode"] if state["Status"] == "exited" else None,
        message=None if power else "being removed",
        netns=settings.get("SandboxKey") if plugged else None,
    )


def inspected(listed: dict[str, Any]) -> dict[str, Any]:
    """A row of the engine's list as if it were inspected. Its exit code is only in the text for people."""
    code = re.match(r"Exited \((\d+)\)", listed["Status"])
    return listed | {"State": {"Status": listed["State"], "ExitCode": int(code[1]) if code else None}}
