"""Rejects malformed messages (bytes that don't parse) like any other bad input.

With grpcio alone (seen with 1.85.1), the thread of a unary call with such bytes waits for ever, so enough of them take
every thread of the server. A stream ends with INTERNAL, and sometimes never ends, so that a drain waits for it. Here no
deserializer fails: it returns a marker, and the call is rejected on it, before the servicer runs or, in a stream, when
its loop reaches it. Calls to the product's own methods are rejected through the gate: they count towards their caller's
rate and appear in the metrics, the log and the audit log.
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
    """Marks a message that could not be parsed."""


class MalformedMessages(grpc.ServerInterceptor):
    """Rejects malformed messages to any service.

    Args:
        gate: rejects those to the product's own methods.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        # Cached: it is needed for every call, in the one thread that receives them all.
        self._wrapped = lru_cache(maxsize=128)(self._wrap)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[RequestT, ResponseT] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT] | None:
        """Wraps the handler of a call."""
        handler = continuation(handler_call_details)
        return None if handler is None else self._wrapped(handler, handler_call_details.method)

    def _wrap(
        self, handler: grpc.RpcMethodHandler[RequestT, ResponseT], path: str
    ) -> grpc.RpcMethodHandler[RequestT, ResponseT]:
        method = path.rpartition("/")[2]
        if not path.startswith(OURS):
            return _wrap_handler(handler, method, lambda context: _refuse(context, _malformed(method)))
        return _wrap_handler(handler, method, lambda context: self._gate.refuse(context, method, _malformed(method)))


def _wrap_handler(
    handler: grpc.RpcMethodHandler[RequestT, ResponseT], method: str, refuse: Refuse
) -> grpc.RpcMethodHandler[RequestT, ResponseT]:
    if handler.request_deserializer is None:
        return handler
    read = partial(_read, handler.request_deserializer)
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _check_first(handler.unary_unary, refuse),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _check_first(handler.unary_stream, refuse),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.stream_unary is not None:
        return grpc.stream_unary_rpc_method_handler(
            partial(_answer_once, method, handler.stream_unary),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            partial(_answer_stream, method, handler.stream_stream),
            request_deserializer=read,
            response_serializer=handler.response_serializer,
        )
    return handler


def _read(deserialize: Callable[[bytes], RequestT], content: bytes) -> RequestT:
    try:
        return deserialize(content)
    except DecodeError:
        return cast("RequestT", Malformed())  # only `_check_first` and `_messages` see it


def _check_first(
    answer: Callable[[RequestT, grpc.ServicerContext], AnswerT], refuse: Refuse
) -> Callable[[RequestT, grpc.ServicerContext], AnswerT]:
    """Returns a handler that rejects malformed messages and passes all others to `answer`."""

    # Health's watch takes one more argument, and declares that by an attribute.
    def checked(request: RequestT, context: grpc.ServicerContext, *more: object) -> AnswerT:
        if isinstance(request, Malformed):
            refuse(context)
        return answer(request, context, *more)

    return update_wrapper(checked, answer)


def _answer_once(
    method: str,
    answer: Callable[[Iterator[RequestT], grpc.ServicerContext], ResponseT],
    requests: Iterator[RequestT],
    context: grpc.ServicerContext,
) -> ResponseT:
    try:
        return answer(_messages(requests, method), context)
    except InvalidInput as error:
        _refuse(context, error)
        raise


def _answer_stream(
    method: str,
    answer: Callable[[Iterator[RequestT], grpc.ServicerContext], Iterator[ResponseT]],
    requests: Iterator[RequestT],
    context: grpc.ServicerContext,
) -> Iterator[ResponseT]:
    try:
        yield from answer(_messages(requests, method), context)
    except InvalidInput as error:  # the product's own servicers have turned it into a status by now
        _refuse(context, error)


def _messages(requests: Iterator[RequestT], method: str) -> Iterator[RequestT]:
    for request in requests:
        if isinstance(request, Malformed):
            raise _malformed(method)
        yield request


def _malformed(method: str) -> InvalidInput:
    return InvalidInput(f"The request body is not a valid message for {method}.", reason="MESSAGE_MALFORMED")


def _refuse(context: grpc.ServicerContext, error: InvalidInput) -> None:
    context.abort_with_status(abort_status(status_of(error), ()))
