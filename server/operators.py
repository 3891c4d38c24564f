"""What operators do to the database of a cloud, whether it runs or not. Each answers with what to print, and is in
the audit log."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation

from server import app, audit, process, quota, rating
from server.config import BadConfig
from server.db import Database, Tx
from server.errors import ApiError
from server.services import tenants

Act = Callable[[Tx], Awaitable[str]]


def perform(url: str, act: Act) -> str:
    """Do it in one transaction. Raises BadConfig for whatever the operator can mend."""

    async def run() -> str:
        app.load_services()
        await process.read_cloud(url)
        async with Database(url, 1) as database, database.transaction("operator") as tx:
            return await act(tx)

    try:
        return asyncio.run(run())
    except ApiError as error:
        raise BadConfig(error.message) from None


def set_quota(tenant: str, name: str, limit: int) -> Act:
    async def act(tx: Tx) -> str:
        found = await tenants.named(tx, tenant)
        await quota.set_limit(tx, found.id, name, limit)
        audit.note(tx, "QUOTA_SET", ("quota", name), found.id, limit=limit)
        [now] = await quota.standings(tx, found.id, [name])
        return f"{found.slug} may have {limit} {name}, and has {now.used}"

    return act


def list_quotas(tenant: str) -> Act:
    async def act(tx: Tx) -> str:
        found = await quota.standings(tx, (await tenants.named(tx, tenant)).id, sorted(quota.QUOTAS))
        return "\n".join(f"{each.name:20} {each.used:>10} of {each.limit}" for each in found)

    return act


def set_price(kind: str, type: str, price: str, since: str | None) -> Act:
    async def act(tx: Tx) -> str:
        moment = await rating.set_price(tx, kind, type, dollars(price), instant(since) if since else None)
        audit.note(tx, "PRICE_SET", ("price", f"{kind} {type}"), price=price, effective_from=moment.isoformat())
        return f"{kind} {type} costs {price} US dollars an hour from {moment.isoformat()} on"

    return act


def list_prices() -> Act:
    async def act(tx: Tx) -> str:
        return "\n".join(
            f"{each['kind']:12} {each['type']:16} {each['price_per_hour']:>12f}  from {each['effective_from']:%FT%TZ}"
            for each in await rating.prices(tx)
        )

    return act


def dollars(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise BadConfig(f"a price is a number of US dollars such as 0.025; {text!r} is none") from None


def instant(text: str) -> datetime:
    """A moment in RFC 3339."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadConfig(f"--from wants a moment with its zone, such as 2027-01-01T00:00:00Z; {text!r} is none")
    return moment
