"""Steps 5 to 8 of a call (server/pipeline.py), in one transaction: replay, the method, quotas and budget, audit.

A method with a together_… does several calls of a tenant in one transaction: those that came while the one before was
under way. Where that fails, each gets one of its own.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import sqlalchemy as sa
import structlog
from google.protobuf.message import Message
from sqlalchemy.dialects import postgresql

from server import audit, budgets, db, idempotency, quota, rating
from server.call import Call, Method
from server.db import Database, Tx
from server.errors import ApiError
from server.groups import Groups

log = structlog.get_logger()
T = TypeVar("T")
Sent = tuple[Call, Message]
TURN = sa.func.pg_advisory_xact_lock(
    sa.func.hashtextextended(sa.func.concat("together/", sa.bindparam("tenant_id", type_=postgresql.UUID)), 0)
)
"""Taken by those who do the calls of a tenant together: so each group has all who wait for the one before, in whichever
process that is."""
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
                response = await self._groups.join((call.method, call.tenant_id), (call, request))
            else:
                response = await self._commit(partial(act, call, request), call.principal.email, call.request_id)
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

    async def _commit(self, act: Callable[[Tx], Awaitable[T]], actor: str, request_id: str) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                async with self._db.transaction(actor, request_id) as tx:
                    return await act(tx)
            except _RolledBack as ended:
                return ended.response  # type: ignore[return-value]
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                if attempt == TRIES:
                    raise ApiError("UNAVAILABLE", "too many changes at once; try again") from None
        raise AssertionError("unreachable")

    async def _commit_together(
        self, of: tuple[Method, UUID], members: Callable[[], Sequence[Sent]]
    ) -> Sequence[Message | Exception]:
        """The response to each of these calls of one method and tenant, or what is wrong with it."""
        try:
            return await self._commit(partial(self._mutate_together, *of, members), "", "")
        except Exception as error:
            group = members()
            if len(group) < 2 or not isinstance(error, UNDONE):
                return [error for _ in group]
        return [response for each in group for response in await self._commit_together(of, partial(list, [each]))]

    async def _mutate_together(
        self, method: Method, tenant_id: UUID, members: Callable[[], Sequence[Sent]], tx: Tx
    ) -> Sequence[Message]:
        assert method.together
        await self._count(tx, method, tenant_id, TURN)  # others join while the turn is waited for
        group = members()
        for call, _ in group:
            call.tx = tx.part(call.principal.email, call.request_id)
        calls, requests = [call for call, _ in group], [request for _, request in group]
        responses = await method.together(calls, requests) if group else ()
        for call, request, response in zip(calls, requests, responses, strict=True):
            self._record(call, request, response)
        return responses

    async def _rehearse(self, call: Call, request: Message, tx: Tx) -> Message:
        """The response there would be, without its secrets, and what it would cost."""
        call.tx = tx
        response: Any = await self._act(call, request)
        await db.ask(tx)
        response.estimated_price_per_hour = float(await rating.estimate(call.tx, call.tx.changes))
        for each in response.DESCRIPTOR.fields:
            if each.GetOptions().debug_redact:
                response.ClearField(each.name)
        raise _RolledBack(response)

    async def _act(self, call: Call, request: Message) -> Message:
        if call.method.quota:
            await self._count(call.tx, call.method, call.tenant_id)
        return await call.method.function(call, request)  # type: ignore[no-any-return]

    async def _count(self, tx: Tx, method: Method, tenant_id: UUID, *more: sa.ColumnElement[Any]) -> None:
        """Have QUOTA_EXCEEDED raised at the end, should the tenant take more than it may have. Raises
        BUDGET_EXCEEDED."""
        used, (denies, *_) = await quota.usage(tx, tenant_id, method.quota, budgets.DENIES, *more)
        if denies:
            await budgets.within_budget(tx, tenant_id)
        quota.enforce(tx, tenant_id, used)

    def _record(self, call: Call, request: Message, response: Message) -> None:
        audit.record(call.tx, call, "success", call.method.target(request, response), **call.details(request))

    async def _mutate(self, call: Call, request: Message, tx: Tx) -> Message:
        method, call.tx = call.method, tx
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
