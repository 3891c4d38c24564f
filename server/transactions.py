"""Steps 5 to 8 of a call (server/pipeline.py), in one transaction: replay, the method, quotas and budget, audit.

A method with a together_… does several calls of a tenant in one transaction: those that came while the one before was
under way. Where that fails, each gets one of its own.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import asyncpg
import structlog
from google.protobuf.message import Message

from server import audit, budgets, idempotency, quota, rating
from server.call import Call
from server.db import Database
from server.errors import ApiError
from server.groups import Groups

log = structlog.get_logger()
T = TypeVar("T")
Sent = tuple[Call, Message]
TRIES = 3  # of a transaction that the database ended because of another one
UNDONE = (ApiError, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)  # after these nothing is committed


class Transactions:
    """Performs calls that have been admitted, and whatever their methods prepare is prepared."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._groups = Groups(self._commit_together)

    async def perform(self, call: Call, request: Message) -> Message:
        """The method's response. A transaction that loses a deadlock is begun again."""
        act = self._rehearse if getattr(request, "validate_only", False) else self._mutate
        try:
            if call.method.together and act == self._mutate and "idempotency-key" not in call.metadata:
                response = await self._groups.join((call.method, call.tenant), (call, request))
            else:
                response = await self._commit(call, partial(act, call, request))
        except ApiError:  # after which nothing is committed for sure
            await self._undo(call)
            raise
        if "idempotency-replayed" in call.headers:
            await self._undo(call)
        return response

    async def _undo(self, call: Call) -> None:
        """Take back what was prepared in vain. Where that fails, it is the sweepers' to find."""
        if call.undo:
            try:
                await call.undo()
            except Exception as exception:
                log.warning("undo_failed", rpc=call.method.full_name, error=repr(exception))

    async def _commit(self, call: Call, act: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                async with self._db.transaction(call.principal.email, call.request_id) as call.tx:
                    return await act()
            except _RolledBack as ended:
                return ended.response  # type: ignore[return-value]
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                if attempt == TRIES:
                    raise ApiError("UNAVAILABLE", "too many changes at once; try again") from None
        raise AssertionError("unreachable")

    async def _commit_together(self, group: Sequence[Sent]) -> Sequence[Message | Exception]:
        """The response to each of these calls of one method and tenant, or what is wrong with it."""
        (first, _), *others = group
        try:
            return await self._commit(first, partial(self._mutate_together, group))
        except Exception as error:
            if not others or not isinstance(error, UNDONE):
                return [error for _ in group]
        return [each for one in group for each in await self._commit_together([one])]

    async def _mutate_together(self, group: Sequence[Sent]) -> Sequence[Message]:
        calls, requests = zip(*group, strict=True)
        first, *others = calls
        for call in others:
            call.tx = first.tx.part(call.principal.email, call.request_id)
        async with self._within_quotas(first):
            responses = await first.method.together(calls, requests)
        for call, request, response in zip(calls, requests, responses, strict=True):
            self._record(call, request, response)
        return responses  # type: ignore[no-any-return]

    async def _rehearse(self, call: Call, request: Message) -> Message:
        """The response there would be, without its secrets, and what it would cost."""
        response: Any = await self._act(call, request)
        response.estimated_price_per_hour = float(await rating.estimate(call.tx, call.tx.changes))
        for each in response.DESCRIPTOR.fields:
            if each.GetOptions().debug_redact:
                response.ClearField(each.name)
        raise _RolledBack(response)

    @asynccontextmanager
    async def _within_quotas(self, call: Call) -> AsyncIterator[None]:
        """Raise QUOTA_EXCEEDED when more is taken in the block than the tenant may have, BUDGET_EXCEEDED before it."""
        names = call.method.quota
        if not names:
            yield
            return
        used, denies = await quota.usage(call.tx, call.tenant_id, names, budgets.DENIES)
        if denies:
            await budgets.within_budget(call.tx, call.tenant_id)
        yield
        await quota.enforce(call.tx, call.tenant_id, used)

    async def _act(self, call: Call, request: Message) -> Message:
        async with self._within_quotas(call):
            response: Message = await call.method.function(call, request)
        return response

    def _record(self, call: Call, request: Message, response: Message) -> None:
        audit.record(call.tx, call, "success", call.method.target(request, response), **call.details(request))

    async def _mutate(self, call: Call, request: Message) -> Message:
        method = call.method
        key = None if method.anyone else call.metadata.get("idempotency-key")
        if key and (before := await idempotency.replay(call, key, request)) is not None:
            call.headers["idempotency-replayed"] = "true"
            return before
        response = await self._act(call, request)
        self._record(call, request, response)
        if key:
            await idempotency.keep(call, key, response)
        return response


class _RolledBack(Exception):
    """Ends the transaction of a dry run, with its response."""

    def __init__(self, response: Message) -> None:
        self.response = response
