from decimal import Decimal
from typing import Any

import sqlalchemy as sa


async def estimate(tx: Any, changes: Any) -> Decimal:
    return Decimal(0)


def read_through(tenant_id: Any) -> Any:
    return sa.literal(2**62)
