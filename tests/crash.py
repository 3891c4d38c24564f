"""Processes that die in the middle of a reconciler: before or after any call of a driver took effect.

@pytest.mark.parametrize("moment", MOMENTS)
async def test_it_survives(cloud: Cloud, ada: Person, moment: Moment) -> None:
    made = await ada.launch()
    await survive(cloud, "compute", moment)
    assert (await ada.instance(made["id"]))["status"] == "RUNNING"
"""

import functools
import inspect
from dataclasses import dataclass, replace
from typing import Any

from server import work
from tests.conftest import Cloud

LONGEST = 4  # driver calls that any reconciler's test makes


class Died(BaseException):
    """The process is gone. Nothing that catches Exception sees it, and no lease is given back."""


@dataclass(frozen=True)
class Moment:
    """Before or after the nth call of the driver takes effect."""

    call: int
    after: bool

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'}-call-{self.call}"


MOMENTS = [Moment(call, after) for call in range(1, LONGEST + 1) for after in (False, True)]


class Mortal:
    """A driver whose process dies at a moment. What it has done by then stays done."""

    def __init__(self, driver: Any, moment: Moment) -> None:
        self._driver, self._moment, self.calls = driver, moment, 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._driver, name)
        if not inspect.iscoroutinefunction(function):
            return function

        @functools.wraps(function)
        async def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            dies = self.calls == self._moment.call
            if dies and not self._moment.after:
                raise Died
            result = await function(*arguments, **keywords)
            if dies:
                raise Died
            return result

        return call


def dying(function: Any, time: int, *, after: bool) -> Any:
    """The function, in a process that dies before or after it takes effect for the so-many-th time."""
    calls = 0

    def begins() -> bool:
        nonlocal calls
        calls += 1
        if calls == time and not after:
            raise Died
        return calls == time

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call(*arguments: Any, **keywords: Any) -> Any:
            dies = begins()
            result = await function(*arguments, **keywords)
            if dies:
                raise Died
            return result

    else:

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            dies = begins()
            result = function(*arguments, **keywords)
            if dies:
                raise Died
            return result

    return call


def mortal(driver: Any, moment: Moment) -> Any:
    """The driver, or each of several, as Mortal."""
    if isinstance(driver, dict):
        return {name: Mortal(each, moment) for name, each in driver.items()}
    return Mortal(driver, moment)


async def die(cloud: Cloud, driver: str, moment: Moment) -> bool:
    """Work until the process dies at this moment; False when the work is done before it comes."""
    mortals: dict[str, Any] = {driver: mortal(getattr(cloud.app.drivers, driver), moment)}
    app = replace(cloud.app, drivers=replace(cloud.app.drivers, **mortals))
    try:
        await work.drain(app)
    except Died:
        return True
    return False


async def expire(cloud: Cloud) -> None:
    """Let the dead process' leases run out, and have all work due."""
    await cloud.value("update work set leased_until = now() - interval '1 second' where lease is not null")
    await cloud.value("update work set due_at = now()")


async def survive(cloud: Cloud, driver: str, moment: Moment) -> bool:
    """Die at this moment, then let another process finish. Whether it came to dying.

    Fails when the dead process' work is done by others before its lease runs out, or is not done after.
    """
    died = await die(cloud, driver, moment)
    if died:
        assert await cloud.settle() == 0, "the lease still belongs to the process that died"
        await expire(cloud)
    for _ in range(10):
        await cloud.settle()
        if not await cloud.value("select count(*) from work"):
            return died
        await expire(cloud)
    raise AssertionError(await cloud.value("select string_agg(w::text, ' ') from work w"))
