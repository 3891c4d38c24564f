"""What the protos declare: services, and the permissions that their methods name."""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import thecloud.v1
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from thecloud.v1 import options_pb2

RULE: Any = options_pb2.rule


def services() -> list[ServiceDescriptor]:
    """Every service of the API. The protos are the list; there is no other."""
    return [
        service
        for module in sorted(iter_modules(thecloud.v1.__path__), key=lambda module: module.name)
        if module.name.endswith("_pb2")
        for service in import_module(f"thecloud.v1.{module.name}").DESCRIPTOR.services_by_name.values()
    ]


def _rules() -> Iterator[tuple[MethodDescriptor, options_pb2.Rule]]:
    for service in services():
        for method in service.methods:
            yield method, method.GetOptions().Extensions[RULE]


def permissions() -> frozenset[str]:
    """Every permission that a method names."""
    named = (name for _, rule in _rules() for name in (rule.permission, rule.action, rule.wider_permission))
    return frozenset(filter(None, named))


@cache
def open_actions() -> frozenset[str]:
    """What every signed-in caller may, unless a policy denies it: the actions of methods without a permission."""
    return frozenset(rule.action for _, rule in _rules() if rule.action)


@cache
def read_permissions() -> dict[str, str]:
    """By kind of resource, the permission to see one."""
    return {
        rule.target.partition("/")[0]: rule.permission
        for method, rule in _rules()
        if rule.permission and method.name.startswith(("Get", "List"))
    }
