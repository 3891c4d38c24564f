"""Bring the database's schema up to date.

Migrations go forward only: files NNNN_<what>.py, whose number is the revision.
"""

from pathlib import Path
from typing import Any

import asyncpg

from server import db
from server.config import BadConfig

FOLDER = Path(__file__).parent / "migrations"
LOCK = 7_263_418_114_220  # of pg_advisory_lock, so that processes that start together take turns


class NewerDatabase(Exception):
    """The database was migrated by a later version of this program."""


def head() -> str:
    """The latest revision there is."""
    return max(file.name[:4] for file in (FOLDER / "versions").glob("[0-9]*.py"))


async def first_connection(url: str) -> Any:
    """A connection at a start, when the user can mend the URL. Raises BadConfig."""
    try:
        return await db.connect(url)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BadConfig(f"the database does not answer: {error}; start it, or correct --database-url") from None


async def current(url: str) -> str | None:
    """The revision the database has; None when it has none."""
    connection = await first_connection(url)
    try:
        return await connection.fetchval("select version_num from alembic_version")  # type: ignore[no-any-return]
    except asyncpg.UndefinedTableError:
        return None
    finally:
        await connection.close()


async def upgrade(url: str, to: str = "") -> str | None:
    """Run what is missing up to a revision, the latest if none is named, all or nothing; the revision reached, or
    None when nothing was missing."""
    has, wanted = await current(url), to or head()
    if has == wanted:
        return None
    if has is not None and has > wanted:
        raise NewerDatabase(f"the database is at revision {has}, and this version knows none after {wanted}: "
                            "start the version that migrated it, or a later one")  # fmt: skip
    from alembic import command, config
    from sqlalchemy import make_url, text
    from sqlalchemy.ext.asyncio import create_async_engine

    settings = config.Config()
    settings.set_main_option("script_location", str(FOLDER))
    settings.set_main_option("path_separator", "os")

    def run(connection: Any) -> None:
        connection.execute(text(f"select pg_advisory_xact_lock({LOCK})"))
        settings.attributes["connection"] = connection
        command.upgrade(settings, wanted)

    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()
    return wanted
