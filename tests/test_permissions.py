"""Every method, read from the descriptors, under policies that allow or deny just it, and under keys of all kinds."""

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from server import auth, registry
from tests.conftest import Cloud, Person
from tests.test_every_method import GUARDED, METHODS, call, reads, rule, valid

DENIED, UNAUTHENTICATED = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
FAILED = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, UNAUTHENTICATED}
PERMISSIONS = sorted({rule(method).permission or rule(method).action for method in GUARDED})


def permission(method: MethodDescriptor) -> str:
    return rule(method).permission or rule(method).action


def request(method: MethodDescriptor, person: Person) -> bytes:
    """What breaks no rule, and is about nothing there is."""
    id = str(person.tenant_id) if rule(method).tenant_field else str(uuid4())
    return valid(method, id=id, name=f"n-{uuid4().hex[:8]}", slug=uuid4().hex).SerializeToString()


def statement(effect: str, action: str) -> dict[str, Any]:
    return {"effect": effect, "action": [action], "resource": ["*"]}


async def with_policy(cloud: Cloud, owner: Person, role: str, *statements: dict[str, Any]) -> Person:
    """A new member of the owner's tenant with this policy."""
    person = await cloud.person("eve", tenant_id=owner.tenant_id, role=role)
    made = await owner.rest.post("/iam/policies", json={"name": uuid4().hex, "statements": list(statements)})
    assert made.status_code == 201, made.text
    attached = await owner.rest.post(f"/iam/users/{person.user_id}/policies/{made.json()['id']}")
    assert attached.json() == {"status": "attached"}
    return person


async def scoped(person: Person, **fields: Any) -> list[tuple[str, str]]:
    """The metadata of a new key of theirs."""
    reply = await person.rest.post("/auth/keys", json={"name": "scoped"} | fields)
    assert reply.status_code == 201, reply.text
    return [("x-api-key", reply.json()["key"])]


@pytest.mark.parametrize("only", PERMISSIONS)
async def test_a_policy_that_denies_one_permission_denies_its_methods_and_no_other(
    cloud: Cloud, ada: Person, only: str
) -> None:
    await cloud.value("insert into quotas values ($1, 'policies', 1000)", ada.tenant_id)
    eve = await with_policy(cloud, ada, "admin", statement("Deny", only))
    for method in GUARDED:
        status = await call(cloud, method, request(method, eve), eve.metadata)
        assert (status == DENIED) == (permission(method) == only), (method.name, status)
        assert status not in FAILED, (method.name, status)


@pytest.mark.parametrize("only", PERMISSIONS)
async def test_a_policy_that_allows_one_permission_adds_its_methods_to_a_role(
    cloud: Cloud, ada: Person, only: str
) -> None:
    eve = await with_policy(cloud, ada, "viewer", statement("Allow", only))
    plain = await cloud.person("joe", tenant_id=ada.tenant_id, role="viewer")
    for method in GUARDED:
        status = await call(cloud, method, request(method, eve), eve.metadata)
        before = await call(cloud, method, request(method, plain), plain.metadata)
        assert status not in FAILED, (method.name, status)
        if permission(method) == only:
            assert status != DENIED, method.name
        else:
            assert (status == DENIED) == (before == DENIED), (method.name, status, before)


@pytest.mark.parametrize("only", PERMISSIONS)
async def test_a_scoped_key_opens_what_its_policy_allows_and_nothing_else(cloud: Cloud, ada: Person, only: str) -> None:
    key = await scoped(ada, policy={"statements": [statement("Allow", only)]})
    for method in GUARDED:
        status = await call(cloud, method, request(method, ada), key)
        assert (status == DENIED) == (permission(method) != only), (method.name, status)
        assert status not in FAILED, (method.name, status)


async def test_a_scoped_key_opens_no_more_than_its_owner_may(cloud: Cloud, ada: Person) -> None:
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    key = await scoped(viewer, policy={"statements": [statement("Allow", "*")]})
    for method in GUARDED:
        wide = await call(cloud, method, request(method, viewer), viewer.metadata)
        assert await call(cloud, method, request(method, viewer), key) == wide, method.name


async def test_a_member_of_another_tenant_gets_nowhere(cloud: Cloud, ada: Person, bob: Person) -> None:
    metadata = [*bob.metadata, ("x-tenant-id", str(ada.tenant_id))]
    for method in GUARDED:
        status = await call(cloud, method, request(method, ada), metadata)
        expected = grpc.StatusCode.NOT_FOUND if rule(method).tenant_field else DENIED
        assert status == expected, method.name


async def test_an_expired_key_opens_nothing(cloud: Cloud, ada: Person) -> None:
    key = await scoped(ada, expires_at="2999-01-01T00:00:00Z")
    assert (await ada.rest.get("/auth/me", headers={"x-api-key": key[0][1]})).status_code == 200
    await cloud.value("update api_keys set expires_at = now() where hash = $1", auth.digest(key[0][1]))
    cloud.app.keys.drop("*")
    for method in GUARDED:
        assert await call(cloud, method, request(method, ada), key) == UNAUTHENTICATED, method.name


async def test_no_answer_has_a_trace_of_another_tenant(cloud: Cloud, ada: Person, bob: Person) -> None:
    """Not a list, a watch, a log, a bill, the audit, nor what an error says."""
    marker = "hidden-marker"
    made = await ada.running(
        name=marker, labels={marker: marker}, env=[f"A={marker}"], cmd=["sh", "-c", f"echo {marker}"]
    )
    policy = {"name": marker, "statements": [statement("Allow", "instance:read")]}
    policy_id = (await ada.rest.post("/iam/policies", json=policy)).json()["id"]
    await ada.rest.post("/instances", json={"name": marker, "image": "no-such-image"}, headers={"x-request-id": marker})
    ids = {"instance": made["id"], "policy": policy_id, "tenant": str(ada.tenant_id)}
    traces = [marker.encode(), ada.email.encode(), made["private_ip"].encode(), made["container_id"].encode()]
    for method in METHODS:
        kind = rule(method).target.partition("/")[0]
        for reference in (ids.get(kind, made["id"]), marker):
            data = valid(method, id=reference, user_id=str(ada.user_id), policy_id=policy_id).SerializeToString()
            said = await everything_said(cloud, method, data, bob.metadata)
            for trace in traces if reference != marker else traces[1:]:
                assert trace not in said, (method.name, said)
            if reference not in data.decode("latin-1"):
                assert made["id"].encode() not in said, method.name


async def everything_said(cloud: Cloud, method: MethodDescriptor, data: bytes, metadata: Any) -> bytes:
    """The reply, or the error with all its details."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    said = b""
    try:
        if method.client_streaming and not method.server_streaming:
            return await cloud.channel.stream_unary(path)(iter([data]), metadata=metadata)  # type: ignore[no-any-return]
        if method.client_streaming:
            stream = cloud.channel.stream_stream(path)(iter([data]), metadata=metadata)
        elif method.server_streaming:
            stream = cloud.channel.unary_stream(path)(data, metadata=metadata)
        else:
            return await cloud.channel.unary_unary(path)(data, metadata=metadata)  # type: ignore[no-any-return]
        with suppress(TimeoutError):  # of a stream that waits for something to tell
            async with asyncio.timeout(0.5):
                while (message := await stream.read()) is not grpc.aio.EOF:
                    said += message
        stream.cancel()
    except grpc.aio.AioRpcError as error:
        trailing = b"".join(str(value).encode() for _, value in error.trailing_metadata() or ())
        said += (error.details() or "").encode() + trailing
    return said


async def test_what_the_protos_call_open_is_open_to_everybody(cloud: Cloud) -> None:
    """To somebody without any tenant, too."""
    nobody = await cloud.person("eve")
    await cloud.value("delete from members where user_id = $1", nobody.user_id)
    await cloud.value("update users set default_tenant_id = null where id = $1", nobody.user_id)
    for method in GUARDED:
        if rule(method).signed_in and reads(method):
            assert permission(method) in registry.open_actions()
            assert await call(cloud, method, request(method, nobody), nobody.metadata) == grpc.StatusCode.OK
