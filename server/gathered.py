"""Look-ups of one kind that come at once, answered together: to run a statement costs more than what it finds.

A look-up only ever joins a statement that has not begun, so it sees all that was committed before it was asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

MOST = 100  # look-ups of one statement

K = TypeVar("K")
V = TypeVar("V")


class Gathered(Generic[K, V]):
    """Looks up keys: those that are asked for while a statement runs, together in the next one."""

    def __init__(self, look_up: Callable[[Sequence[K]], Awaitable[Sequence[V]]], seconds: float) -> None:
        """`look_up` finds something for each of the keys, in their order, within so many seconds."""
        self._look_up, self._seconds = look_up, seconds
        self._turn = asyncio.Lock()
        self._keys: list[K] = []  # of the next statement
        self._next: asyncio.Future[Sequence[V]] | None = None

    async def get(self, key: K) -> V:
        """What is found for the key. Raises what `look_up` does, as all do that it looked up together."""
        if self._next is None or len(self._keys) == MOST:
            self._keys = []
            self._next = asyncio.ensure_future(self._run(self._keys))
        place, running = len(self._keys), self._next
        self._keys.append(key)
        return (await asyncio.shield(running))[place]

    async def _run(self, keys: list[K]) -> Sequence[V]:
        async with self._turn, asyncio.timeout(self._seconds):
            if keys is self._keys:
                self._next = None
            return await self._look_up(keys)
