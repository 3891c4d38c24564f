"""Conditions of statements: operator, key, value. All must hold.

The operators and most keys are those of the AWS policy language, as the API's existing clients use them:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
Where a key is not known of a request, an operator does not hold, and its negation does.
"""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from server.wildcards import matcher

CONTEXT_KEYS = frozenset({
    "aws:SourceIp", "aws:UserId", "aws:Username", "aws:CurrentTime", "thecloud:TenantId", "thecloud:UserAgent",
})  # fmt: skip
Test = Callable[[str | None], bool]


class Malformed(ValueError):
    """A condition that is none. `path` says where, `message` what is wanted."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(path, message)
        self.path, self.message = path, message


@dataclass(frozen=True)
class Condition:
    """Keys, and a test of each one's value in the context of a request."""

    tests: tuple[tuple[str, Test], ...]

    @staticmethod
    def always(holds: bool) -> "Condition":
        return Condition((("", lambda _: holds),))

    def holds(self, context: Mapping[str, str]) -> bool:
        return all(test(context.get(key)) for key, test in self.tests)


def context(
    tenant_id: UUID | None, user_id: UUID, email: str, now: datetime, address: str, user_agent: str
) -> dict[str, str]:
    """The keys of one request. What is not known of it is left out."""
    keys = {
        "aws:SourceIp": address, "aws:UserId": str(user_id), "aws:Username": email, "aws:CurrentTime": now.isoformat(),
        "thecloud:TenantId": str(tenant_id or ""), "thecloud:UserAgent": user_agent,
    }  # fmt: skip
    return {key: value for key, value in keys.items() if value}


def parse(condition: Any) -> Condition | None:
    """The condition, compiled; None when there is none. Raises Malformed."""
    if not isinstance(condition, Mapping):
        raise Malformed("condition", 'this wants {operator: {key: value}}, such as {"Bool": {…}}')
    tests: list[tuple[str, Test]] = []
    for operator, pairs in condition.items():
        path = f'condition["{operator}"]'
        if operator not in OPERATORS:
            raise Malformed(path, f"there is no operator {operator!r}; there are {', '.join(OPERATORS)}")
        if not isinstance(pairs, Mapping) or not pairs:
            raise Malformed(path, "this wants at least one key and its value")
        for key, value in pairs.items():
            where = f'{path}["{key}"]'
            if key not in CONTEXT_KEYS:
                raise Malformed(
                    where, f"there is no condition key {key!r}; there are {', '.join(sorted(CONTEXT_KEYS))}"
                )
            try:
                tests.append((key, OPERATORS[operator](value)))
            except ValueError as error:
                raise Malformed(where, str(error)) from None
    return Condition(tuple(tests)) if tests else None


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not values or len(values) > 100 or not all(isinstance(each, str) and len(each) <= 512 for each in values):
        raise ValueError("this wants a text, or a list of 1 to 100 texts")
    return values


def _ip(value: Any) -> Test:
    try:
        networks = [ipaddress.ip_network(each) for each in _texts(value)]
    except ValueError as error:
        raise ValueError(f"this wants ranges such as 192.0.2.0/24, the part behind the prefix zero: {error}") from None

    def test(text: str | None) -> bool:
        try:
            address = ipaddress.ip_address(text or "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in networks)

    return test


def _equals(value: Any) -> Test:
    return frozenset(_texts(value)).__contains__


def _like(value: Any) -> Test:
    texts = _texts(value)
    if any(text.count("*") > 8 for text in texts):
        raise ValueError("this takes at most 8 asterisks")
    return lambda text: text is not None and any(matcher(each)(text) for each in texts)


def _not(operator: Callable[[Any], Test]) -> Callable[[Any], Test]:
    def negated(value: Any) -> Test:
        test = operator(value)
        return lambda text: not test(text)

    return negated


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError('this wants a moment with its zone, such as "2026-01-05T23:00:00Z"')
    return moment


def _date(compare: Callable[[datetime, datetime], bool]) -> Callable[[Any], Test]:
    def operator(value: Any) -> Test:
        wanted = _moment(value)

        def test(text: str | None) -> bool:
            try:
                return compare(_moment(text), wanted)
            except ValueError:
                return False

        return test

    return operator


def _bool(value: Any) -> Test:
    if not isinstance(value, bool):
        raise ValueError("this wants true or false")
    return lambda text: text == ("true" if value else "false")


def _null(value: Any) -> Test:
    if value not in ("true", "false"):
        raise ValueError('this wants "true" for a key that is not there, or "false" for one that is')
    return lambda text: (text is None) == (value == "true")


OPERATORS: dict[str, Callable[[Any], Test]] = {
    "IpAddress": _ip,
    "NotIpAddress": _not(_ip),
    "StringEquals": _equals,
    "StringNotEquals": _not(_equals),
    "StringLike": _like,
    "StringNotLike": _not(_like),
    "DateGreaterThan": _date(lambda seen, wanted: seen > wanted),
    "DateLessThan": _date(lambda seen, wanted: seen < wanted),
    "DateEquals": _date(lambda seen, wanted: seen == wanted),
    "Bool": _bool,
    "Null": _null,
}
