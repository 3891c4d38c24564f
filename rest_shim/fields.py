"""What the codec asks of descriptors."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

WRAPPERS = "google/protobuf/wrappers.proto"
NULL = "google.protobuf.NullValue"
KINDS = {
    FieldDescriptor.CPPTYPE_INT32: "int32",
    FieldDescriptor.CPPTYPE_INT64: "int64",
    FieldDescriptor.CPPTYPE_UINT32: "uint32",
    FieldDescriptor.CPPTYPE_UINT64: "uint64",
    FieldDescriptor.CPPTYPE_FLOAT: "float",
    FieldDescriptor.CPPTYPE_DOUBLE: "double",
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_STRING: "string",
}


def made_once(make: Callable[[Descriptor], Callable[..., Any]]) -> Callable[[Descriptor], Callable[..., Any]]:
    """`make`, called once for each descriptor. A message may be a part of itself: what needs the function while it
    is still being made gets one that looks it up when it is called."""
    made: dict[Descriptor, Callable[..., Any]] = {}

    def get(descriptor: Descriptor) -> Callable[..., Any]:
        if descriptor not in made:
            made[descriptor] = lambda *arguments: made[descriptor](*arguments)
            made[descriptor] = make(descriptor)
        return made[descriptor]

    return get


def kind_of(field: FieldDescriptor) -> str:
    """The type of a field that is neither a message nor an enum, without its encoding: "int64" of a sfixed64."""
    return "bytes" if field.type == FieldDescriptor.TYPE_BYTES else KINDS[field.cpp_type]


def map_entry(field: FieldDescriptor) -> Descriptor | None:
    """The message of a key and a value, when the field is a map."""
    return field.message_type if field.message_type and field.message_type.GetOptions().map_entry else None
