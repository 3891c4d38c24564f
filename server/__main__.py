"""The `thecloud` command."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from server import config as configuration
from server import log
from server.config import BadConfig, Config

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we fork only to run programs, and gRPC logs each time

cli = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="A cloud on your own machines. `thecloud up` starts it; `thecloud doctor` says what is missing.\n\n"
         "Every flag is also an environment variable: `--http` is `THECLOUD_HTTP`.",
)  # fmt: skip
images = typer.Typer(no_args_is_help=True, help="Small container images made of Debian's packages.")
cli.add_typer(images, name="images")
audit = typer.Typer(no_args_is_help=True, help="The audit log, which is a chain of hashes for each tenant.")
cli.add_typer(audit, name="audit")
quotas = typer.Typer(no_args_is_help=True, help="How much of everything a tenant may have. TENANT is an id or a slug.")
cli.add_typer(quotas, name="quota")
prices = typer.Typer(no_args_is_help=True, help="The price book: what an hour of each type costs, in US dollars.")
cli.add_typer(prices, name="price")

Data = Annotated[Path | None, typer.Option("--data", envvar="THECLOUD_DATA", help="Folder of the embedded database, "
                                           "keys and mail that could not be sent. Default: .thecloud")]  # fmt: skip
Http = Annotated[str | None, typer.Option("--http", envvar="THECLOUD_HTTP", help="Address of REST. Port 0 picks one. "
                                          "Default: 127.0.0.1:8080")]  # fmt: skip
Grpc = Annotated[str | None, typer.Option("--grpc", envvar="THECLOUD_GRPC", help="Address of gRPC. Port 0 picks one. "
                                          "Default: 127.0.0.1:50051")]  # fmt: skip
S3 = Annotated[str | None, typer.Option("--s3", envvar="THECLOUD_S3", help="Address of the S3 protocol. Port 0 picks "
                                        "one, '' is none. Default: 127.0.0.1:9000")]  # fmt: skip
Workers = Annotated[int | None, typer.Option("--workers", envvar="THECLOUD_WORKERS", min=1, max=64,
                                             help="Server processes. Default: 1")]  # fmt: skip
Host = Annotated[str | None, typer.Option("--host", envvar="THECLOUD_HOST", help="This machine's name among those "
                                          "that run instances. Default: local")]  # fmt: skip
DatabaseUrl = Annotated[str | None, typer.Option("--database-url", envvar="THECLOUD_DATABASE_URL",
                                                 help="PostgreSQL. Default: an embedded server")]  # fmt: skip
TlsCert = Annotated[str | None, typer.Option("--tls-cert", envvar="THECLOUD_TLS_CERT", help="PEM file with the "
                                             "certificate, for REST, gRPC and S3")]  # fmt: skip
TlsKey = Annotated[str | None, typer.Option("--tls-key", envvar="THECLOUD_TLS_KEY", help="PEM file with its key")]
Insecure = Annotated[bool | None, typer.Option("--insecure", envvar="THECLOUD_INSECURE", help="Listen beyond "
                                               "loopback without TLS")]  # fmt: skip


@cli.command()
def up(
    data: Data = None, http: Http = None, grpc: Grpc = None, s3: S3 = None, workers: Workers = None,
    host: Host = None, database_url: DatabaseUrl = None, tls_cert: TlsCert = None, tls_key: TlsKey = None,
    insecure: Insecure = None,
    engines: Annotated[bool, typer.Option("--engines", envvar="THECLOUD_ENGINES", help="Install and start missing "
                                          "engines first, where this user may")] = False,
) -> None:  # fmt: skip
    """Start everything: database, schema, API and workers. Ctrl-C stops it; instances keep running."""
    from server import app, process, supervise

    config = read(data=data, http=http, grpc=grpc, s3=s3, workers=workers, host=host, database_url=database_url,
                  tls_cert=tls_cert, tls_key=tls_key, insecure=insecure)  # fmt: skip
    app.check_exposure(config)
    config = replace(config, data=process.data_folder(config.data))
    if engines:
        fix_engines(config)
    supervise.up(config, lambda running: announce(config, running))


@cli.command()
def serve(
    data: Data = None, http: Http = None, grpc: Grpc = None, s3: S3 = None, database_url: DatabaseUrl = None,
    host: Host = None, tls_cert: TlsCert = None, tls_key: TlsKey = None, insecure: Insecure = None,
) -> None:  # fmt: skip
    """Serve the API only, on a database that `up` or `migrate` has prepared."""
    from server import app, process

    config = read(data=data, http=http, grpc=grpc, s3=s3, database_url=database_url, host=host, tls_cert=tls_cert,
                  tls_key=tls_key, insecure=insecure)  # fmt: skip
    app.check_exposure(config)
    process.run(config, database_of(config), api=True, works=False, ready=lambda running: announce(config, running))


@cli.command()
def work(data: Data = None, database_url: DatabaseUrl = None, host: Host = None) -> None:
    """Work only: carry out what was asked for on this host. A cloud grows by starting this on another machine."""
    from server import process

    config = read(data=data, database_url=database_url, host=host)
    process.run(config, database_of(config), api=False, works=True,
                ready=lambda _: typer.echo(f"works for host {config.host}"))  # fmt: skip


@cli.command(hidden=True, name="process")
def one_process() -> None:
    """One of several processes of `up --workers`."""
    from server import process

    config = read()
    process.run(config, config.database_url, api=True, works=True, shared=True, ready=lambda _: typer.echo("ready"))


@cli.command()
def migrate(data: Data = None, database_url: DatabaseUrl = None) -> None:
    """Bring the database's schema up to date. `up` does this by itself."""
    import asyncio

    from server import migrate as migrations

    reached = asyncio.run(migrations.upgrade(database_of(read(data=data, database_url=database_url))))
    typer.echo(f"migrated to revision {reached}" if reached else "nothing to do")


@cli.command()
def doctor(
    names: Annotated[list[str] | None, typer.Argument(help="Only these. Default: all, of which optional ones may be "
                                                      "missing and are not installed")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Install and start what is missing, where this user may")] = False,
) -> None:  # fmt: skip
    """Say of each engine whether it is here, which version, and what to do."""
    from rich.console import Console
    from rich.table import Table

    from server import engines

    table = Table("engine", "for", "found", "version", "what to do")
    for name in names or ():
        if name not in (each.name for each in engines.ENGINES):
            fail(f"there is no engine {name!r}; there is {', '.join(each.name for each in engines.ENGINES)}")
    chosen = [each for each in engines.ENGINES if not names or each.name in names]
    needed = [each for each in chosen if names or not each.optional]
    findings = [engines.fix(each, typer.echo) if fix and each in needed else engines.examine(each) for each in chosen]
    for each in findings:
        found = "yes" if each.answers else "not running" if each.version else "no"
        table.add_row(each.engine.name, each.engine.purpose, found, each.version or "", each.advice)
    Console().print(table)
    raise typer.Exit(1 if any(each.advice for each in findings if each.engine in needed) else 0)


@images.command("build")
def build_images(
    names: Annotated[list[str], typer.Argument(help="Which: see `thecloud images list`; or all; or guest")],
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build again what is there")] = False,
    data: Data = None,
) -> None:
    """Build images into this host's engine, named as a registry would name them.

    `guest` is a tiny one for virtual machines: a file, images/guest.qcow2 in the data folder.
    """
    import asyncio
    from itertools import chain

    from server import guest_image
    from server import images as recipes

    for name in chain.from_iterable(recipes.names() if name == "all" else [name] for name in names):
        if name == "guest":
            target = read(data=data).data / "images/guest.qcow2"
            try:
                typer.echo(asyncio.run(guest_image.build(target, rebuild=rebuild, say=typer.echo)))
            except recipes.BuildFailed as error:
                fail(str(error))
            continue
        if name not in recipes.names():
            fail(f"there is no recipe for {name!r}; there is {', '.join(recipes.names())}")
        try:
            typer.echo(" ".join(asyncio.run(recipes.build(name, rebuild=rebuild, say=typer.echo))))
        except recipes.BuildFailed as error:
            fail(str(error))


@images.command("list")
def list_images() -> None:
    """Say which images can be built."""
    from server import images as recipes

    typer.echo("\n".join(recipes.names()))


@audit.command("verify")
def verify_audit(
    data: Data = None, database_url: DatabaseUrl = None,
    heads: Annotated[Path | None, typer.Option("--heads", help="A file with what an earlier run printed: also find "
                                               "chains that were made anew since")] = None,
) -> None:  # fmt: skip
    """Read along every chain, and say where one was broken: an entry that was changed, removed or inserted.

    Prints where each chain ends, "tenant entries hash". Keep that somewhere else, and give it back with --heads
    the next time: whoever can write to the database can compute a whole new chain, but not one that leads through
    an end that was noted. Exits with 1 when a chain does not hold.
    """
    import asyncio

    from server import audit as chains
    from server import db, migrate

    noted = read_heads(heads) if heads else {}
    config = read(data=data, database_url=database_url)

    async def run() -> bool:
        connection, holds = await migrate.first_connection(database_of(config)), True
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for found in chains.verify(db.Tx(connection), noted):
                    if isinstance(found, str):
                        holds = False
                        typer.echo(found, err=True)
                    else:
                        typer.echo(f"{found.tenant_id} {found.sequence} {found.hash.hex()}")
        finally:
            await connection.close()
        return holds

    raise typer.Exit(0 if asyncio.run(run()) else 1)


def read_heads(file: Path) -> dict[UUID, Any]:
    """What `audit verify` printed."""
    from server.audit import Head

    try:
        lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
        return {UUID(tenant): Head(UUID(tenant), int(count), bytes.fromhex(hash)) for tenant, count, hash in lines}
    except (OSError, ValueError) as error:
        raise BadConfig(f"--heads {file} has not what `thecloud audit verify` printed: {error}") from None


@quotas.command("set")
def set_quota(
    tenant: Annotated[str, typer.Argument(help="Its id or its slug")],
    name: Annotated[str, typer.Argument(help="See `thecloud quota list`")],
    limit: Annotated[int, typer.Argument(min=0, max=10**15)],
    data: Data = None, database_url: DatabaseUrl = None,
) -> None:  # fmt: skip
    """Set one limit of one tenant, at once. What it has beyond a lower limit stays; it gets no more of it.

    For example: `thecloud quota set acme instances 50`
    """
    from server import operators

    act = operators.set_quota(tenant, name, limit)
    typer.echo(operators.perform(database_of(read(data=data, database_url=database_url)), act))


@quotas.command("list")
def list_quotas(
    tenant: Annotated[str, typer.Argument(help="Its id or its slug")],
    data: Data = None, database_url: DatabaseUrl = None,
) -> None:  # fmt: skip
    """Say of each quota what a tenant uses now, and what it may. GET /quotas tells the tenant the same."""
    from server import operators

    act = operators.list_quotas(tenant)
    typer.echo(operators.perform(database_of(read(data=data, database_url=database_url)), act))


@prices.command("set")
def set_price(
    kind: Annotated[str, typer.Argument(help="What is billed: instance")],
    type: Annotated[str, typer.Argument(help="Its type: basic-2. See `thecloud price list`")],
    price: Annotated[str, typer.Argument(help="US dollars an hour: 0.025")],
    since: Annotated[str | None, typer.Option("--from", help="When it comes in force, as RFC 3339: "
                                              "2027-01-01T00:00:00Z. Default: the next second")] = None,
    data: Data = None, database_url: DatabaseUrl = None,
) -> None:  # fmt: skip
    """Change the price of a type, from a moment to come on. Bills of the past do not change.

    What is in use then costs the old price up to that second, and the new one from it on. Naming the moment
    of a price that is still to come replaces that.

    For example: `thecloud price set instance basic-2 0.025 --from 2027-01-01T00:00:00Z`
    """
    from server import operators

    act = operators.set_price(kind, type, price, since)
    typer.echo(operators.perform(database_of(read(data=data, database_url=database_url)), act))


@prices.command("list")
def list_prices(data: Data = None, database_url: DatabaseUrl = None) -> None:
    """Say what each type costs, did, and will: a line for each price, with the moment it came or comes in force."""
    from server import operators

    act = operators.list_prices()
    typer.echo(operators.perform(database_of(read(data=data, database_url=database_url)), act))


def read(**flags: Any) -> Config:
    config = configuration.read(**flags)
    log.configure(config.log_level, config.log_format)
    return config


def database_of(config: Config) -> str:
    """The configured database, else the embedded one of a running `up` with the same data folder."""
    if config.database_url:
        return config.database_url
    file = config.data / "database_url"
    if not file.exists():
        raise BadConfig(f"no database: set THECLOUD_DATABASE_URL, or start `thecloud up --data {config.data}` first")
    return file.read_text()


def fix_engines(config: Config) -> None:
    """Those without which nothing starts: the database's, and what the compute drivers are named after."""
    from server import engines

    names = {"postgresql", *map(str.strip, config.compute.split(","))}
    for engine in (each for each in engines.ENGINES if each.name in names):
        finding = engines.fix(engine, lambda text: typer.echo(text, err=True))
        if finding.advice:
            typer.echo(f"{engine.name}, for {engine.purpose}: {finding.advice}", err=True)


def announce(config: Config, running: Any) -> None:
    scheme = "https" if config.tls_cert else "http"
    s3 = f"S3    {scheme}://{running.s3}\n" if running.s3 else ""
    typer.echo(f"REST  {scheme}://{running.http}\ngRPC  {running.grpc}\n{s3}docs  {scheme}://{running.http}/docs\n"
               f"data  {config.data}\nready")  # fmt: skip
    sys.stdout.flush()


def fail(text: str) -> None:
    typer.echo(f"thecloud: {text}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """Run the command; what the user can mend is told in a line."""
    from server.migrate import NewerDatabase
    from server.postgres import NoPostgres

    try:
        cli()
    except (BadConfig, NewerDatabase, NoPostgres) as error:
        typer.echo(f"thecloud: {error}", err=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
