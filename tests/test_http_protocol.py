"""What uvicorn writes, as it is sent."""

import asyncio
from collections.abc import Iterable
from typing import Any

from server.http_protocol import Answers


class Wire:
    """A transport that keeps what is sent, piece by piece."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def answers() -> tuple[Any, Wire]:
    wire: Any = Wire()
    return Answers(wire, asyncio.get_running_loop()), wire


async def test_a_head_is_sent_with_its_body() -> None:
    writing, wire = answers()
    for piece in (b"head ", b"body ", b"more "):
        writing.write(piece)
    assert wire.sent == [b"head body "]
    await asyncio.sleep(0)
    assert wire.sent == [b"head body ", b"more "]


async def test_a_head_alone_does_not_wait() -> None:
    writing, wire = answers()
    writing.write(b"head")
    await asyncio.sleep(0)
    assert wire.sent == [b"head"]
    await asyncio.sleep(0)
    assert wire.sent == [b"head"]


async def test_all_is_sent_before_the_end() -> None:
    writing, wire = answers()
    writing.write(b"head")
    writing.close()
    assert (wire.sent, writing.is_closing()) == ([b"head"], True)


async def test_nothing_is_sent_to_who_has_left() -> None:
    writing, wire = answers()
    writing.write(b"head")
    wire.close()
    await asyncio.sleep(0)
    assert wire.sent == []
