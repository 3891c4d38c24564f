"""The way out to addresses that users give: whatever a URL says, it does not lead inside."""

import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from server import egress
from server.config import BadConfig, Config
from server.egress import Forbidden, Guard, Unreachable
from tests.file_server import FileServer, serving

ALLOWED = Guard((ip_network("127.0.0.1/32"),))


class Names(AbstractResolver):
    """Each look-up of any name gives the next address; the last one stays."""

    def __init__(self, *addresses: str) -> None:
        self.addresses, self.asked = list(addresses), 0

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        self.asked += 1
        address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with serving(FileServer(b"the file")) as file_server:
        yield file_server


async def read(guard: Guard, url: str) -> bytes:
    async with egress.opened(guard, url, {}) as response:
        assert response.status == 200
        return await response.read()


async def test_what_is_allowed_is_fetched(server: FileServer) -> None:
    assert await read(ALLOWED, server.url) == b"the file"
    assert server.requests[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.127.255.254", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
        "239.1.2.3", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
        "fec0::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2002:a00:1::", "2001::1", "::127.0.0.1",
    ],
)  # fmt: skip
def test_an_address_inside_is_not_permitted(address: str) -> None:
    assert not Guard().permits(ip_address(address), 443)


def test_an_address_outside_is_permitted_on_usual_ports() -> None:
    for address in ("1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"):
        found = [port for port in (22, 25, 80, 443, 1023, 1024, 8443) if Guard().permits(ip_address(address), port)]
        assert found == [80, 443, 1024, 8443], address


@given(st.ip_addresses(v=4))
def test_ipv6_forms_of_an_address_are_judged_as_that(address: Any) -> None:
    for form in (f"::ffff:{address}", f"64:ff9b::{int(address):032b}"):
        if form.startswith("64"):
            form = str(ip_address(int(ip_address("64:ff9b::")) + int(address)))
        assert Guard().permits(ip_address(form), 443) == Guard().permits(address, 443)


def test_the_configuration_allows_and_the_external_network_is_inside() -> None:
    config = Config(external_network="198.41.0.0/16", egress_allow="10.1.0.0/16, 127.0.0.1")
    guard = Guard.of(config)
    assert guard.permits(ip_address("10.1.2.3"), 22)
    assert guard.permits(ip_address("127.0.0.1"), 80)
    assert not guard.permits(ip_address("10.2.2.3"), 80)
    assert not guard.permits(ip_address("198.41.0.4"), 80)
    assert Guard().permits(ip_address("198.41.0.4"), 80)
    with pytest.raises(BadConfig, match="THECLOUD_EGRESS_ALLOW"):
        Guard.of(Config(egress_allow="10.0.0.1/8"))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.com/a", "gopher://127.0.0.1:70/", "//example.com/a", "example.com", "", "http://",
        "http:///a", "http://user:password@example.com/", "http://user@example.com/", "http://example.com:99999/",
        "http://[::1", "http://exa mple.com:x/", "javascript:alert(1)", "http://:80/", "unix:///var/run/docker.sock",
    ],
)  # fmt: skip
async def test_what_is_no_url_to_fetch_is_refused(url: str) -> None:
    with pytest.raises(Forbidden):
        egress.check(url)
    with pytest.raises(Forbidden):
        await read(ALLOWED, url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
async def test_no_spelling_of_loopback_gets_through(server: FileServer, host: str) -> None:
    with pytest.raises((Forbidden, Unreachable)):
        await read(Guard(), f"http://{host}:{server.port}/")
    assert server.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/", "http://127.0.0.2:{port}/", "file:///etc/passwd",
        "http://u:p@127.0.0.1:{port}/", "http://[::1]:{port}/", "http://10.0.0.1:81/",
    ],
)  # fmt: skip
async def test_a_redirect_is_judged_like_the_url_itself(server: FileServer, target: str) -> None:
    server.locations["/disk.img"] = target.format(port=server.port)
    with pytest.raises(Forbidden):
        await read(ALLOWED, server.url)
    assert [each["path"] for each in server.requests] == ["/disk.img"]


async def test_five_redirects_are_followed_and_no_more(server: FileServer) -> None:
    for number in range(5):
        server.locations[f"/{number}"] = f"/{number + 1}" if number < 4 else "/disk.img"
    assert await read(ALLOWED, f"http://127.0.0.1:{server.port}/0") == b"the file"
    server.locations["/disk.img"] = "/disk.img"
    with pytest.raises(Forbidden, match="redirects"):
        await read(ALLOWED, server.url)


async def test_a_name_that_means_another_address_the_next_time_gains_nothing(server: FileServer) -> None:
    """The first look-up leads to where it may, the next to loopback that it may not: each connection is judged."""
    names = Names("127.0.0.1", "127.0.0.2")
    guard = Guard(ALLOWED.allowed, resolver=names)
    url = f"http://rebinding.example:{server.port}/disk.img"
    assert await read(guard, url) == b"the file"
    with pytest.raises(Forbidden, match=r"127\.0\.0\.2"):
        await read(guard, url)
    server.locations["/disk.img"] = url
    guard = Guard(ALLOWED.allowed, resolver=Names("127.0.0.1", "127.0.0.2"))
    with pytest.raises(Forbidden, match=r"127\.0\.0\.2"):
        await read(guard, url)


async def test_a_name_is_looked_up_once_for_each_connection(server: FileServer) -> None:
    """There is no second look-up between the check and the connection."""
    names = Names("127.0.0.1")
    await read(Guard(ALLOWED.allowed, resolver=names), f"http://once.example:{server.port}/disk.img")
    assert names.asked == 1


async def test_a_name_that_leads_inside_is_refused(server: FileServer) -> None:
    guard = Guard(resolver=Names("127.0.0.1"))
    with pytest.raises(Forbidden, match="THECLOUD_EGRESS_ALLOW"):
        await read(guard, f"http://inside.example:{server.port}/")
    assert server.requests == []


async def test_nobody_there_is_worth_another_try() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable):
            await read(ALLOWED, f"http://127.0.0.1:{free.getsockname()[1]}/")
