"""What policies call resources: by id and name, after their kind, and as ARNs; and patterns of all of them.

The ARNs are arn:thecloud:<service>:<region>:<tenant>:<kind>/<id or name>, with dashes in the kind.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from server.wildcards import matcher

ARN_KINDS = {"elastic_ip": "eip", "internet_gateway": "igw", "vpc_peering": "peering"}  # as documented


def arn_kind(kind: str) -> str:
    """What ARNs call a kind."""
    return ARN_KINDS.get(kind) or kind.replace("_", "-")


def arn(service: str, tenant_id: object, kind: str, id: object) -> str:
    """The ARN of a resource, which policies may name it by."""
    return f"arn:thecloud:{service}:local:{tenant_id}:{arn_kind(kind)}/{id}"


def name_of(state: Mapping[str, Any]) -> str:
    """What a resource is called besides its id, by its state in the change log: an object by its bucket and key."""
    return str(state.get("name") or (f"{state['bucket']}/{state['key']}" if "bucket" in state else ""))


@dataclass(frozen=True, slots=True)
class Resource:
    """What a request is about. Without an id and a name: all of the kind, as a list is."""

    kind: str
    id: str = ""
    name: str = ""
    tenant: str = ""

    def names(self) -> "Names":
        """All that patterns may call it."""
        id, name, kind, dashed = self.id, self.name, f"{self.kind}:", f"{arn_kind(self.kind)}/"
        arn, own_arn = f"arn:{dashed}", f"arn:{self.tenant}:{dashed}"
        if id and name:
            full = (kind + id, kind + name, arn + id, arn + name, own_arn + id, own_arn + name)
            return Names((id, name), full)
        one = id or name
        each = one or "*"
        return Names((one,) if one else (), (kind + each, arn + each, own_arn + each))


class Names(NamedTuple):
    """What patterns call a resource."""

    plain: tuple[str, ...]  # its id, its name
    full: tuple[str, ...]  # both after its kind, and as an ARN without service and region, with and without tenant


class Patterns:
    """Patterns of resources, asked all at once.

    One without a colon is about ids and names alone: "i*" does not mean instance:*. Most patterns are a
    text, or a text and an asterisk: those are looked up, however many there are.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.texts = frozenset(patterns)
        self.everything = "*" in self.texts
        self._exact = frozenset(each for each in self.texts if "*" not in each)
        wild = [each for each in self.texts if "*" in each]
        self._plain = _Wild([each for each in wild if ":" not in each])
        self._full = _Wild([each for each in wild if ":" in each])

    def match(self, names: Names) -> bool:
        return (
            self.everything
            or not self._exact.isdisjoint(names.plain)
            or not self._exact.isdisjoint(names.full)
            or self._plain.match(names.plain)
            or self._full.match(names.full)
        )


class _Wild:
    """Patterns with asterisks: those that are a beginning, by its length, and others."""

    def __init__(self, patterns: Sequence[str]) -> None:
        beginnings = [each[:-1] for each in patterns if each.find("*") == len(each) - 1]
        lengths = {len(each) for each in beginnings}
        self._beginnings = [(length, {each for each in beginnings if len(each) == length}) for length in lengths]
        self._others = [matcher(each) for each in patterns if each.find("*") < len(each) - 1]

    def match(self, texts: Sequence[str]) -> bool:
        for length, beginnings in self._beginnings:
            for text in texts:
                if text[:length] in beginnings:
                    return True
        return any(matches(text) for matches in self._others for text in texts)


def shortened(pattern: str) -> str:
    """A pattern as `Names` has it: an ARN without its service and region, which say nothing that the kind does not,
    and without a tenant that is any."""
    if not pattern.startswith("arn:"):
        return re.sub(r"\*+", "*", pattern)
    parts = pattern.split(":", 5)
    if len(parts) < 6:
        return "arn:*"
    any_tenant = parts[4] in ("*", "tenant")  # the latter is how the API document writes them
    return f"arn:{parts[5]}" if any_tenant else f"arn:{parts[4]}:{parts[5]}"
