"""What holds for every method of the API, read from the descriptors."""

import asyncio
import re
from typing import Any
from uuid import uuid4

import grpc
import pytest
from buf.validate import validate_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from thecloud.v1 import options_pb2

from rest_shim.routes import bindings
from rest_shim.schemas import comment
from server.access import allows
from server.registry import services
from tests.conftest import Cloud, Person
from tests.networks import world

RULE: Any = options_pb2.rule
METHODS: list[MethodDescriptor] = [method for service in services() for method in service.methods]
GUARDED = [method for method in METHODS if not method.GetOptions().Extensions[RULE].anyone]
NAMED = [method for method in GUARDED if "id" in method.input_type.fields_by_name]
SHORT_LISTS = ("ListInstanceTypes", "ListQuotas")  # as long as the program's own tables, whoever asks
every = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def rule(method: MethodDescriptor) -> options_pb2.Rule:
    found: options_pb2.Rule = method.GetOptions().Extensions[RULE]
    return found


def streams(method: MethodDescriptor) -> bool:
    return bool(method.client_streaming or method.server_streaming)


PUBLIC_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43}"
POLICY = {"name": "p", "statements": [{"effect": "Allow", "action": ["instance:read"], "resource": ["*"]}]}
READS = ("List", "Get", "Watch", "Search", "Tail", "Export", "Simulate", "Explain", "Replay", "Check", "Preview")


def reads(method: MethodDescriptor) -> bool:
    return method.name.startswith(READS) or (streams(method) and not rule(method).audit)


def valid(method: MethodDescriptor, **fixed: str) -> Message:
    """A request that breaks no rule, as far as its fields tell what they want."""
    samples: dict[str, Any] = {
        "name": "some-name", "image": "nginx", "instance_type": "basic-4", "key": "some-key", "slug": "some-slug",
        "email": "somebody@example.com", "password": "password", "new_password": "password", "token": "token",
        "role": 3, "tags": {"a": "b"}, "user_id": str(uuid4()), "policy_id": str(uuid4()), "action": "instance:read",
        "request_id": "some-request", "days": 1, "resource_id": str(uuid4()), "amount": 10.0,
        "destination_cidr": "0.0.0.0/0", "target_type": 2, "target_id": str(uuid4()), "direction": 1, "port_min": 80,
        "port_max": 80, "port": 80, "cidr": "10.0.0.0/8", "eip_id": str(uuid4()), "destination_address": "10.0.0.1",
        "size_gb": 1, "url": "http://example.com/disk.img", "public_key": PUBLIC_KEY,
        "bucket": "some-bucket", "part": 1, "expiration_days": 1, "enabled": True,
        "is_public": False,
    }  # fmt: skip
    request: Any = GetMessageClass(method.input_type)()
    if "statements" in method.input_type.fields_by_name:
        request.statements.add(effect="EFFECT_ALLOW", action=["instance:read"], resource=["*"])
    if "objects" in method.input_type.fields_by_name:
        request.objects.add(key="some-key")
    if "from" in method.input_type.fields_by_name:
        getattr(request, "from").GetCurrentTime()
    for field in method.input_type.fields:
        value = fixed.get(field.name) or samples.get(field.name)
        if field.name == "protocol":
            value = 1 if field.enum_type else "tcp"
        if value is None and required(field):
            value = "10.0.0.0/16" if field.name == "cidr_block" else str(uuid4())
        if value is None or (field.name == "user_id" and request.DESCRIPTOR.fields_by_name.get("email")):
            continue
        if field.enum_type and isinstance(value, str):
            continue
        if isinstance(value, dict):
            is_map = field.message_type.GetOptions().map_entry
            (getattr(request, field.name) if is_map else request.tags.tags).update(value)
        else:
            setattr(request, field.name, value)
    return request  # type: ignore[no-any-return]


def required(field: FieldDescriptor) -> bool:
    """Whether it is a text that must not be left out."""
    rules: Any = field.GetOptions().Extensions[validate_pb2.field]
    return not rules.ignore and (rules.string.min_len > 0 or rules.string.uuid)


async def storage(person: Person) -> dict[str, str]:
    """Somebody's volume, a snapshot of it, and an SSH key, by kind."""
    volume = (await person.rest.post("/volumes", json={"name": "data", "size_gb": 1})).json()["id"]
    snapshot = (await person.rest.post("/snapshots", json={"volume_id": volume})).json()["id"]
    key = (await person.rest.post("/ssh-keys", json={"name": "laptop", "public_key": PUBLIC_KEY})).json()["id"]
    await person.rest.post("/storage/buckets", json={"name": "some-bucket"})
    await person.rest.put("/storage/some-bucket/some-key", content=b"hello")
    upload = (await person.rest.post("/storage/multipart/init/some-bucket/some-key")).json()["id"]
    rule = await person.rest.post("/storage/buckets/some-bucket/lifecycle", json={"expiration_days": 1})
    return {"volume": volume, "snapshot": snapshot, "ssh_key": key, "multipart_upload": upload,
            "lifecycle_rule": rule.json()["id"]}  # fmt: skip


async def call(cloud: Cloud, method: MethodDescriptor, data: bytes, metadata: Any = ()) -> grpc.StatusCode:
    """The status of one call over gRPC."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.client_streaming and method.server_streaming:
        stream = cloud.channel.stream_stream(path)(iter([data]), metadata=metadata)
        return await stream.code()
    if method.server_streaming:
        return await first_status(cloud.channel.unary_stream(path)(data, metadata=metadata))
    if method.client_streaming:
        return await cloud.channel.stream_unary(path)(iter([data]), metadata=metadata).code()
    return await cloud.channel.unary_unary(path)(data, metadata=metadata).code()


async def first_status(stream: Any) -> grpc.StatusCode:
    """How the stream ends, or OK once it has a message. Then it is cancelled."""
    try:
        async with asyncio.timeout(10):
            await stream.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        stream.cancel()
    return grpc.StatusCode.OK


@every
def test_it_says_who_may_call(method: MethodDescriptor) -> None:
    assert rule(method).WhichOneof("access")
    if permission := rule(method).permission:
        area, _, verb = permission.partition(":")
        assert area and verb
        assert allows("owner", permission)
    if rule(method).signed_in:
        area, _, verb = rule(method).action.partition(":")
        assert area and verb


@every
def test_it_is_audited_unless_it_only_reads(method: MethodDescriptor) -> None:
    audit = rule(method).audit
    if not reads(method):
        assert audit, f"{method.name} changes something, and says no audit action"
    assert audit == audit.upper()


@every
def test_a_create_can_be_tried_out(method: MethodDescriptor) -> None:
    if method.name.startswith("Create"):
        assert method.input_type.fields_by_name["validate_only"].type == FieldDescriptor.TYPE_BOOL
        assert "estimated_price_per_hour" in method.output_type.fields_by_name


@every
def test_it_says_what_it_acts_on(method: MethodDescriptor) -> None:
    kind, _, target = rule(method).target.partition("/") if rule(method).target else ("", "", "")
    if method.containing_service.name == "HealthService":
        return
    assert kind and target
    listed = [each.message_type for each in method.output_type.fields if each.is_repeated and each.message_type]
    for name in re.findall(r"\{(\w+)\}", target):
        assert any(name in each.fields_by_name for each in (method.input_type, method.output_type, *listed))


def test_no_two_methods_share_an_audit_action() -> None:
    actions = [action for method in METHODS if (action := rule(method).audit)]
    assert len(actions) == len(set(actions))


@every
def test_it_is_commented(method: MethodDescriptor) -> None:
    assert comment(method.full_name).endswith(".")


@every
def test_it_has_a_route_that_fits_its_kind(method: MethodDescriptor) -> None:
    http = method.GetOptions().Extensions[annotations_pb2.http]
    verb = http.WhichOneof("pattern")
    assert verb
    routes = [binding for binding in bindings([method.containing_service]) if binding.method is method]
    for binding in routes:
        for name in binding.names:
            assert method.input_type.fields_by_name[name].type == FieldDescriptor.TYPE_STRING
        for field in binding.query_fields():
            assert field.message_type is None or field.message_type.GetOptions().map_entry is False
    if not streams(method) and method.name.startswith(("List", "Get")):
        assert verb == "get"


@every
def test_a_list_comes_in_pages(method: MethodDescriptor) -> None:
    if method.name.startswith("List") and method.name not in SHORT_LISTS:
        fields, answered = method.input_type.fields_by_name, method.output_type.fields_by_name
        begin = {each.removeprefix("next_") for each in answered if each.startswith("next_")}
        assert begin and {"page_size", *begin} <= set(fields)


def test_every_service_is_performed(cloud: Cloud) -> None:
    assert {method.descriptor.full_name for method in cloud.pipeline.methods.values()} == {
        method.full_name for method in METHODS
    }


async def test_without_a_key_no_guarded_method_answers(cloud: Cloud) -> None:
    for method in GUARDED:
        data = valid(method, id=str(uuid4())).SerializeToString()
        for metadata in ((), [("x-api-key", "thecloud_" + "0" * 32)], [("authorization", "Basic YTpi")]):
            assert await call(cloud, method, data, metadata) == grpc.StatusCode.UNAUTHENTICATED, method.name


async def test_without_the_permission_no_method_answers(cloud: Cloud, ada: Person) -> None:
    """Whether the id is one of the tenant's or not."""
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    made = await ada.running()
    for method in GUARDED:
        permission = rule(method).permission
        if not permission or allows("viewer", permission):
            continue
        id = str(ada.tenant_id) if rule(method).tenant_field else made["id"]
        data = valid(method, id=id).SerializeToString()
        assert await call(cloud, method, data, viewer.metadata) == grpc.StatusCode.PERMISSION_DENIED, method.name
    assert await ada.instance(made["id"]) == made


async def test_a_strangers_id_is_not_found(cloud: Cloud, ada: Person, bob: Person) -> None:
    """As if it never was: the same for an id of another tenant and for one of nobody's."""
    net = await world(ada)
    made = await ada.instance(net.instance)
    [key] = (await ada.rest.get("/auth/keys")).json()
    policy = (await ada.rest.post("/iam/policies", json=POLICY)).json()
    foreign = vars(net) | await storage(ada)
    foreign["image"] = (await ada.rest.post("/images", json={"name": "an-image"})).json()["id"]
    foreign |= {"route": net.route_table, "api_key": key["id"], "policy": policy["id"]}
    foreign |= {"tenant": str(ada.tenant_id), "tenant_member": str(ada.tenant_id)}
    await cloud.settle()
    applied = dict(cloud.network.applied)
    for method in NAMED:
        kind = rule(method).target.partition("/")[0]
        for id in (foreign[kind], str(uuid4())):
            data = valid(method, id=id, route_id=net.route).SerializeToString()
            assert await call(cloud, method, data, bob.metadata) == grpc.StatusCode.NOT_FOUND, method.name
    await cloud.settle()
    assert cloud.network.applied == applied
    assert await ada.instance(made["id"]) == made
    assert (await ada.rest.get("/auth/me")).status_code == 200


async def test_bytes_that_are_no_message_are_an_invalid_argument(cloud: Cloud, ada: Person) -> None:
    not_utf8 = b"\x0a\x02\xff\xfe"  # as the first field, if that is a text
    for method in METHODS:
        first = method.input_type.fields_by_number.get(1)
        is_text = first is not None and first.type == FieldDescriptor.TYPE_STRING
        for garbage in (b"\xff", b"\x0a\xff", b"garbage", b"\x00" * 9, *([not_utf8] if is_text else [])):
            status = await call(cloud, method, garbage, ada.metadata)
            assert status == grpc.StatusCode.INVALID_ARGUMENT, f"{method.name} {garbage!r}"


async def test_what_only_reads_writes_nothing(cloud: Cloud, ada: Person) -> None:
    net = await world(ada)
    policy = (await ada.rest.post("/iam/policies", json=POLICY)).json()
    viewer = await cloud.person("eve", tenant_id=ada.tenant_id, role="viewer")
    await viewer.rest.post("/instances", json={"name": "a", "image": "nginx"}, headers={"x-request-id": "denied"})
    image = (await ada.rest.post("/images", json={"name": "an-image"})).json()["id"]
    ids = vars(net) | await storage(ada) | {"image": image} | {"route": net.route_table, "policy": policy["id"]}
    ids["tenant_member"] = str(ada.tenant_id)
    await ada.rest.put("/billing/budget", json={"amount": 10})
    tables = ("instances", "changes", "audit_log", "work", "users", "tenants", "members", "idempotency_keys",
              "budgets", "vpcs", "subnets", "route_tables", "routes", "security_rules", "elastic_ips",
              "subnet_addresses", "volumes", "snapshots", "images", "ssh_keys", "buckets",
              "objects", "multipart_uploads", "lifecycle_rules")  # fmt: skip

    async def counts() -> list[int]:
        return [await cloud.value(f"select count(*) from {table}") for table in tables]

    before = await counts()
    for method in METHODS:
        if reads(method) and not streams(method) and not rule(method).audit:
            id = ids.get(rule(method).target.partition("/")[0], net.instance)
            fixed = {"user_id": str(ada.user_id), "request_id": "denied", "policy_id": policy["id"],
                     "vpc_id": net.vpc, "route_id": net.route, "rule_id": net.security_rule,
                     "source_instance_id": net.instance}  # fmt: skip
            data = valid(method, id=id, **fixed).SerializeToString()
            status = await call(cloud, method, data, ada.metadata)
            assert status == grpc.StatusCode.OK, method.name
    assert await counts() == before


async def test_every_audited_method_records_its_refusals(cloud: Cloud, ada: Person) -> None:
    audited = [method for method in METHODS if rule(method).audit]
    for method in audited:
        await call(cloud, method, b"\x0a\x01x", ada.metadata)
    async with cloud.app.db.reading() as tx:
        found = {record["action"] for record in await tx.connection.fetch("select distinct action from audit_log")}
    assert found == {rule(method).audit for method in audited}
