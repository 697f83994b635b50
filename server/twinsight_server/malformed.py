"""Bytes that are no message of their stream's method: refused as bad input is.

Left to grpcio, such a stream ends with INTERNAL from the thread that receives, a traceback goes to the log, and now and
then the call is never ended (seen with 1.85.1: a few of a hundred), so that its state stays for ever and a drain waits
for it. So the streams' deserializers don't fail: they leave a mark, on which the servicer's loop raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from twinsight_core.errors import InvalidInput

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_OURS = "/twinsight."


class Malformed:
    """Stands for bytes that are no message."""


class MalformedMessages(grpc.ServerInterceptor):
    """Refuses them on the product's own streams."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Wraps what answers a stream."""
        handler = continuation(handler_call_details)
        if (
            handler is None
            or not handler.request_streaming
            or handler.stream_stream is None
            or handler.request_deserializer is None
            or not handler_call_details.method.startswith(_OURS)
        ):
            return handler
        return grpc.stream_stream_rpc_method_handler(
            partial(_answered, handler.stream_stream),
            request_deserializer=partial(read_message, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )


def read_message(deserialize: Callable[[bytes], RequestT], content: bytes) -> RequestT:
    """Reads a message; `Malformed` stands for one that is none."""
    try:
        return deserialize(content)
    except DecodeError:
        return cast("RequestT", Malformed())  # for those alone who look for it


def _answered(
    answer: Callable[[Iterator[RequestT], grpc.ServicerContext], Iterator[ResponseT]],
    requests: Iterator[RequestT],
    context: grpc.ServicerContext,
) -> Iterator[ResponseT]:
    return answer(_messages(requests), context)


def _messages(requests: Iterator[RequestT]) -> Iterator[RequestT]:
    for request in requests:
        if isinstance(request, Malformed):
            raise InvalidInput("The stream has bytes that are no message of its method.", reason="MESSAGE_MALFORMED")
        yield request
