"""Images that are taken of instances. One that is cut off is begun anew: the instance has gone on."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from drivers.contracts import SupportsSnapshots
from server import db, image_files
from server.image_files import Part, blocking
from server.image_formats import BadImage
from server.image_rows import Image
from server.instances import Instance, compute_of
from server.services.image_imports import LOOK_AGAIN, Ended, Interrupted, give_up, keep, still_wanted

if TYPE_CHECKING:
    from server.app import App


async def take(app: "App", row: Image) -> timedelta | None:
    """Have the image's file taken of its instance."""
    assert row.instance_id
    async with app.db.reading() as tx:
        instance = await db.find(tx, Instance, row.instance_id)
    try:
        part = await blocking(Part.open, app.config, row.id, 0)
    except image_files.Busy:
        return timedelta(seconds=2)
    try:
        if instance is None or instance.desired == "DELETED":
            raise Ended("the instance was terminated before its image was taken")
        await _take(app, row, instance, part)
    except Interrupted:
        return timedelta(0)
    except image_files.NoRoom:
        await give_up(app, row, part, "the cloud has no room left for images")
    except (Ended, BadImage) as reason:
        await give_up(app, row, part, str(reason))
    finally:
        part.close()
    return None


async def _take(app: "App", row: Image, instance: Instance, part: Part) -> None:
    compute, clock = compute_of(app, instance), asyncio.get_running_loop().time
    assert isinstance(compute, SupportsSnapshots)
    await still_wanted(app, row, part, 0)
    looked = clock()
    try:
        async for piece in compute.snapshot(instance.id):
            await blocking(part.append, piece)
            if clock() - looked > LOOK_AGAIN:
                looked = clock()
                await still_wanted(app, row, part, part.size)
    except LookupError:
        raise Ended("the instance is not there; start it first") from None
    await keep(app, row, part)
