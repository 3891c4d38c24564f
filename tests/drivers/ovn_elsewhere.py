"""The ovn network driver as it runs on another machine: a process in a namespace, with files that only it sees.

It is told one thing to do as JSON, and answers with the same topology if that is in place.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import orjson

from drivers.linux_plan import External
from drivers.linux_record import decoded
from drivers.network import Topology
from drivers.ovn import OvnNetwork
from tests.drivers.ovn_machines import Chassis, Machines

ROOT = Path(__file__).parents[2]


class Elsewhere:
    """The driver of another machine. Of `folder`, what is in `here` is not there, and what is in `links` is `there`."""

    def __init__(self, machines: Machines, chassis: Chassis, cloud_id: str, external: External, folder: Path) -> None:
        self._chassis, self._folder = chassis, folder
        self._told = {
            "cloud_id": cloud_id, "external": external, "northbound": machines.northbound,
            "southbound": machines.southbound, "switch": chassis.database, "state": str(folder / "state"),
        }  # fmt: skip
        for name in ("here", "links", "there"):
            (folder / name).mkdir()

    def file(self, path: str, name: str) -> str:
        """The file of a namespace as only machines that see `name`, "here" or "there", have it."""
        folder = self._folder / ("links" if name == "there" else name)
        (folder / Path(path).name).symlink_to(path)
        return str(self._folder / name / Path(path).name)

    def apply(self, topology: Topology) -> bool:
        """Whether it is all in place afterwards."""
        return self._tell("apply", topology)

    def delete(self, topology: Topology) -> bool:
        return self._tell("delete", topology)

    def _tell(self, what: str, topology: Topology) -> bool:
        there, links, here = (self._folder / name for name in ("there", "links", "here"))
        prepare = f"mount --bind {links} {there} && mount -t tmpfs none {here} && exec {sys.executable} -m {__name__}"
        assert self._chassis.namespace
        done = subprocess.run(["ip", "netns", "exec", self._chassis.namespace, "sh", "-c", prepare], cwd=ROOT,
                              env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/generated"}, check=True, timeout=60,
                              input=orjson.dumps({"do": what, "topology": topology, **self._told}),
                              stdout=subprocess.PIPE)  # fmt: skip
        return done.stdout == b"yes"


async def main() -> None:
    told = orjson.loads(sys.stdin.buffer.read())
    topology, what = decoded(Topology, told.pop("topology")), told.pop("do")
    external, state = External(**told.pop("external")), Path(told.pop("state"))
    driver = OvnNetwork(external=external, state=state, **told)
    if what == "apply":
        await driver.apply(topology)
        seen = await driver.observe(topology.vpc_id)
        sys.stdout.write("yes" if seen == topology else f"{seen}")
    else:
        await driver.delete(topology.vpc_id)
    await driver.close()


if __name__ == "__main__":
    asyncio.run(main())
