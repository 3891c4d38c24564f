"""Real packets from and to network namespaces: a box answers, and tells what it reaches."""

import os
import selectors
import socket
import struct
import threading
from contextlib import suppress

from drivers import linux_kernel as kernel

PATIENCE = 0.4  # seconds after which a packet counts as lost: on one machine a reply takes a few milliseconds


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def arp_reply(mac: str, claimed: str, to: str, asker: str) -> bytes:
    """A frame that says the claimed address is at this MAC."""
    own, other = (bytes.fromhex(one.replace(":", "")) for one in (mac, to))
    head = other + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 2)
    return head + own + socket.inet_aton(claimed) + other + socket.inet_aton(asker)


def datagram(source: int, target: int, data: bytes) -> bytes:
    """A UDP datagram without a checksum."""
    return struct.pack("!4H", source, target, 8 + len(data), 0) + data


def fragment(source: str, target: str, number: int, offset: int, data: bytes, more: bool) -> bytes:
    """A part of a UDP packet, as IP carries it. The kernel fills in length and checksum."""
    flags = (0x2000 if more else 0) | offset // 8
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), number, flags, 64, socket.IPPROTO_UDP, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(target) + data


def addresses(reply: bytes, at: int) -> set[str]:
    """What a reply from a name server tells, whose answers begin there: each a name and an address."""
    _, flags, _, answers, _, _ = struct.unpack_from("!6H", reply)
    nxdomain = 3
    assert flags & 0xF == (0 if answers else nxdomain)
    found = set()
    for _ in range(answers):
        at = at + 2 if reply[at] >= 0xC0 else reply.index(b"\0", at) + 1
        found.add(socket.inet_ntoa(reply[at + 10 : at + 14]))
        at += 14
    return found


class Box:
    """One namespace. What listens in it answers with the address it saw the caller at."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._selector = selectors.DefaultSelector()
        self._stop, stopped = socket.socketpair()
        self._selector.register(stopped, selectors.EVENT_READ)
        self._sockets = [self._stop, stopped]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.send(b".")
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()
        self._stop.close()

    def listen(self, *ports: int) -> "Box":
        """Answer at these ports, TCP and UDP."""
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                one = self.opened(kind)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("", port))
                if kind == socket.SOCK_STREAM:
                    one.listen()
                self._selector.register(one, selectors.EVENT_READ, kind)
        return self

    def opened(self, kind: int, protocol: int = 0) -> socket.socket:
        with kernel.entered(self.path):
            made = socket.socket(socket.AF_INET, kind, protocol)
        made.settimeout(PATIENCE)
        return made

    def tcp(self, address: str, port: int) -> str | None:
        """The address that the other end saw; None when nothing came back."""
        try:
            with self.connect(address, port) as one:
                return self.say(one)
        except OSError:
            return None

    def connect(self, address: str, port: int) -> socket.socket:
        one = self.opened(socket.SOCK_STREAM)
        try:
            one.connect((address, port))
        except OSError:
            one.close()
            raise
        return one

    @staticmethod
    def say(one: socket.socket) -> str | None:
        """The other end's answer to one more word."""
        try:
            one.send(b"?")
            return one.recv(100).decode() or None
        except OSError:
            return None

    def udp(self, address: str, port: int) -> str | None:
        with self.opened(socket.SOCK_DGRAM) as one, suppress(OSError):
            one.connect((address, port))
            return self.say(one)
        return None

    def resolve(self, server: str, name: str, kind: int = socket.SOCK_DGRAM) -> set[str] | None:
        """The IPv4 addresses of a name, none if it does not exist; None when no answer came."""
        labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
        question = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
        head = struct.pack("!H", len(question)) if kind == socket.SOCK_STREAM else b""
        with self.opened(kind) as one, suppress(OSError):
            one.connect((server, 53))
            one.send(head + question)
            length = struct.unpack("!H", one.recv(2, socket.MSG_WAITALL))[0] if head else 2000
            return addresses(one.recv(length, socket.MSG_WAITALL if head else 0), len(question))
        return None

    def ping(self, address: str, source: str | None = None) -> bool:
        """Whether an echo comes back."""
        with self.opened(socket.SOCK_RAW, socket.IPPROTO_ICMP) as one, suppress(OSError):
            if source:
                one.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
                one.bind((source, 0))
            name = int.from_bytes(os.urandom(2), "big")
            head = struct.pack("!BBHHH", 8, 0, 0, name, 1)
            one.sendto(struct.pack("!BBHHH", 8, 0, checksum(head), name, 1), (address, 0))
            for _ in range(20):
                reply = one.recv(2000)[20:]
                if reply[0] == 0 and struct.unpack_from("!H", reply, 4)[0] == name:
                    return True
        return False

    def frame(self, name: str, data: bytes) -> None:
        """Send a frame as it is."""
        with kernel.entered(self.path), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((name, 0))
            wire.send(data)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if key.data is None:
                    return
                with suppress(OSError):
                    self._answer(one, key.data)

    def _answer(self, one: socket.socket, kind: object) -> None:
        if kind == socket.SOCK_DGRAM:
            _, caller = one.recvfrom(100)
            one.sendto(caller[0].encode(), caller)
        elif kind == socket.SOCK_STREAM:
            accepted, caller = one.accept()
            self._selector.register(accepted, selectors.EVENT_READ, caller[0])
        elif one.recv(65536):
            one.send(str(kind).encode())
        else:
            self._selector.unregister(one)
            one.close()
