"""Anything at all may be sent: the answer is a clear refusal, never a failure, and leaves nothing behind."""

import asyncio
import json
import re
import string
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote

import argon2
import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from rest_shim.routes import Binding, bindings
from server import app as server_app
from server import auth
from tests.conftest import Cloud, Person
from tests.test_every_method import METHODS, call, streams

BROKEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}
EXAMPLES = settings(max_examples=12, derandomize=True, database=None)
WIRE = {
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=64),
    FieldDescriptor.TYPE_ENUM: st.integers(-1, 9),
}
NASTY = [
    "", " ", "\x00", "a\x00b", "\r\n", "\x1b[31m", "\u202e", "\ufeff", "🚀" * 20, "x" * 65, "x" * 5000, "..", "../../x",
    "'; drop table users; --", "%00", "%s%n", "${x}", "null", "true", "-1", "1e999", "0", "00000000-0000-0000-0000-0",
    "00000000-0000-0000-0000-000000000000", "ffffffffffffffffffffffffffffffff", "{}", "[]", "*", "a:b", ":", "a/b",
    "\\",
]  # fmt: skip
LIKELY = [
    "nginx",
    "basic-4",
    "0:80",
    "some-name",
    "A=1",
    "sh",
    "-c",
    "ada@example.com",
    "password",
    "owner",
    "RUNNING",
    "instance:read",
    "instance:*",
    "*",
    "arn:thecloud:compute:local:tenant:instance/*",
    "Allow",
    "success",
]


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_hasher", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def texts(known: list[str]) -> st.SearchStrategy[str]:
    """Of what is there, of what may pass, of what should not, and of anything."""
    anything = st.text(st.characters(codec="utf-8"), max_size=40)
    return st.one_of(st.sampled_from(known + LIKELY), st.sampled_from(NASTY), anything)


def conditions(known: list[str]) -> st.SearchStrategy[Any]:
    """Of a statement, likely or wild."""
    operators = st.sampled_from(["IpAddress", "StringLike", "DateLessThan", "Bool", "Null", "Nonsense", ""])
    keys = st.sampled_from(["aws:SourceIp", "aws:CurrentTime", "aws:UserId", "aws:Nothing", ""])
    values = jsons(known) | st.sampled_from(["10.0.0.0/8", "::/0", "10.0.0.1/8", "2026-01-05T23:00:00Z", "true", True])
    likely = st.dictionaries(operators, st.dictionaries(keys, values, max_size=2) | values, max_size=2)
    return likely | st.dictionaries(texts(known), jsons(known), max_size=2)


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, known: list[str]) -> Message:
    """Any message of this type: each field left out, likely or wild."""
    message: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(st.integers(0, 3)) == 0:
            continue
        entry = field.message_type if field.message_type and field.message_type.GetOptions().map_entry else None
        if field.message_type and field.message_type.full_name == Struct.DESCRIPTOR.full_name:
            getattr(message, field.name).update(draw(conditions(known)))
        elif entry:
            getattr(message, field.name).update(draw(st.dictionaries(texts(known), texts(known), max_size=3)))
        elif field.is_repeated and field.message_type:
            getattr(message, field.name).extend(draw(st.lists(messages(field.message_type, known), max_size=2)))
        elif field.message_type:
            getattr(message, field.name).CopyFrom(draw(messages(field.message_type, known)))
        else:
            value = texts(known) if field.type == FieldDescriptor.TYPE_STRING else WIRE[field.type]
            if field.is_repeated:
                getattr(message, field.name).extend(draw(st.lists(value, max_size=3)))
            else:
                setattr(message, field.name, draw(value))
    return message  # type: ignore[no-any-return]


def jsons(known: list[str]) -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts(known)
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(known), inner, max_size=3),
        max_leaves=6,
    )  # fmt: skip


async def ask(
    cloud: Cloud, verb: str, path: str, *, query: str = "", headers: dict[str, str] | None = None,
    body: bytes | list[bytes] = b"",
) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
    """One HTTP request as the server's HTTP library would hand it over, with nothing tidied up on the way."""
    chunks = body if isinstance(body, list) else [body]
    sent: list[dict[str, Any]] = []
    events = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    events[-1]["more_body"] = False
    waiting = iter(events)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return next(waiting, {"type": "http.disconnect"})

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {
        "type": "http", "method": verb, "path": unquote(path, errors="replace"), "raw_path": path.encode("ascii"),
        "query_string": query.encode("latin-1"), "client": ("127.0.0.1", 1), "http_version": "1.1", "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
    }  # fmt: skip
    await cloud.asgi(scope, receive, send)
    found = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(event.get("body", b"") for event in sent[1:])


def check(status: int, headers: dict[str, str], body: bytes) -> None:
    """No failure, and a refusal that says what it is."""
    assert status < 500, body
    assert b"Traceback" not in body
    assert headers["x-request-id"]
    if status >= 400:
        reply = json.loads(body)
        assert set(reply) == {"error", "meta"}
        assert reply["meta"]["request_id"] == headers["x-request-id"]
        error = reply["error"]
        assert error["type"] == error["code"] == error["type"].upper()
        assert error["message"]
        assert isinstance(error["message"], str)


@pytest.fixture
async def known(ada: Person) -> list[str]:
    """Ids and names that lead somewhere."""
    made = await ada.running(cmd=["sh", "-c", "echo hi"])
    key = (await ada.rest.post("/auth/keys", json={"name": "spare"})).json()
    return [made["id"], made["name"], str(ada.tenant_id), str(ada.user_id), key["id"], ada.email]


@pytest.fixture
async def in_order(cloud: Cloud) -> AsyncIterator[None]:
    """What was let in does not break what works on it later."""
    yield
    await cloud.settle()
    errors = "select string_agg(last_error, '; ') from work where last_error ~ '^[A-Za-z]+(Error|Exception)\\M'"
    assert await cloud.value(errors) is None


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@EXAMPLES
@given(data=st.data())
async def test_grpc_refuses_what_it_does_not_like(
    cloud: Cloud, ada: Person, known: list[str], method: MethodDescriptor, data: st.DataObject
) -> None:
    request = data.draw(messages(method.input_type, known))
    tenant = data.draw(st.sampled_from(["", "", "", known[2], "nonsense", "x" * 5000]))
    key = data.draw(st.sampled_from(["", "", "", "k", "x" * 300]))
    metadata = [*ada.metadata, ("x-tenant-id", tenant), ("idempotency-key", key)]
    before = await cloud.value("select count(*) from instances")
    status = await call(cloud, method, request.SerializeToString(), metadata)
    assert status not in BROKEN
    if status != grpc.StatusCode.OK:
        assert await cloud.value("select count(*) from instances") == before


BINDINGS = [binding for binding in bindings(server_app.services()) if not streams(binding.method)]


@st.composite
def requests(draw: st.DrawFn, binding: Binding, known: list[str]) -> dict[str, Any]:
    """A request to this route: any values in its path, query, headers and body."""
    path = binding.template
    for name in binding.names:
        value = draw(texts(known).filter(bool))
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    fields = [field.name for field in binding.method.input_type.fields] + ["unknown"]
    pairs = draw(st.lists(st.tuples(st.sampled_from(fields), texts(known)), max_size=4))
    query = draw(st.one_of(
        st.just(""), st.just("&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)),
        st.text(string.printable.strip(), max_size=30),
    ))  # fmt: skip
    known_names = st.dictionaries(st.sampled_from(fields), jsons(known), max_size=6)
    body = draw(st.one_of(known_names.map(json.dumps), jsons(known).map(json.dumps), st.just("")).map(str.encode)
                | st.binary(max_size=40))  # fmt: skip
    visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=30)
    names = st.sampled_from(["x-tenant-id", "idempotency-key", "x-request-id", "user-agent", "content-type",
                             "traceparent", "x-forwarded-for", "content-length", "cookie"])  # fmt: skip
    headers = draw(st.dictionaries(names, visible | st.sampled_from(known), max_size=2))
    prefix = draw(st.sampled_from(["", "/api/v1"]))
    return {"verb": binding.verb, "path": prefix + path, "query": query, "headers": headers, "body": body}


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("binding", BINDINGS, ids=lambda each: f"{each.verb}-{each.template.replace('/', '-')}")
@EXAMPLES
@given(data=st.data())
async def test_rest_refuses_what_it_does_not_like(
    cloud: Cloud, ada: Person, known: list[str], binding: Binding, data: st.DataObject
) -> None:
    request = data.draw(requests(binding, known))
    verb, path = request.pop("verb"), request.pop("path")
    request["headers"]["x-api-key"] = ada.key
    before = await cloud.value("select count(*) from instances")
    status, headers, body = await ask(cloud, verb, path, **request)
    check(status, headers, body)
    if status >= 400:
        assert await cloud.value("select count(*) from instances") == before


@settings(max_examples=150, derandomize=True, database=None)
@given(verb=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X" * 30]),
       path=st.binary(max_size=30), query=st.binary(max_size=30))  # fmt: skip
async def test_no_path_breaks_the_router(cloud: Cloud, verb: str, path: bytes, query: bytes) -> None:
    check(*await ask(cloud, verb, "/" + quote(path, safe="/"), query=query.decode("latin-1")))


# Listed


async def test_a_body_that_is_not_the_json_wanted_is_refused(cloud: Cloud, ada: Person) -> None:
    headers = {"x-api-key": ada.key}
    for body in (
        b"{", b"nonsense", b"[]", b'"x"', b"7", b"null", b"true", b'{"name": "a"', b'{"name": "a",}', b"{'name': 'a'}",
        b'{"name": NaN}', b'{"name": "\xff"}', b'{"name": "\\ud800", "image": "nginx"}', b"\x00", b"\xef\xbb\xbf{}",
        b'{"name": "a\x00"}', b"[" * 100_000, b'{"labels":' * 2000 + b"1" + b"}" * 2000, b"{}{}", b"name=a&image=nginx",
        b'{"name": 1e400, "image": "nginx"}', b'{"name": "a", "image": "nginx", "labels": {"a": {"b": "c"}}}',
        b'{"name": "a", "image": "nginx", "volumes": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"name": "a", "image": "nginx", "ports": 8080}', b'{"name": ["a"], "image": {"b": 1}}',
    ):  # fmt: skip
        for path in ("/instances", "/api/v1/instances"):
            status, found, reply = await ask(cloud, "POST", path, headers=headers, body=body)
            check(status, found, reply)
            assert status == 400, body[:80]
    assert await cloud.value("select count(*) from instances") == 0


async def test_no_body_where_one_is_needed_is_refused_and_elsewhere_ignored(cloud: Cloud, ada: Person) -> None:
    made, headers = await ada.running(), {"x-api-key": ada.key}
    for path in ("/instances", "/tenants", "/auth/keys", "/auth/register", f"/instances/{made['id']}/resize"):
        assert (await ask(cloud, "POST", path, headers=headers))[0] == 400
    for path in (f"/instances/{made['id']}/pause", f"/tenants/{ada.tenant_id}/switch"):
        assert (await ask(cloud, "POST", path, headers=headers, body=b"not read"))[0] == 200


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(cloud: Cloud, ada: Person) -> None:
    headers = {"x-api-key": ada.key}
    huge = {**headers, "content-length": str(10 * 2**20)}
    for found in (
        await ask(cloud, "POST", "/instances", headers=huge, body=b"{"),
        await ask(cloud, "POST", "/instances", headers=headers, body=[b" " * 2**16] * 160),
        await ask(cloud, "POST", "/instances", headers=headers, body=b'{"name": "' + b"x" * 10 * 2**20 + b'"}'),
    ):
        check(*found)
        assert (found[0], json.loads(found[2])["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def test_numbers_that_do_not_fit_are_refused(cloud: Cloud, ada: Person) -> None:
    for number in ("2147483648", "-2147483649", "1e99", "9" * 400, "1.5", "0x10", "", " 1", "1_0", "NaN", "١"):  # noqa: RUF001
        status, headers, body = await ask(
            cloud, "GET", "/instances", query=f"page_size={quote(number)}", headers={"x-api-key": ada.key}
        )
        check(status, headers, body)
        assert status == 400, number


async def test_the_last_of_a_repeated_query_counts(cloud: Cloud, ada: Person) -> None:
    for number in range(3):
        await ada.launch(name=f"i{number}")
    headers = {"x-api-key": ada.key}
    status, _, body = await ask(cloud, "GET", "/instances", query="page_size=1&page_size=2&unknown=x", headers=headers)
    assert (status, len(json.loads(body))) == (200, 2)
    many = "&".join(f"tag=t{number}" for number in range(65))
    assert (await ask(cloud, "GET", "/instances", query=many, headers=headers))[0] == 400
    assert (await ask(cloud, "GET", "/instances", query="&" * 10_000, headers=headers))[0] in (200, 400)


async def test_paths_that_are_no_text_are_refused(cloud: Cloud, ada: Person) -> None:
    headers = {"x-api-key": ada.key}
    for path in ("/instances/%ff", "/instances/%C3%28", "/instances/%00", "/%2e%2e/instances", "/instances/%ed%a0%80"):
        status, found, body = await ask(cloud, "GET", path, headers=headers)
        check(status, found, body)
        assert status in (400, 404), path
    status, found, body = await ask(cloud, "GET", "/" + "a/" * 5000, headers=headers)
    check(status, found, body)
    assert status == 404


async def test_a_method_that_a_path_does_not_take_is_told_which_it_does(cloud: Cloud, ada: Person) -> None:
    for verb, path, allowed in (
        ("DELETE", "/instances", "GET, POST"), ("POST", "/instances/x", "DELETE, GET, PATCH, PUT"),
        ("PATCH", "/auth/keys", "GET, POST"), ("POST", "/api/v1/health/live", "GET"),
        ("TRACE", "/tenants", "GET, POST"),
    ):  # fmt: skip
        status, headers, body = await ask(cloud, verb, path)
        check(status, headers, body)
        assert (status, headers["allow"]) == (405, allowed)
        assert json.loads(body)["error"]["code"] == "METHOD_NOT_ALLOWED"


async def test_a_path_with_a_slash_too_many_is_not_found(cloud: Cloud, ada: Person) -> None:
    for path in ("/instances/", "/health/live/", "/api/v1/tenants/", "//instances", "/api/v1//instances", "/"):
        status, headers, body = await ask(cloud, "GET", path, headers={"x-api-key": ada.key})
        check(status, headers, body)
        assert status == 404, path


async def test_a_request_id_cannot_carry_more_than_an_id(cloud: Cloud) -> None:
    for sane in ("abc", "a" * 128, "r-1_2.3:4"):
        assert (await ask(cloud, "GET", "/health/live", headers={"x-request-id": sane}))[1]["x-request-id"] == sane
    for odd in ("", " ", "a b", "a" * 129, "é", "a\tb", "a\x00"):
        found = (await ask(cloud, "GET", "/health/live", headers={"x-request-id": odd}))[1]["x-request-id"]
        assert re.fullmatch("[0-9a-f-]{32,36}", found), odd


# Over a socket


async def raw(address: str, data: bytes) -> bytes:
    """The answer to these bytes, until the server has no more to say."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_socket_may_say_anything(cloud: Cloud, ada: Person) -> None:
    key = f"X-API-Key: {ada.key}\r\n".encode()
    end = b"Host: cloud\r\nConnection: close\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    large = b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(40)) + b"0\r\n\r\n"
    conversations: list[tuple[bytes, tuple[bytes, ...]]] = [
        (b"GET /health/live HTTP/1.1\r\n" + end + b"\r\n", (b"200",)),
        (b"HEAD /health/live HTTP/1.1\r\n" + end + b"\r\n", (b"200",)),
        (b"GET /instances HTTP/1.0\r\n" + key + end + b"\r\n", (b"200",)),
        (b"POST /instances HTTP/1.1\r\n" + key + end + chunked + b"\r\n" + large, (b"413", b"")),
        (b"POST /instances HTTP/1.1\r\n" + key + end + chunked + b"\r\nzz\r\n", (b"400", b"")),
        (b"POST /instances HTTP/1.1\r\n" + key + end + b"Content-Length: x\r\n\r\n", (b"400",)),
        (b"POST /instances HTTP/1.1\r\n" + key + end + b"Content-Length: -1\r\n\r\n", (b"400",)),
        (b"POST /instances HTTP/1.1\r\n" + key + end + b"Content-Length: 2\r\n\r\n{}", (b"400",)),
        (b"GET /instances/\xff HTTP/1.1\r\n" + key + end + b"\r\n", (b"400", b"404")),
        (b"GET /instances?tag=\xff HTTP/1.1\r\n" + key + end + b"\r\n", (b"200", b"400")),
        (b"GET /health/live HTTP/1.1\r\nX: a\x00b\r\n" + end + b"\r\n", (b"400",)),
        (b"GET /health/live HTTP/1.1\r\nno colon\r\n" + end + b"\r\n", (b"400",)),
        (b"GET  HTTP/1.1\r\n\r\n", (b"400",)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (b"400", b"")),
        (b"nonsense\r\n\r\n", (b"400",)),
    ]
    http = server_app.listening("127.0.0.1:0")
    async with server_app.serving(cloud.app, http) as running:
        for said, expected in conversations:
            answer = await raw(running.http, said)
            assert answer.split(b" ")[1:2] in [[each] if each else [] for each in expected], (said[:80], answer[:200])
            assert b"Traceback" not in answer
        answer = await raw(running.http, b"HEAD /instances HTTP/1.1\r\n" + key + end + b"\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"content-length: 2" in head.lower()
        assert body == b""


async def test_bodies_that_come_with_their_heads_are_as_any_other(cloud: Cloud, ada: Person) -> None:
    """An upload in one piece is not read as a stream."""
    key, end = f"X-API-Key: {ada.key}\r\n".encode(), b"Host: cloud\r\nConnection: close\r\n"
    await ada.rest.post("/storage/buckets", json={"name": "assets"})
    path = b"PUT /storage/assets/a HTTP/1.1\r\n"
    form = b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nin a form\r\n--b--"
    kind = b"Content-Type: multipart/form-data; boundary=b\r\n"
    wrong = b"Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    async with server_app.serving(cloud.app, server_app.listening("127.0.0.1:0")) as running:
        for head, sent, status, there in (
            (path + key, b"at once", b"201", b"at once"),
            (path + key, b"", b"201", b""),
            (path + key + kind, form, b"201", form),  # an object may be a form
            (path + key + wrong, b"other", b"409", form),
            (path + key + b"Idempotency-Key: once\r\n", b"again", b"201", b"again"),
            (path + key + b"Idempotency-Key: once\r\n", b"again", b"201", b"again"),
            (path, b"nobody's", b"401", b"again"),
            (b"PUT /storage/absent/a HTTP/1.1\r\n" + key, b"nowhere", b"404", b"again"),
        ):
            length = f"Content-Length: {len(sent)}\r\n\r\n".encode()
            answer = await raw(running.http, head + end + length + sent)
            assert answer.split(b" ")[1] == status, answer
            assert (await ada.rest.get("/storage/assets/a")).content == there
    await cloud.settle()
    assert len(cloud.objects.blobs) == 1
