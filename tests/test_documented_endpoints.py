"""Every documented endpoint is served, but for those of shrinking/unserved.txt. That list may only shrink."""

from pathlib import Path

from rest_shim.routes import Router, bindings
from server.app import services

HERE = Path(__file__).parent


def listed(file: str) -> list[str]:
    """ "POST /auth/register", one a line."""
    return [line for line in (HERE / file).read_text().splitlines() if line and not line.startswith("#")]


def router() -> Router:
    made = Router()
    for binding in bindings(services()):
        made.add(binding.verb, binding.template, binding.method.full_name)
    return made


def is_served(endpoint: str) -> bool:
    verb, path = endpoint.split(" ")
    return router().find(verb, path[1:].split("/"), set()) is not None


def test_every_documented_endpoint_is_served_or_listed() -> None:
    missing = [endpoint for endpoint in listed("endpoints.txt") if not is_served(endpoint)]
    assert sorted(set(missing) - set(listed("shrinking/unserved.txt"))) == []


def test_what_is_listed_as_unserved_is() -> None:
    served = [endpoint for endpoint in listed("shrinking/unserved.txt") if is_served(endpoint)]
    assert served == [], "these are served by now: take them off the list"


def test_only_documented_endpoints_are_listed() -> None:
    unserved = listed("shrinking/unserved.txt")
    assert sorted(set(unserved) - set(listed("endpoints.txt"))) == []
    assert len(unserved) == len(set(unserved))


def test_there_are_as_many_endpoints_as_are_documented() -> None:
    assert len(listed("endpoints.txt")) == len(set(listed("endpoints.txt"))) >= 177
