"""Bytes that are no message of their method: refused as bad input is.

Left to grpcio (seen with 1.85.1), the thread of a unary call with such bytes waits for ever, and so many of them take
every thread of the server; a stream ends with INTERNAL, and now and then is never ended, so that a drain waits for it.
So no deserializer fails here: it leaves a mark, and the call is refused on it, before the servicer runs or, on a
stream, where its loop comes to it. The product's own methods refuse it by the gate, as any other bad input: it counts
towards its caller's rate, and is counted, logged and noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial, update_wrapper
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from twinsight_core.errors import InvalidInput
from twinsight_server.calls.gate import OURS, Gate
from twinsight_server.status import abort_status, status_of

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")
AnswerT = TypeVar("AnswerT")

Refuse = Callable[[grpc.ServicerContext], None]


class Malformed:
    """Stands for bytes that are no message."""


class MalformedMessages(grpc.ServerInterceptor):
    """Refuses them, whatever the service.

    Args:
        gate: refuses those to the product's own methods.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        # Kept, since it is asked for at every call, in the one thread that takes them all.
        self._wrapped = lru_cache(maxsize=128)(self._wrap)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Wraps what answers a call."""
        handler = continuation(handler_call_details)
        return None if handler is None else self._wrapped(handler, handler_call_details.method)

    def _wrap(
        self, handler: grpc.RpcMethodHandler[RequestT, ResponseT], path: str
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT]:
        if not path.startswith(OURS):
            return _wrapped(handler, lambda context: _refuse(context, _malformed()))
        method = path.rpartition("/")[2]
        return _wrapped(handler, lambda context: self._gate.refuse(context, method, _malformed()))


def _wrapped(
    handler: grpc.RpcMethodHandler[RequestT, ResponseT], refuse: Refuse
) -> grpc.RpcMethodHandler[RequestT, ResponseT]:
    if handler.request_deserializer is None:
        return handler
    read = partial(_read, handler.request_deserializer)
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _checked(handler.unary_unary, refuse),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _checked(handler.unary_stream, refuse),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.stream_unary is not None:
        return grpc.stream_unary_rpc_method_handler(
            partial(_one_answer, handler.stream_unary),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            partial(_answered, handler.stream_stream),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    return handler


def _read(deserialize: Callable[[bytes], RequestT], content: bytes) -> RequestT:
    try:
        return deserialize(content)
    except DecodeError:
        return cast("RequestT", Malformed())  # for `_checked` and `_messages` alone


def _checked(
    answer: Callable[[RequestT, grpc.ServicerContext], AnswerT], refuse: Refuse
) -> Callable[[RequestT, grpc.ServicerContext], AnswerT]:
    """Returns what refuses bytes that are no message, and leaves the rest to `answer`."""

    # Health's watch takes more than others do, and says so by an attribute.
    def checked(request: RequestT, context: grpc.ServicerContext, *more: object) -> AnswerT:
        if isinstance(request, Malformed):
            refuse(context)
        return answer(request, context, *more)

    return update_wrapper(checked, answer)


def _one_answer(
    answer: Callable[[Iterator[RequestT], grpc.ServicerContext], ResponseT],
    requests: Iterator[RequestT],
    context: grpc.ServicerContext,
) -> ResponseT:
    try:
        return answer(_messages(requests), context)
    except InvalidInput as error:
        _refuse(context, error)
        raise


def _answered(
    answer: Callable[[Iterator[RequestT], grpc.ServicerContext], Iterator[ResponseT]],
    requests: Iterator[RequestT],
    context: grpc.ServicerContext,
) -> Iterator[ResponseT]:
    try:
        yield from answer(_messages(requests), context)
    except InvalidInput as error:  # the product's own servicers have turned it into a status by now
        _refuse(context, error)


def _messages(requests: Iterator[RequestT]) -> Iterator[RequestT]:
    for request in requests:
        if isinstance(request, Malformed):
            raise _malformed()
        yield request


def _malformed() -> InvalidInput:
    return InvalidInput("The call has bytes that are no message of its method.", reason="MESSAGE_MALFORMED")


def _refuse(context: grpc.ServicerContext, error: InvalidInput) -> None:
    context.abort_with_status(abort_status(status_of(error), ()))
