"""The fake network is held to the part of the contract that needs no packets."""

from dataclasses import replace
from uuid import uuid4

from drivers.network import NetworkDriver, Peering, Topology
from tests.drivers.fake_network import FakeNetwork

VPC = Topology(vpc_id=uuid4(), tenant_id=uuid4(), cidrs=("10.0.0.0/16",))


async def test_observe_tells_what_was_applied_last() -> None:
    driver: NetworkDriver = FakeNetwork()
    assert await driver.observe(VPC.vpc_id) is None
    await driver.apply(VPC)
    changed = replace(VPC, cidrs=("10.0.0.0/16", "10.9.0.0/16"))
    await driver.apply(changed)
    assert await driver.observe(VPC.vpc_id) == changed
    assert await driver.list() == {VPC.vpc_id}
    await driver.delete(VPC.vpc_id)
    await driver.delete(VPC.vpc_id)
    assert await driver.observe(VPC.vpc_id) is None
    assert await driver.list() == set()


async def test_a_peering_needs_both_its_vpcs() -> None:
    driver = FakeNetwork()
    other = replace(VPC, vpc_id=uuid4(), cidrs=("10.1.0.0/16",))
    peered = replace(VPC, peerings=(Peering(id=uuid4(), peer_vpc_id=other.vpc_id, peer_cidrs=other.cidrs),))
    await driver.apply(peered)
    assert await driver.observe(VPC.vpc_id) == VPC
    await driver.apply(other)
    assert await driver.observe(VPC.vpc_id) == peered
