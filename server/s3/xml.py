"""XML as S3 has it: bodies that may be hostile, and answers that are written often."""

import re
from collections.abc import Iterable
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DEEPEST = 8
MOST_ELEMENTS = 100_000
SPECIAL = re.compile('[&<>"\x00-\x1f\x7f-\x9f\ufffe\uffff]')
NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


class Malformed(Exception):
    """It is not XML, or not what was asked for; the text says why."""


class _Bounded(TreeBuilder):
    """Elements without their namespaces, so many of them and so deep."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = self._count = 0

    def start(self, tag: Any, attrs: Any) -> Any:
        self._depth += 1
        self._count += 1
        if self._depth > DEEPEST or self._count > MOST_ELEMENTS:
            raise Malformed(f"it has more than {MOST_ELEMENTS} elements, or more than {DEEPEST} within each other")
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: Any) -> Any:
        self._depth -= 1
        return super().end(tag.rpartition("}")[2])


def parse(body: bytes, root: str) -> Element:
    """The document, whose outermost element has to be this one. Raises Malformed."""
    parser = DefusedXMLParser(target=_Bounded(), forbid_dtd=True)
    try:
        parser.feed(body)
        found: Element = parser.close()
    except DefusedXmlException:
        raise Malformed("it has a DTD or entities; leave them out") from None
    except (ParseError, ValueError, LookupError) as error:
        raise Malformed(f"it is not XML: {error}") from None
    if found.tag != root:
        raise Malformed(f"it is a <{found.tag[:100]}>; this wants a <{root}>")
    return found


def text(parent: Element, *path: str, default: str | None = None) -> str:
    """What is in the element at this path. Raises Malformed when it is not there and there is no default."""
    found: Element | None = parent
    for name in path:
        found = found.find(name) if found is not None else None
    if found is None:
        if default is None:
            raise Malformed(f"<{parent.tag}> has no <{'/'.join(path)}>")
        return default
    if len(found):
        raise Malformed(f"<{path[-1]}> has elements; this wants text")
    return (found.text or "").strip() if path[-1] != "Key" else found.text or ""


def number(parent: Element, *path: str, default: int | None = None) -> int:
    """The number in the element at this path. Raises Malformed."""
    said = text(parent, *path, default=None if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,9}", said, re.ASCII):
        raise Malformed(f"<{path[-1]}> is not a number of at most nine digits")
    return int(said)


def only(parent: Element, names: Iterable[str]) -> None:
    """Raise Malformed when there is something else in the element."""
    known = {*names}
    for child in parent:
        if child.tag not in known:
            raise Malformed(f"<{parent.tag}> has a <{child.tag[:100]}>, which is not known here")


def escape(value: str) -> str:
    """Text within an element. Characters that XML does not have are written by their number, as S3 does."""
    return SPECIAL.sub(_escaped, value) if SPECIAL.search(value) else value


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return NAMED.get(character) or f"&#x{ord(character):X};"


def element(name: str, inside: str, *, namespace: str = NAMESPACE) -> bytes:
    """A whole document."""
    named = f' xmlns="{namespace}"' if namespace else ""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{named}>{inside}</{name}>'.encode()


def tag(name: str, value: str) -> str:
    """One element with text; none when it is empty."""
    return f"<{name}>{escape(value)}</{name}>" if value else ""
