"""The codec against json_format, over our messages, the well-known ones, and one with a field of every kind."""

import base64
import json
from datetime import UTC, datetime, timedelta
from math import isnan, nan
from typing import Any

import orjson
import pytest
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thecloud.v1 import errors_pb2, health_pb2, identity_pb2, instance_types_pb2, instances_pb2, tenants_pb2

from rest_shim import decoding, encoding
from server import enums

FILES = [errors_pb2, health_pb2, identity_pb2, instance_types_pb2, instances_pb2, tenants_pb2]
OURS: list[Descriptor] = [message for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values()]
WELL_KNOWN: list[Any] = [
    *(m.DESCRIPTOR for m in (any_pb2.Any, duration_pb2.Duration, empty_pb2.Empty, field_mask_pb2.FieldMask)),
    *(m.DESCRIPTOR for m in (struct_pb2.Struct, struct_pb2.ListValue, struct_pb2.Value, timestamp_pb2.Timestamp)),
    *wrappers_pb2.DESCRIPTOR.message_types_by_name.values(),
]
KEYS = ["int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64"]
KEYS += ["bool", "string"]
SCALARS = [*KEYS, "double", "float", "bytes"]
Proto = descriptor_pb2.FieldDescriptorProto


def every_kind() -> Descriptor:
    """A message with a field of every kind, itself included."""
    file = descriptor_pb2.FileDescriptorProto(name="codec_test.proto", package="codec_test", syntax="proto3")
    for name in ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers"):
        file.dependency.append(f"google/protobuf/{name}.proto")
    colour = file.enum_type.add(name="Colour")
    for number, name in ((0, "COLOUR_UNSPECIFIED"), (1, "COLOUR_RED"), (-3, "COLOUR_DEEP_BLUE")):
        colour.value.add(name=name, number=number)
    message = file.message_type.add(name="Every")

    def add(name: str, kind: str, label: int = Proto.LABEL_OPTIONAL, optional: bool = False) -> Any:
        field = message.field.add(name=name, number=len(message.field) + 1, label=label)
        typed(field, kind)
        if optional:
            field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")
        return field

    def typed(field: Any, kind: str) -> None:
        if kind in SCALARS:
            field.type = Proto.Type.Value(f"TYPE_{kind.upper()}")
        else:
            field.type = Proto.TYPE_ENUM if kind.endswith(("Colour", "NullValue")) else Proto.TYPE_MESSAGE
            field.type_name = kind

    def add_map(name: str, key: str, value: str) -> None:
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for number, (part, kind) in enumerate((("key", key), ("value", value)), 1):
            typed(entry.field.add(name=part, number=number, label=Proto.LABEL_OPTIONAL), kind)
        add(name, f".codec_test.Every.{entry.name}", Proto.LABEL_REPEATED)

    message.oneof_decl.add(name="choice")
    for name, kind in (("choice_text", "string"), ("choice_number", "int64"), ("choice_child", ".codec_test.Every")):
        add(name, kind).oneof_index = 0
    kinds = {f"a_{kind}": kind for kind in SCALARS} | {"a_colour": ".codec_test.Colour"}
    for name, kind in kinds.items():
        add(name, kind)
        add(f"maybe_{name}", kind, optional=True)
        add(f"many_{name}", kind, Proto.LABEL_REPEATED)
        add_map(f"to_{name}", "string", kind)
    for kind in KEYS:
        add_map(f"by_{kind}", kind, "string")
    for name in ("Every", *(descriptor.full_name for descriptor in WELL_KNOWN)):
        kind = "." + ("codec_test.Every" if name == "Every" else name)
        short = name.rpartition(".")[2].lower()
        add(f"one_{short}", kind)
        add(f"many_{short}", kind, Proto.LABEL_REPEATED)
        add_map(f"to_{short}", "string", kind)
    add("nothing", ".google.protobuf.NullValue")
    add("from", "string")
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    found: Descriptor = descriptor_pool.Default().FindMessageTypeByName("codec_test.Every")
    return found


EVERY = every_kind()
new_every: Any = GetMessageClass(EVERY)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["1", "RUNNING", "AA==", "1s"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.just("@type"), inner, max_size=4),
    max_leaves=12,
)
few = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
}


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field that is not a message."""
    if field.enum_type:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=5)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        numbers = st.floats(width=32 if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else 64)
        return numbers.map(lambda number: nan if isnan(number) else number)  # JSON has one NaN, binary has many
    return {FieldDescriptor.CPPTYPE_BOOL: st.booleans(), FieldDescriptor.CPPTYPE_STRING: TEXT, **INTEGERS}[
        field.cpp_type
    ]


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """Any message of the type, with a handful of its fields set."""
    message = GetMessageClass(descriptor)()
    fill(draw, message, 0)
    return message


def fill(draw: st.DrawFn, message: Any, depth: int) -> None:
    descriptor = message.DESCRIPTOR
    name = descriptor.full_name.removeprefix("google.protobuf.")
    if name == "Timestamp":
        message.seconds = draw(st.integers(-62135596800, 253402300799))
        message.nanos = draw(st.integers(0, 10**9 - 1) | st.integers(0, 999).map(lambda n: n * 10**6) | st.just(1000))
    elif name == "Duration":
        message.FromNanoseconds(
            draw(st.integers(-(10**18), 10**18) | st.integers(-5000, 5000).map(lambda n: n * 10**6))
        )
    elif name == "FieldMask":
        message.paths.extend(draw(st.lists(st.from_regex(r"[a-z]+(_[a-z]+)*(\.[a-z]+)?", fullmatch=True), max_size=3)))
    elif name == "Any":
        inside = draw(messages(draw(st.sampled_from([*OURS[:20], WELL_KNOWN[1], WELL_KNOWN[4], WELL_KNOWN[-1]]))))
        message.Pack(inside, deterministic=True)
    elif name in ("Value", "Struct", "ListValue"):
        leaves = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
        inner = st.recursive(
            leaves, lambda s: st.lists(s, max_size=3) | st.dictionaries(TEXT, s, max_size=3), max_leaves=5
        )
        wanted: dict[str, st.SearchStrategy[Any]] = {"Value": inner, "ListValue": st.lists(inner)}
        wanted["Struct"] = st.dictionaries(TEXT, inner)
        json_format.ParseDict(draw(wanted[name]), message)
    else:
        fields = list(descriptor.fields)
        chosen = fields if len(fields) < 30 else draw(st.lists(st.sampled_from(fields), max_size=8, unique=True))
        for field in chosen:
            if draw(st.booleans()) or len(chosen) < len(fields):
                fill_field(draw, message, field, depth)


def fill_field(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    entry: Any = field.message_type if field.message_type and field.message_type.GetOptions().map_entry else None
    if entry:
        value = entry.fields_by_name["value"]
        for key in draw(st.lists(values(entry.fields_by_name["key"]), max_size=2)):
            if not value.message_type:
                getattr(message, field.name)[key] = draw(values(value))
            elif depth < 2:
                fill(draw, getattr(message, field.name)[key], depth + 1)
    elif field.message_type:
        if depth < 2 and field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                fill(draw, getattr(message, field.name).add(), depth + 1)
        elif depth < 2:
            getattr(message, field.name).SetInParent()
            fill(draw, getattr(message, field.name), depth + 1)
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(values(field), max_size=3)))
    else:
        setattr(message, field.name, draw(values(field)))


ANY_MESSAGE = st.sampled_from([*OURS, *WELL_KNOWN, *[EVERY] * 30]).flatmap(messages)


def documented(descriptor: Descriptor, data: Any) -> Any:
    """What json_format wrote, with 64-bit integers as numbers and enum values spelt as documented."""
    if descriptor.file.name.endswith("wrappers.proto"):
        return documented_value(descriptor.fields[0], data)
    if descriptor.full_name == "google.protobuf.Any" and data:
        inside = descriptor_pool.Default().FindMessageTypeByName(data["@type"].rpartition("/")[2])
        if "value" in data and inside in WELL_KNOWN:
            return data | {"value": documented(inside, data["value"])}
        return {"@type": data["@type"]} | documented(inside, {k: v for k, v in data.items() if k != "@type"})
    if descriptor in WELL_KNOWN:
        return data
    out: dict[str, Any] = {}
    for name, value in data.items():
        field = descriptor.fields_by_name[name]
        entry = field.message_type
        if entry and entry.GetOptions().map_entry:
            out[name] = {key: documented_value(entry.fields_by_name["value"], item) for key, item in value.items()}
        elif field.is_repeated:
            out[name] = [documented_value(field, item) for item in value]
        else:
            out[name] = documented_value(field, value)
    return out


def documented_value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type:
        return documented(field.message_type, value)
    if field.enum_type and isinstance(value, str):
        return enums.spellings(field.enum_type)[field.enum_type.values_by_name[value].number]
    return int(value) if field.cpp_type in INTEGERS else value


def oracle(message: Message) -> Any:
    descriptor: Any = message.DESCRIPTOR
    return documented(
        descriptor,
        json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True),
    )


def decode(message: Message, data: Any) -> Message:
    descriptor: Any = message.DESCRIPTOR
    decoded: Message = decoding.decoder(descriptor)(data)
    return decoded


@few
@given(ANY_MESSAGE)
def test_a_message_is_written_as_json_format_writes_it(message: Message) -> None:
    assert json.loads(encoding.dumps(message)) == oracle(message)


@few
@given(ANY_MESSAGE)
def test_what_is_written_reads_back_as_the_same_message(message: Message) -> None:
    again = decode(message, json.loads(encoding.dumps(message)))
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@few
@given(ANY_MESSAGE)
def test_what_json_format_writes_reads_the_same(message: Message) -> None:
    again = decode(message, json_format.MessageToDict(message))
    assert again.SerializeToString(deterministic=True) == message.SerializeToString(deterministic=True)


@few
@given(st.sampled_from([*OURS, *WELL_KNOWN, EVERY]), JSON)
def test_any_json_is_read_or_malformed(descriptor: Descriptor, data: Any) -> None:
    try:
        decoding.decoder(descriptor)(data).SerializeToString()
    except decoding.Malformed as malformed:
        assert malformed.message


@settings(few, max_examples=400)
@given(st.sampled_from([descriptor for descriptor in (*OURS, *[EVERY] * 40) if descriptor.fields]), st.data())
def test_any_json_in_a_known_field_is_read_or_malformed(descriptor: Descriptor, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(list(descriptor.fields)))
    value = data.draw(JSON | st.lists(JSON, max_size=3) | st.dictionaries(st.text(), JSON, max_size=3))
    try:
        decoding.decoder(descriptor)({field.name: value}).SerializeToString()
    except decoding.Malformed as malformed:
        assert malformed.path.startswith(field.name)


@few
@given(st.sampled_from(list(EVERY.fields)), st.text())
def test_any_text_is_a_scalar_or_malformed(field: FieldDescriptor, text: str) -> None:
    try:
        decoding.scalar(field, text)
    except decoding.Malformed as malformed:
        assert malformed.path == field.name


def nested(levels: int, wrap: Any) -> Any:
    data = None
    for _ in range(levels):
        data = wrap(data)
    return data


@pytest.mark.parametrize(
    ("levels", "wrap"),
    [
        (50, lambda inner: {"one_listvalue": [inner]}),
        (5000, lambda inner: {"one_every": inner}),
        (5000, lambda inner: {"many_every": [inner or {}]}),
        (5000, lambda inner: {"to_every": {"a": inner or {}}}),
        (5000, lambda inner: {"one_any": {"@type": "x/google.protobuf.Any", "value": inner}}),
        (5000, lambda inner: {"one_struct": {"a": inner}}),
    ],
)
def test_nesting_is_read_or_malformed_however_deep(levels: int, wrap: Any) -> None:
    for depth in (*range(20, 120, 9), levels):
        try:
            decoded = decoding.decoder(EVERY)(nested(depth, wrap))
        except decoding.Malformed:
            continue
        assert new_every.FromString(decoded.SerializeToString()) == decoded


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: [{"a": inner}]])
def test_free_form_json_is_read_as_deep_as_binary_can_hold_it(wrap: Any) -> None:
    decoder: Any = decoding.decoder(WELL_KNOWN[6])
    for depth in range(1, 33):
        value = decoder(nested(depth, wrap) if depth < 17 else nested(16, wrap))
        assert struct_pb2.Value.FromString(value.SerializeToString()) == value
    with pytest.raises(decoding.Malformed, match="nested too deeply"):
        decoder(nested(5000, wrap))


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ([], "", "an object is wanted, not a list"),
        (None, "", "an object is wanted, not null"),
        ({"name": 7}, "name", "a string is wanted, not a number"),
        ({"name": False}, "name", "a string is wanted, not a boolean"),
        ({"volumes": [{"mount_path": {}}]}, "volumes[0].mount_path", "a string is wanted, not an object"),
        ({"volumes": [{}, {"mountPath": []}]}, "volumes[1].mountPath", "a string is wanted, not a list"),
        ({"volumes": [{}, None]}, "volumes[1]", "an object is wanted, not null"),
        ({"volumes": {}}, "volumes", "a list is wanted, not an object"),
        ({"env": ["A=1", None]}, "env[1]", "a string is wanted, not null"),
        ({"labels": {"tier": 1}}, 'labels["tier"]', "a string is wanted, not a number"),
        ({"labels": ["tier"]}, "labels", "an object is wanted, not a list"),
        ({"name": "\ud800"}, "name", "a string of whole characters is wanted, not half of a surrogate pair"),
    ],
)
def test_an_error_says_where_and_what_is_wanted(data: Any, path: str, message: str) -> None:
    with pytest.raises(decoding.Malformed) as caught:
        decoding.decoder(instances_pb2.CreateInstanceRequest.DESCRIPTOR)(data)
    assert (caught.value.path, caught.value.message) == (path, message)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({"a_int32": 2**31}, "a_int32: a whole number from -2147483648 to 2147483647 is wanted"),
        ({"a_uint64": -1}, "a_uint64: a whole number from 0 to 18446744073709551615 is wanted"),
        ({"a_uint32": 1.5}, "a_uint32: a whole number from 0 to 4294967295 is wanted"),
        ({"a_int64": True}, "a_int64: a whole number .* is wanted, not a boolean"),
        ({"a_int64": " 1"}, "a_int64: a whole number .* is wanted, not a string"),
        ({"a_int64": "9" * 5000}, "a_int64: a whole number"),
        ({"a_bool": "true"}, "a_bool: true or false is wanted, not a string"),
        ({"a_bool": 1}, "a_bool: true or false is wanted, not a number"),
        ({"a_float": 1e39}, "a_float: a smaller number is wanted"),
        ({"a_double": 10**400}, "a_double: a smaller number is wanted"),
        ({"a_double": "1_0"}, "a_double: a number is wanted, not a string"),
        ({"a_bytes": "a"}, "a_bytes: a string in base64 is wanted"),
        ({"a_bytes": "é"}, "a_bytes: a string in base64 is wanted"),
        ({"a_colour": "GREEN"}, "a_colour: one of UNSPECIFIED, RED, DEEP_BLUE is wanted"),
        ({"a_colour": 2}, "a_colour: one of UNSPECIFIED, RED, DEEP_BLUE is wanted"),
        ({"one_timestamp": "2026-02-30T00:00:00Z"}, "one_timestamp: a moment such as"),
        ({"one_timestamp": "2026-02-03T00:00:00"}, "one_timestamp: a moment such as"),
        ({"one_timestamp": "0001-01-01T00:00:00+01:00"}, "one_timestamp: a moment of the years 1 to 9999 is wanted"),
        ({"one_duration": "1"}, "one_duration: a duration in seconds"),
        ({"one_duration": "315576000001s"}, "one_duration: a duration in seconds"),
        ({"one_any": {"a": 1}}, "one_any.@type: a string is wanted, not null"),
        ({"one_any": {"@type": "x/no.such"}}, "one_any.@type: the name of a known message type is wanted"),
        ({"one_struct": {"a": [1, float("nan")]}}, r'one_struct\["a"\]\[1\]: a smaller number is wanted'),
        ({"to_a_bool": {"a": "yes"}}, r'to_a_bool\["a"\]: true or false is wanted'),
        ({"by_int32": {"x": "yes"}}, r'by_int32\["x"\]: a whole number'),
        ({"by_bool": {"1": "yes"}}, r'by_bool\["1"\]: true or false is wanted'),
        ({"choice_text": "a", "choiceNumber": 1}, "choiceNumber: only one of choice_text, choice_number, choice_child"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(data: Any, wanted: str) -> None:
    with pytest.raises(decoding.Malformed, match=wanted):
        decoding.decoder(EVERY)(data)


@pytest.mark.parametrize(
    ("data", "name", "value"),
    [
        ({"a_int32": 3.0}, "a_int32", 3),
        ({"aInt64": "-12"}, "a_int64", -12),
        ({"a_double": "1.5e3"}, "a_double", 1500.0),
        ({"a_float": 3.4028235e38}, "a_float", float.fromhex("0x1.fffffep+127")),
        ({"a_float": "-Infinity"}, "a_float", float("-inf")),
        ({"a_bytes": "-_8"}, "a_bytes", b"\xfb\xff"),
        ({"a_bytes": "+/8="}, "a_bytes", b"\xfb\xff"),
        ({"a_colour": "red"}, "a_colour", 1),
        ({"a_colour": "COLOUR_DEEP_BLUE"}, "a_colour", -3),
        ({"a_colour": -3.0}, "a_colour", -3),
        ({"a_string": None, "no_such": {"a": 1}}, "a_string", ""),
        ({"many_a_string": None, "to_a_string": None, "one_every": None}, "many_a_string", []),
        ({"choice_text": None, "choice_number": 4}, "choice_number", 4),
    ],
)
def test_what_is_meant_is_understood(data: Any, name: str, value: Any) -> None:
    assert getattr(decoding.decoder(EVERY)(data), name) == value


def test_a_moment_may_have_an_offset_and_nine_digits() -> None:
    moment = decoding.decoder(WELL_KNOWN[7])("2026-01-06T01:30:00.120000001+02:30")
    assert moment.ToJsonString() == "2026-01-05T23:00:00.120000001Z"


def test_a_mask_may_be_written_in_either_style() -> None:
    assert decoding.decoder(WELL_KNOWN[3])("mountPath,status_message").paths == ["mount_path", "status_message"]


def test_absent_and_empty_are_told_apart() -> None:
    empty = {"env": [], "labels": {}, "name": "", "reconciling": False, "version": 0, "status": "UNSPECIFIED"}
    written = orjson.loads(encoding.dumps(instances_pb2.Instance(vpc_id="")))
    assert {name: written[name] for name in empty} == empty
    assert written["vpc_id"] == ""
    assert "subnet_id" not in written and "created_at" not in written


def test_a_number_without_a_name_is_written_as_the_number() -> None:
    message = instances_pb2.Instance()
    message.MergeFromString(b"\x28\x63")
    assert orjson.loads(encoding.dumps(message))["status"] == 99


def test_enum_values_have_their_documented_spelling() -> None:
    assert enums.spellings(instances_pb2.Instance.State.DESCRIPTOR)[2] == "RUNNING"
    assert enums.spellings(tenants_pb2.Role.DESCRIPTOR)[1] == "owner"
    for name in ("owner", "OWNER", "ROLE_OWNER"):
        assert enums.numbers(tenants_pb2.Role.DESCRIPTOR)[name] == 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("a_bool", "True", True),
        ("a_bool", "1", True),
        ("a_bool", "0", False),
        ("a_int64", "-5", -5),
        ("a_double", "2.5", 2.5),
        ("a_string", "5", "5"),
        ("a_bytes", base64.b64encode(b"ab").decode(), b"ab"),
        ("a_colour", "red", 1),
        ("a_colour", "-3", -3),
        ("many_a_int32", "7", 7),
        ("one_timestamp", "2026-01-05T23:00:00Z", datetime(2026, 1, 5, 23, tzinfo=UTC)),
        ("one_duration", "-1.5s", timedelta(seconds=-1.5)),
    ],
)
def test_a_text_gives_a_value_that_can_be_assigned(name: str, text: str, value: Any) -> None:
    field, message = EVERY.fields_by_name[name], new_every()
    found = decoding.scalar(field, text)
    assert found == value
    if field.is_repeated:
        getattr(message, name).append(found)
    else:
        setattr(message, name, found)


@pytest.mark.parametrize(
    ("name", "text"), [("a_bool", "yes"), ("a_int32", "x"), ("a_colour", "9"), ("one_every", "{}")]
)
def test_a_text_that_does_not_fit_is_refused(name: str, text: str) -> None:
    with pytest.raises(decoding.Malformed, match=name):
        decoding.scalar(EVERY.fields_by_name[name], text)
