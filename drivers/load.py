"""The drivers that the configuration names."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from drivers.contracts import ComputeDriver, Mailer


@dataclass(frozen=True)
class Drivers:
    """One of each kind, for this host."""

    compute: ComputeDriver
    compute_name: str
    mail: Mailer
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        for close in self.closing:
            await close()


def load(*, compute: str, cloud_id: str, publish: str, outbox: Path, smtp_url: str, mail_from: str) -> Drivers:
    """The drivers by name. Raises LookupError for a compute driver that there is not."""
    from drivers.mail import Outbox, Smtp

    known = {"docker": "DockerCompute"}
    if compute not in known:
        raise LookupError(f"there is no compute driver {compute!r}; there is {', '.join(known)}")
    driver = getattr(import_module(f"drivers.{compute}"), known[compute])(cloud_id, publish_address=publish)
    mail: Mailer = Smtp(smtp_url, mail_from) if smtp_url else Outbox(outbox, mail_from)
    return Drivers(driver, compute, mail, [driver.close])
