"""bench.EchoService, which is in no proto of the product: its descriptor is made here.

service EchoService {
  rpc Echo(EchoMessage) returns (EchoMessage) {
    option (thecloud.v1.rule) = {permission: "instance:read" live: true};
  }
}
message EchoMessage {
  string text = 1 [(buf.validate.field).string = {min_len: 1 max_len: 256}];
  int32 number = 2 [(buf.validate.field).int32 = {gte: 0 lte: 1000}];
}
"""

from typing import Any

from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from thecloud.v1 import options_pb2

METHOD = "/bench.EchoService/Echo"
FIELD = descriptor_pb2.FieldDescriptorProto


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="bench/echo.proto", package="bench", syntax="proto3",
        dependency=[options_pb2.DESCRIPTOR.name, validate_pb2.DESCRIPTOR.name],
    )  # fmt: skip
    message = file.message_type.add(name="EchoMessage")
    text = message.field.add(name="text", number=1, type=FIELD.TYPE_STRING, label=FIELD.LABEL_OPTIONAL)
    number = message.field.add(name="number", number=2, type=FIELD.TYPE_INT32, label=FIELD.LABEL_OPTIONAL)
    rules = validate_pb2.field
    text.options.Extensions[rules].string.MergeFrom(validate_pb2.StringRules(min_len=1, max_len=256))  # type: ignore[index]
    number.options.Extensions[rules].int32.MergeFrom(validate_pb2.Int32Rules(gte=0, lte=1000))  # type: ignore[index]
    service = file.service.add(name="EchoService")
    method = service.method.add(name="Echo", input_type=".bench.EchoMessage", output_type=".bench.EchoMessage")
    rule = options_pb2.Rule(permission="instance:read", live=True)
    method.options.Extensions[options_pb2.rule].CopyFrom(rule)  # type: ignore[index]
    return file


descriptor_pool.Default().Add(_file())
SERVICE: ServiceDescriptor = descriptor_pool.Default().FindServiceByName("bench.EchoService")
EchoMessage: Any = GetMessageClass(SERVICE.methods_by_name["Echo"].input_type)


def message() -> Any:
    """What is sent and comes back."""
    return EchoMessage(text="web-01 runs nginx", number=7)


class EchoService:
    async def Echo(self, call: Any, request: Any) -> Any:
        return request
