"""The only way out to an address that a user gave.

Such a URL must not lead to what only this machine, or the cloud, can reach. Whatever name it has, the check is of the
address that a connection is about to be made to, at that moment: a name that means another address the next time it
is asked for gains nothing. Redirects are followed by us, each by the same rules.
"""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from server.config import BadConfig, Config

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
MOST_REDIRECTS = 5
CONNECT_SECONDS = 10.0  # to make one connection
READ_SECONDS = 30.0  # between two pieces of a response
TRANSLATED = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
REDIRECTS = (301, 302, 303, 307, 308)


class Forbidden(Exception):
    """The URL leads where users' URLs may not, or is none. The text says why."""


class Unreachable(Exception):
    """The server did not answer as it should; later it may."""


class _Inside(OSError):
    """An address that nobody connects to. To the client library, one that cannot be connected to."""


@dataclass(frozen=True)
class Guard:
    """Which addresses may be connected to."""

    allowed: tuple[Network, ...] = ()  # although they are inside
    denied: tuple[Network, ...] = ()  # although they are outside
    resolver: AbstractResolver | None = None  # None: the system's

    @staticmethod
    def of(config: Config) -> "Guard":
        """As configured. Raises BadConfig."""
        try:
            allowed = tuple(ip_network(each.strip()) for each in config.egress_allow.split(",") if each.strip())
        except ValueError as error:
            raise BadConfig(f"THECLOUD_EGRESS_ALLOW wants networks such as 10.0.0.0/8, separated by commas: {error}"
                            ) from None  # fmt: skip
        return Guard(allowed, (IPv4Network(config.external_network),))

    def permits(self, address: Address, port: int) -> bool:
        """Whether a connection may be made."""
        meant = embedded(address)
        if any(meant in network or address in network for network in self.allowed):
            return True
        if any(meant in network for network in self.denied):
            return False
        outside = meant.is_global and not (meant.is_multicast or meant.is_reserved or meant.is_unspecified)
        if isinstance(meant, IPv6Address):
            outside = outside and not meant.is_site_local and meant.teredo is None
        return outside and (port in (80, 443) or port >= 1024)

    def socket(self, info: Any) -> socket.socket:
        """The socket for a connection to this address, which is asked for right before it is made."""
        family, kind, protocol, _, there = info
        if not self.permits(ip_address(there[0].partition("%")[0]), there[1]):
            raise _Inside(f"{there[0]} port {there[1]}")
        return socket.socket(family, kind, protocol)


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv6Address):
        if address in TRANSLATED:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def check(text: str) -> URL:
    """The URL, if it is one that can be fetched at all. Raises Forbidden."""
    try:
        url = URL(text)
        host, port = url.host, url.port
    except (ValueError, TypeError):
        raise Forbidden("this is no URL") from None
    if url.scheme not in ("http", "https") or not host or not port:
        raise Forbidden("a URL of http or https is wanted, with a host")
    if url.user is not None or url.password is not None:
        raise Forbidden("a URL with a user and a password is not fetched; give one without")
    return url


@asynccontextmanager
async def opened(guard: Guard, text: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response at the end of the redirects, its body still to be read. Raises Forbidden and Unreachable.

    Its body is as the server sent it, whatever its Content-Encoding. Reading raises aiohttp.ClientError and
    TimeoutError. How much is read, and for how long, is for the caller to bound.
    """
    connector = aiohttp.TCPConnector(resolver=guard.resolver, use_dns_cache=False, socket_factory=guard.socket,
                                     force_close=True)  # fmt: skip
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS * 2, sock_connect=CONNECT_SECONDS,
                                    sock_read=READ_SECONDS)  # fmt: skip
    url = check(text)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
        trust_env=False, headers={"Accept-Encoding": "identity", "User-Agent": "thecloud", **headers},
    ) as session:  # fmt: skip
        for _ in range(MOST_REDIRECTS + 1):
            response = await _get(session, url)
            try:
                if response.status not in REDIRECTS:
                    yield response
                    return
                url = _next(url, response)
            finally:
                response.close()
        raise Forbidden(f"it redirects more than {MOST_REDIRECTS} times")


def _next(url: URL, response: aiohttp.ClientResponse) -> URL:
    try:
        target = url.join(URL(response.headers["Location"]))
    except (KeyError, ValueError):
        raise Forbidden("it redirects to what is no URL") from None
    return check(str(target))


async def _get(session: aiohttp.ClientSession, url: URL) -> aiohttp.ClientResponse:
    try:
        return await session.get(url, allow_redirects=False)
    except aiohttp.ClientConnectorError as error:
        if inside := _refusal(error.os_error):
            raise Forbidden(f"{url.host} leads to {inside}, which is not fetched from; an operator can allow it with "
                            "THECLOUD_EGRESS_ALLOW") from None  # fmt: skip
        raise Unreachable(f"{url.host} cannot be reached: {error.os_error}") from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, UnicodeError):
        raise Forbidden("this is no URL") from None
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"{url.host} does not answer: {error or type(error).__name__}") from None


def _refusal(error: BaseException | None) -> str | None:
    """What `Guard.socket` refused, if that is why no connection was made."""
    while error is not None:
        if isinstance(error, _Inside):
            return str(error)
        if isinstance(error, BaseExceptionGroup):
            return next((text for each in error.exceptions if (text := _refusal(each))), None)
        error = error.__cause__ or error.__context__
    return None
