"""What is asked for while the same is being done for others, and then done for all who wait at once.

Group commit, as databases do it for the disk (DeWitt et al., "Implementation techniques for main memory database
systems", SIGMOD 1984, section 4): whoever comes first is served at once and alone; the busier it gets, the larger the
groups, and the less each one costs.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")
MOST = 64  # of one group


class Groups(Generic[K, T, R]):
    """Groups of what has the same key; at any moment one of each key is being served.

    `serve` is given the key, and what tells who is in the group: all who wait when it is first called. It gives a
    result for each of them, in their order; one that is an exception is raised to who asked. What it raises is raised
    to all.
    """

    def __init__(self, serve: Callable[[K, Callable[[], Sequence[T]]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._serve = serve
        self._waiting: dict[K, deque[tuple[T, asyncio.Future[R]]]] = {}
        self._tasks = set[asyncio.Task[None]]()

    async def join(self, key: K, item: T) -> R:
        """The result of what begins to be served after this. Who is cancelled may be served all the same."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if key in self._waiting:
            self._waiting[key].append((item, done))
        else:
            self._waiting[key] = deque([(item, done)])
            task = asyncio.create_task(self._run(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await done

    async def _run(self, key: K) -> None:
        waiting, group = self._waiting[key], list[tuple[T, asyncio.Future[R]]]()
        try:
            while _somebody(waiting):
                group = []
                members = partial(_members, group, waiting)
                try:
                    results = await self._serve(key, members)
                except Exception as error:
                    results = [error for _ in members()]
                _tell(group, results)
        finally:
            del self._waiting[key]
            for _, done in (*group, *waiting):  # the server ends, and nobody is left waiting
                done.cancel()


def _somebody(waiting: deque[tuple[T, asyncio.Future[R]]]) -> bool:
    """Whether anybody still waits. Who has left is forgotten."""
    while waiting and waiting[0][1].done():
        waiting.popleft()
    return bool(waiting)


def _members(
    group: list[tuple[T, asyncio.Future[R]]], waiting: deque[tuple[T, asyncio.Future[R]]]
) -> Sequence[T]:  # fmt: skip
    """What they ask for who are in the group; at first, all who wait. Nothing if they have all left meanwhile."""
    while not group and waiting:
        some = [waiting.popleft() for _ in range(min(MOST, len(waiting)))]
        group += [each for each in some if not each[1].done()]
    return [item for item, _ in group]


def _tell(group: Sequence[tuple[T, asyncio.Future[R]]], results: Sequence[R | Exception]) -> None:
    for (_, done), result in zip(group, results, strict=True):
        if done.done():
            continue
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)
