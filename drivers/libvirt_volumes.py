"""Volumes of a virtual machine, as it runs and as it is defined: each for itself, since a kill may come between."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID
from xml.etree.ElementTree import Element, fromstring, tostring

import libvirt

from drivers.contracts import Volume
from drivers.libvirt_engine import not_there
from drivers.libvirt_xml import disk, volumes

PATIENCE = 10.0  # seconds for a guest to let go of a disk


def set_volumes(domain: Any, wanted: tuple[Volume, ...]) -> None:
    """Have these there and no others."""
    there = {id for _, known in _states(domain) for id in known}
    for id in there - {one.id for one in wanted}:
        detach(domain, id)
    for volume in wanted:
        attach(domain, volume)


def attach(domain: Any, volume: Volume) -> None:
    for affected, there in _states(domain):
        if volume.id not in there:
            domain.attachDeviceFlags(disk(volume), affected)


def detach(domain: Any, id: UUID) -> None:
    """Where the machine runs, its guest has to let go of the disk first. Raises TimeoutError when it does not."""
    for affected, there in _states(domain):
        if id not in there:
            continue
        try:
            domain.detachDeviceFlags(tostring(there[id], encoding="unicode"), affected)
        except libvirt.libvirtError as error:
            if not (not_there(error) or "already in the process of unplug" in str(error)):
                raise
        if affected == libvirt.VIR_DOMAIN_AFFECT_LIVE:
            _await_gone(domain, id)


def _await_gone(domain: Any, id: UUID) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(id in there for affected, there in _states(domain) if affected == libvirt.VIR_DOMAIN_AFFECT_LIVE):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the virtual machine has not let go of volume {id}")
        time.sleep(0.1)


def _states(domain: Any) -> Iterator[tuple[int, dict[UUID, Element]]]:
    """What runs, if it does, and what is defined, with the volumes of each."""
    if domain.isActive():
        yield libvirt.VIR_DOMAIN_AFFECT_LIVE, volumes(fromstring(domain.XMLDesc()))  # noqa: S314 - libvirtd's own
    defined = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    yield libvirt.VIR_DOMAIN_AFFECT_CONFIG, volumes(fromstring(defined))  # noqa: S314
