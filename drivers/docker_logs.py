"""What a container wrote, taken piece by piece, each of them once.

The engine answers with pieces in the order they were written: their stream, their time to the
nanosecond, and a line, or up to 16 KiB of one. All pieces of a line have the time of its first;
another line may have it too. The two streams take their times before they queue for the file,
so the time of one may run a little ahead of the other's; that of one stream never goes back.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Self

from drivers.contracts import LogBatch, LogLine

PIECE = 16 * 1024  # bytes of a line that the engine hands out at a time
HEAD = 40  # bytes that the engine adds to a piece, and that count too: else empty lines would be free
TAILS = (8, 512)  # pieces to look for the last position in before the whole log is gone through
TAIL_BYTES = 2**20
AHEAD = timedelta(milliseconds=10)  # how far one stream's time may run ahead of the other's
STREAMS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True)
class Piece:
    """A line, or a part of one. Only the last part of a line ends it."""

    stream: Literal["stdout", "stderr"]
    at: str  # as the engine writes it; such texts sort as their times do
    text: bytes


@dataclass(frozen=True)
class Position:
    """Behind the nth piece of this stream and time. Of the lines in `unended` the beginning was taken."""

    stream: str
    at: str
    nth: int
    unended: dict[str, str] = field(default_factory=dict)  # stream: time

    @classmethod
    def read(cls, text: str) -> Self | None:
        return cls(**json.loads(text)) if text else None

    def __str__(self) -> str:
        return json.dumps(vars(self))


def frames(received: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the whole frames off the front. Each is of one stream: its number, three zeros, length, text."""
    start = 0
    while (begin := start + 8) <= len(received):
        end = begin + int.from_bytes(received[start + 4 : begin], "big")
        if end > len(received):
            break
        yield received[start], bytes(received[begin:end])
        start = end
    del received[:start]


def pieces(received: bytearray) -> Iterator[Piece]:
    """Take the whole pieces off the front. What the engine itself has to say, as of a broken file, is none."""
    for number, data in frames(received):
        at, space, text = data.partition(b" ")
        if number in STREAMS and space:
            yield Piece(STREAMS[number], at.decode(), text)


def moment(at: str) -> datetime:
    return datetime.fromisoformat(at[:26] + "+00:00")


def since(position: Position | None) -> dict[str, str]:
    """The parameter that has the engine leave out what is certainly before the position."""
    return {} if position is None else {"since": f"{(moment(position.at) - AHEAD).timestamp():.6f}"}


class Taking:
    """Is shown pieces in order, and keeps those after a position, until they are enough."""

    def __init__(self, position: Position | None, most_bytes: int) -> None:
        self.position, self.found, self.more = position, position is None, False
        self._passed = self.found  # whether all that is shown from now on is after the position
        self._latest_start = moment(position.at) + AHEAD if position else None
        self._unended = dict(position.unended) if position else {}
        self._most, self._bytes = most_bytes, 0
        self._lines: list[LogLine] = []
        self._counts: dict[str, tuple[str, int]] = {}  # by stream: its latest time, and how many pieces had it so far
        self._waiting: list[tuple[Piece, int]] = []  # shown before it was clear whether the position has passed

    def show(self, piece: Piece) -> None:
        at, count = self._counts.get(piece.stream, ("", 0))
        nth = count + 1 if at == piece.at else 1
        self._counts[piece.stream] = piece.at, nth
        if self._passed:
            self._take(piece, nth)
            return
        assert self.position
        assert self._latest_start
        if (piece.stream, piece.at, nth) == (self.position.stream, self.position.at, self.position.nth):
            self.found = self._passed = True
            self._waiting.clear()
            return
        self._waiting.append((piece, nth))
        own = piece.stream == self.position.stream and piece.at > self.position.at
        if own or moment(piece.at) > self._latest_start:
            self.end()

    def end(self) -> None:
        """The position will not be shown: the engine has thrown it away, with all before it."""
        if self._passed:
            return
        assert self.position
        taken = (self.position.stream, self.position.at)
        self._passed = True
        for piece, nth in self._waiting:
            if (piece.stream, piece.at) != taken:
                self._take(piece, nth)
        self._waiting.clear()

    def _take(self, piece: Piece, nth: int) -> None:
        size = len(piece.text) + HEAD
        if self.more or (self._bytes and self._bytes + size > self._most):
            self.more = True
            return
        self._bytes += size
        ended = piece.text.endswith(b"\n")
        if self._unended.get(piece.stream) != piece.at:
            self._unended.pop(piece.stream, None)
            cut = not ended and len(piece.text) >= PIECE  # a shorter one is all that there was before the end
            text = piece.text.removesuffix(b"\n")
            self._lines.append(LogLine(at=moment(piece.at), stream=piece.stream, text=text, cut=cut))
            if cut:
                self._unended[piece.stream] = piece.at
        elif ended:
            del self._unended[piece.stream]
        self.position = Position(piece.stream, piece.at, nth, dict(self._unended))

    def batch(self) -> LogBatch:
        return LogBatch(tuple(self._lines), str(self.position or ""), self.more)


def within(tail: Sequence[Piece], position: Position, most_bytes: int, *, whole: bool) -> LogBatch | None:
    """What comes after the position, if these last pieces show for sure where that is. `whole`: there are no others."""
    if not whole and not reaches(tail[0], position):
        return None
    taking = Taking(position, most_bytes)
    for piece in tail:
        taking.show(piece)
    if whole:
        taking.end()
    return taking.batch() if taking.found or whole else None


def reaches(first: Piece, position: Position) -> bool:
    """Whether what starts with this piece has all pieces of the position's stream and time."""
    if first.stream == position.stream:
        return first.at < position.at
    return moment(first.at) + AHEAD < moment(position.at)
