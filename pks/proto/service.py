"""A service of a .proto file as grpc wants it: its calls on a channel, its handlers for a server, made of the descriptor.

The code that grpc's own plugin makes imports messages as the top-level package of the .proto file, which would be this very package; so
there is none of it. Owns paths and shapes of calls; knows no server, no token and no message. Asyncio or not is the channel's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass


def path_of(method: MethodDescriptor) -> str:
    """As it stands in a request: /pks.v1.Service/Method."""
    return f"/{method.containing_service.full_name}/{method.name}"


class Stub:
    """The calls of a service on a channel (grpc or grpc.aio), by name: `Stub(channel, SERVICE).GetPosition(request, timeout=1)`."""

    def __init__(self, channel: Any, service: ServiceDescriptor) -> None:
        for method in service.methods:
            assert not method.client_streaming, f"{method.name}: no call of ours streams from the client"
            shape = channel.unary_stream if method.server_streaming else channel.unary_unary
            response = GetMessageClass(method.output_type)
            call = shape(path_of(method), request_serializer=_encoded, response_deserializer=response.FromString)
            self.__dict__[method.name] = call

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no call {name!r}")


def handlers(service: ServiceDescriptor, calls: Mapping[str, Callable[..., Any]]) -> Any:
    """A generic handler for a server. calls: name -> coroutine function (request, context); it may answer bytes in place of a message."""
    assert calls.keys() == {method.name for method in service.methods}, "each call of the service has its function"
    made = {}
    for method in service.methods:
        shape = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        request = GetMessageClass(method.input_type)
        made[method.name] = shape(calls[method.name], request_deserializer=request.FromString, response_serializer=_encoded)
    return grpc.method_handlers_generic_handler(service.full_name, made)


def _encoded(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())
