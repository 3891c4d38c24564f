"""What happens around every RPC, whether it came over gRPC or REST. This is the whole list, in order:

  1. who is calling    the API key in the metadata names somebody, and the tenant to act in
  2. rate limit        rule.rate_limit, else the general one
  3. validate          the request against its buf.validate annotations
  4. may they          the caller's role and policies on rule.permission and rule.target, else the target itself
  5. replay            the reply to an earlier call with this Idempotency-Key
  6. the method        in one transaction with 5, 7, 8 and whatever it wakes
  7. quota, budget     rule.quota
  8. audit             rule.audit; a refused or failed call is recorded too

5 to 8 are in server/transactions.py.

A method that only reads gets a connection outside a transaction, and a `live` one gets none. A dry
run (validate_only) goes through 6 and 7, and its transaction is rolled back. For a stream 1 and 4
are made sure of again every second, and it ends with the server. A stream of requests with one
response is admitted by the first request and read by prepare_…, before 5; the rest is as ever, and
where there is but one request, it is one of a unary method. Where a method that streams responses
has a prepare_…, that may give the whole answer: a Message.
The rules are method options in the protos (thecloud/v1/options.proto).
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from thecloud.v1 import options_pb2

from server import audit, auth, db, idempotency, ratelimit
from server.auth import NOBODY, AccessKey
from server.call import Call, Identity, Method, identified
from server.errors import ApiError, invalid, not_found, rate_limited
from server.failures import to_api_error
from server.log import REQUEST_ID, new_request_id
from server.metrics import CALLS
from server.resources import Resource
from server.streams import STOPPING, Nothing, watched
from server.transactions import Transactions
from server.validation import validate

if TYPE_CHECKING:
    from server.app import App

log = structlog.get_logger()
REQUEST_ID_FORM = re.compile(r"[\x21-\x7e]{1,128}")
T = TypeVar("T")
FAILED_KEYS_A_MINUTE = 300  # of one address, in one process


class Pipeline:
    """Calls methods by name."""

    def __init__(self, app: "App", services: Mapping[str, tuple[ServiceDescriptor, object]]) -> None:
        self.app = app
        self.buckets = ratelimit.Buckets()
        self.streams: Counter[object] = Counter()  # open ones, of each caller
        self.methods = {
            method.full_name: method
            for service, implementation in services.values()
            for method in (Method(each, implementation) for each in service.methods)
        }
        self.transactions = Transactions(app.db)
        self.proxies = frozenset(app.config.trusted_proxies.split(",")) - {""}

    def method(self, full_name: str) -> Method:
        """The handle to call a method by."""
        return self.methods[full_name]

    async def unary(
        self, method: Method, request: Message, metadata: Mapping[str, str], address: str,
        headers: dict[str, str], timeout: float | None = None, identity: Identity | None = None,
    ) -> Message:  # fmt: skip
        """The method's response. Raises ApiError and nothing else. `headers` gets those of the reply.

        `identity` tells who is calling, where that is known by something else than an API key in the metadata.
        """
        call = self._call(method, metadata, address, headers, identity)
        began, outcome = time.perf_counter(), "OK"
        most = method.deadline or self.app.config.deadline_seconds
        try:
            async with asyncio.timeout(most if timeout is None else min(timeout, most)):
                await self._admit(call, request)
                more = (Nothing(),) if method.takes else ()
                if method.prepare and (before := await self._prepare(call, request, *more)) is not None:
                    return before
                if method.live:
                    response: Message = await method.function(call, request)
                elif method.audit:
                    response = await self.transactions.perform(call, request)
                else:
                    async with self.app.db.reading() as call.tx:
                        response = await method.function(call, request)
                    if method.listed:
                        self._show_allowed(call, response)
                return response
        except Exception as exception:
            error = await self._failed(call, request, exception)
            outcome = error.reason
            raise error from None
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        finally:
            self._observe(call, outcome, time.perf_counter() - began)

    async def stream(
        self, method: Method, requests: AsyncIterator[Message], metadata: Mapping[str, str], address: str,
        headers: dict[str, str], identity: Identity | None = None,
    ) -> AsyncGenerator[Message]:  # fmt: skip
        """The responses of a streaming method, admitted by its first request. Raises ApiError and nothing else.

        A method that takes one request gets that; one that takes many gets the first, and an iterator of the rest.
        A method must not hold a timeout or a task group over a `yield`: who takes the responses would be in its block.
        """
        call = self._call(method, metadata, address, headers, identity)
        began, outcome, first, caller = time.perf_counter(), "OK", method.request(), None
        answered = False  # with the whole answer
        try:
            async with asyncio.timeout(self.app.config.deadline_seconds):
                first = await anext(requests, first)
                await self._admit(call, first)
                caller = self._opened(call)
                if method.prepare and method.descriptor.server_streaming:
                    call.prepared = await method.prepare(call, first)
            if isinstance(call.prepared, Message):
                answered = True
                yield call.prepared
                return
            arguments = (first, self._validated(requests)) if method.descriptor.client_streaming else (first,)
            if call.tenant and not method.tenant_field:  # which it stays in, whatever becomes of the default one
                call.metadata = {**metadata, "x-tenant-id": str(call.tenant)}
            make_sure = partial(self._make_sure, call, first)
            if method.takes:
                sent = self._in_time(self._validated(requests))
                async with aclosing(watched(sent, self.app.stopping, make_sure)) as more:
                    before = await self._prepare(call, first, more)
                async with asyncio.timeout(self.app.config.deadline_seconds):
                    answer = before or await self.transactions.perform(call, first)
                answered = True
                yield answer
            else:
                made = method.function(call, *arguments)
                async with aclosing(watched(made, self.app.stopping, make_sure)) as responses:
                    async for response in responses:
                        yield response
        except Exception as exception:
            error = await self._failed(call, first, exception)
            outcome = error.reason
            raise error from None
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "OK" if answered else "CANCELLED"
            raise
        finally:
            if caller:
                self.streams[caller] -= 1
                self.streams += Counter()  # drops those that have none left
            self._observe(call, outcome, time.perf_counter() - began)

    def _opened(self, call: Call) -> object:
        """Count a stream of this caller's, who may have so many."""
        caller, most = call.address if call.principal is NOBODY else call.principal.user_id, self.app.config.streams
        if most and self.streams[caller] >= most:
            raise ApiError("RATE_LIMITED", f"{most} streams are open already, which is the most; close one first")
        self.streams[caller] += 1
        return caller

    def _call(
        self, method: Method, metadata: Mapping[str, str], address: str, headers: dict[str, str],
        identity: Identity | None,
    ) -> Call:  # fmt: skip
        if address in self.proxies and (forwarded := metadata.get("x-forwarded-for")):
            address = forwarded.rpartition(",")[2].strip()
        request_id = metadata.get("x-request-id", "")
        if not REQUEST_ID_FORM.fullmatch(request_id):
            request_id = new_request_id()
        REQUEST_ID.set(request_id)
        return Call(method, metadata, address, request_id, identity=identity, headers=headers)

    async def _admit(self, call: Call, request: Message) -> None:
        """Steps 1 to 4."""
        method = call.method
        if not method.anyone:
            await self._identify(call)
        if method.rate_limit:
            await self._limit(call, method.rate_limit)
        elif self.app.config.rate_limit:
            who = call.address if call.principal is NOBODY else call.principal.user_id
            if seconds := self.buckets.take(who, self.app.config.rate_limit):
                raise rate_limited(seconds)
        validate(request)
        if not method.anyone:
            await self._authorize(call, request)

    async def _identify(self, call: Call) -> None:
        if call.identity:
            call.principal = await call.identity()
            return
        key, keys = auth.credential(call.metadata), self.app.keys
        if (known := keys.cached(key)) is None:
            known = await self._looked_up(keys.look_up(key), call.address)
        call.principal = known

    async def access_key(self, id: str, address: str) -> AccessKey:
        """A pair of the S3 protocol. Raises UNAUTHENTICATED, and RATE_LIMITED to who guesses."""
        if (known := self.app.keys.cached_access(id)) is None:
            known = await self._looked_up(self.app.keys.look_up_access(id), address)
        return known

    async def _looked_up(self, looking: Awaitable[T], address: str) -> T:
        bucket = f"failed/{ratelimit.address_group(address)}"
        try:
            return await looking
        except ApiError:
            if seconds := self.buckets.take(bucket, FAILED_KEYS_A_MINUTE):
                raise rate_limited(seconds) from None
            raise

    async def _authorize(self, call: Call, request: Message) -> None:
        method, principal = call.method, call.principal
        if method.tenant_field:
            named = getattr(request, method.tenant_field)
            call.tenant = UUID(named)
            if call.tenant not in principal.roles:
                raise not_found("tenant", named)
        else:
            call.tenant = principal.tenant(call.metadata.get("x-tenant-id"))
        mine, permission = call.access, method.permission
        if mine.always(permission):
            return
        call.resources = [method.resource(request, call.tenant)]
        if call.tenant and mine.names_resources(permission):
            async with self.app.db.reading() as tx:
                [meant] = call.resources
                call.resources = await identified(tx, call.tenant, meant.kind, meant.id or meant.name)
        allowed = self._allows(call, default=method.open and principal is not NOBODY)
        # A list that the caller may see some of shows more where what it lists admits them.
        call.admitted = (
            method.admits is not None and (method.lists or not allowed)
            and self._allows(call, default=True) and await method.admits(call, request)
        )  # fmt: skip
        if not allowed and not call.admitted:
            if call.tenant is None and principal is not NOBODY:
                raise invalid("X-Tenant-ID", "you have no tenant: name one, or make one with POST /tenants")
            raise self._denied(call)

    def _allows(self, call: Call, *, default: bool) -> bool:
        """Whether the caller may, by role and policies. `default`: they may what neither these nor the key's own policy
        forbid."""
        mine, method = call.access, call.method
        if method.lists or method.each:
            return mine.may_list(method.permission, method.target_kind, call.context, default=default)
        return all(mine.may(method.permission, each, call.context, default=default) for each in call.resources)

    def _denied(self, call: Call) -> ApiError:
        method = call.method
        decisions = [
            call.access.explain(method.permission, each, call.context, default=method.open) for each in call.resources
        ]
        call.decision = next((each for each in decisions if not each.allowed), None)
        what = f"{method.target_kind}:{call.resources[0].name or call.resources[0].id or '*'}"
        return ApiError(
            "PERMISSION_DENIED",
            f"this needs the permission {method.permission} on {what}; an administrator of the tenant sees why at "
            f"/iam/explain/{call.request_id}",
            permission=method.permission,
        )  # fmt: skip

    def _show_allowed(self, call: Call, response: Any) -> None:
        """Leave out of a list what the caller may not see by itself."""
        method, mine = call.method, call.access
        if mine.always(method.permission):
            return
        items = getattr(response, method.listed or "")
        for index in reversed(range(len(items))):
            item = items[index]
            name = getattr(item, "name", "") or (method.reference(item) if len(method.target_fields) > 1 else "")
            resource = Resource(method.target_kind, item.id, name, str(call.tenant))
            if not mine.may(method.permission, resource, call.context, default=method.open or call.admitted):
                del items[index]

    async def _make_sure(self, call: Call, request: Message) -> None:
        """Raise unless who opened the stream may still have it; the method sees in `call` who that is now."""
        if not call.method.anyone:
            async with asyncio.timeout(self.app.config.deadline_seconds):
                await self._identify(call)
                await self._authorize(call, request)

    async def _limit(self, call: Call, limit: options_pb2.RateLimit) -> None:
        """Take a token of the method's own bucket, which all processes share."""
        per_minute = getattr(self.app.config, f"{limit.bucket}_rate_limit", limit.per_minute)
        if not per_minute:
            return
        by_address = limit.key == options_pb2.RateLimit.KEY_ADDRESS
        who = ratelimit.address_group(call.address) if by_address else str(call.principal.user_id)
        async with self.app.db.reading() as tx:
            seconds = await ratelimit.take(tx, f"{limit.bucket or call.method.full_name}/{who}", per_minute)
        call.headers["ratelimit-limit"] = str(per_minute)
        if seconds:
            call.headers |= {"ratelimit-remaining": "0", "ratelimit-reset": str(round(seconds + 0.5))}
            raise rate_limited(seconds)

    async def _prepare(self, call: Call, request: Message, *more: AsyncIterator[Message]) -> Message | None:
        """Have the method find out what it must know. A refusal may be the doing of the call that this one repeats,
        which has the port by now: then the reply of that call."""
        assert call.method.prepare
        try:
            call.prepared = await call.method.prepare(call, request, *more)
            return None
        except ApiError:
            key = None if call.method.anyone else call.metadata.get("idempotency-key")
            if not key:
                raise
            async with self.app.db.transaction() as call.tx:
                if (before := await idempotency.replay(call, key, request)) is None:
                    raise  # and the key is free again
            call.headers["idempotency-replayed"] = "true"
            return before

    async def _failed(self, call: Call, request: Message, exception: Exception) -> ApiError:
        """What the caller is told. A refused or failed change is audited, and so is a read that was denied, unless
        anybody could fill the log with it."""
        error = to_api_error(exception, call.request_id)
        if error.rule.http >= 500 and error.message != STOPPING:
            log.error("rpc_failed", rpc=call.method.full_name, reason=error.reason,
                      exc_info=exception if error.reason == "INTERNAL" else None)  # fmt: skip
        known = call.method.anyone or call.principal is not NOBODY
        changing = call.method.audit and not getattr(request, "validate_only", False)
        noted = changing or (error.reason == "PERMISSION_DENIED" and call.method.permission)
        if noted and known and error.rule.http < 500 and error.reason != "RATE_LIMITED":
            with suppress(*db.LOST):
                async with asyncio.timeout(5), self.app.db.transaction(call.principal.email, call.request_id) as tx:
                    audit.record(tx, call, "failure", call.method.target(request), error.reason,
                                 message=error.message, **call.details(request))  # fmt: skip
        return error

    def _observe(self, call: Call, outcome: str, seconds: float) -> None:
        method = call.method
        observer = method.observers.get(outcome)
        if observer is None:
            observer = method.observers[outcome] = CALLS.labels(method.full_name, outcome)
        observer.observe(seconds)
        if method.audit:
            log.info("rpc", rpc=method.full_name, outcome=outcome, user=call.principal.email,
                     tenant=str(call.tenant or ""), address=call.address,
                     milliseconds=round(seconds * 1000, 1))  # fmt: skip

    async def _in_time(self, requests: AsyncIterator[Message]) -> AsyncGenerator[Message]:
        """The requests of a client that lets us wait for each of them only so long."""
        seconds = self.app.config.idle_seconds
        while True:
            try:
                async with asyncio.timeout(seconds):
                    request = await anext(requests, None)
            except TimeoutError:
                raise ApiError("REQUEST_TIMEOUT", f"nothing was sent for {seconds:g} s; go on where it ended") from None
            if request is None:
                return
            yield request

    async def _validated(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            validate(request)
            yield request
