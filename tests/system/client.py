"""Somebody who calls over REST, and what the packets of their instances see."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conftest import until
from tests.drivers.packets import Box
from tests.system.process import Person, Thecloud


class Client:
    """Somebody's calls, and the packets of their instances."""

    def __init__(self, cloud: Thecloud, person: Person, stack: ExitStack) -> None:
        self.cloud, self.person, self._stack = cloud, person, stack

    async def do(self, verb: str, path: str, **body: Any) -> Any:
        reply = await self.person.rest.request(verb, path, json=body or None)
        assert reply.is_success, f"{verb} {path} {body}: {reply.status_code} {reply.text}"
        return reply.json() if reply.content else None

    async def make(self, path: str, **body: Any) -> str:
        """The id of something new."""
        id: str = (await self.do("POST", path, **body))["id"]
        return id

    async def vpc(self, name: str, net: str) -> tuple[str, str]:
        """A VPC with one subnet."""
        vpc = await self.make("/vpcs", name=name, cidr_block=f"{net}.0.0/16")
        return vpc, await self.make(f"/vpcs/{vpc}/subnets", name="one", cidr_block=f"{net}.1.0/24")

    async def box(self, instance: dict[str, Any]) -> Box:
        """The namespace that the instance runs in now, listening on port 80."""
        container = await self.cloud.container(instance["id"])
        box = Box(container["NetworkSettings"]["SandboxKey"])
        self._stack.callback(box.close)
        return box.listen(80)

    async def programmed(self, *vpcs: str) -> None:
        """Wait until what was asked of the VPCs is done."""

        async def done() -> bool:
            return not any([(await self.do("GET", f"/vpcs/{vpc}"))["reconciling"] for vpc in vpcs])

        await until(done)


async def eventually(expected: object, look: Callable[[], object]) -> None:
    """Fail unless packets soon see this."""

    async def as_expected() -> bool:
        return await asyncio.to_thread(look) == expected

    try:
        await until(as_expected, 10)
    except TimeoutError:
        pytest.fail(f"{await asyncio.to_thread(look)!r}, not {expected!r}")
