"""The life cycle of a call: accepted or rejected, identified, timed, answered, counted and logged.

1. `Gate.call` rejects calls while the server starts or drains, unknown callers, missing rights (`access`), and calls
   beyond the caller's share or `max_calls`. It does so at once, and says when to retry if load is the reason. A message
   of a stream waits for its turn instead; meanwhile the stream is not read, which holds its caller back. A stream that
   finds no place waits a moment if others end for it because their tokens are no longer valid.
2. The call gets its request id (the client's `x-request-id`, or a new one), its deadline, and notice of cancellation.
3. The servicer does the work; stages record their times in the call.
4. A `TwinsightError` becomes its status with details; anything else becomes INTERNAL with fixed text and a log line
   with the traceback.
5. Request id and stage times are sent in the trailing metadata; metrics, one log line and the audit log are written.
   They are written for each message of a stream, too, when it ends: a stream may be open for days.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import grpc
import structlog
from google.rpc import status_pb2

from twinsight_core.errors import Cancelled, Overloaded, TwinsightError, Unauthenticated, Unavailable
from twinsight_server.access.audit import About
from twinsight_server.access.control import AccessControl
from twinsight_server.access.guard import Metadata
from twinsight_server.access.methods import Rule
from twinsight_server.access.principals import ANYONE, Principal, Unproven
from twinsight_server.calls.call import Call, drop_tracebacks
from twinsight_server.calls.invocation import deadline_of, request_id_of
from twinsight_server.calls.open_streams import OpenStreams
from twinsight_server.calls.slots import Slots
from twinsight_server.metrics import Metrics
from twinsight_server.status import abort_status, code_of, internal, status_of

_RETRY_AFTER_S = 0.1
"""A call takes tens of milliseconds: an earlier retry would be rejected again, a later one would leave the server
idle."""

_ENDING_S = 1.0
"""A stream that is ended gives back its place within milliseconds."""

OURS = "/twinsight."
"""Path prefix of the product's own methods, whose calls go through the gate."""

_LOGGER = "twinsight.calls"
log = structlog.stdlib.get_logger(_LOGGER)
_plain_log = logging.getLogger(_LOGGER)


class Gate:
    """Accepts and rejects calls."""

    def __init__(
        self, metrics: Metrics, *, max_calls: int, max_streams: int, access: AccessControl | None = None
    ) -> None:
        self._metrics = metrics
        self._access = access or AccessControl()
        self._calls = Slots(max_calls)
        self._streams = Slots(max_streams)
        metrics.watch_calls(lambda: self._calls.taken, lambda: self._streams.taken)
        self._closed = "STARTING"  # why calls are rejected; empty: they are accepted
        self._opened = OpenStreams[Call]()
        # A set's `add` and `discard` are atomic, which saves every call a lock.
        self._in_flight: set[Call] = set()
        self._drained = threading.Event()

    def open(self) -> None:
        """Accepts calls from now on."""
        self._closed = ""

    def close(self) -> None:
        """Rejects new calls and ends the streams: idle ones at once, the others after their current message."""
        self._closed = "DRAINING"
        self._opened.end_idle()
        if not self._in_flight:
            self._drained.set()

    def wait_drained(self, timeout_s: float) -> bool:
        """Waits, once closed, until the last response has left; returns whether it has."""
        return self._drained.wait(timeout_s)

    @property
    def takes_calls(self) -> bool:
        """Whether a call that arrives now would be processed."""
        return not (self._closed or self._calls.are_taken)

    def knows(self, metadata: Metadata) -> bool:
        """Whether a digest is enough to identify the caller: the thread that receives calls has no time for more."""
        return self._access.guard.knows(metadata)

    def turn_away(self, context: grpc.ServicerContext, method: str) -> NoReturn:
        """Rejects a unary call that arrived while none is accepted, without reading its message.

        Args:
            context: gRPC's; the call ends by its `abort_with_status`.
            method: its name.
        """
        with self._answered(context, About("call", method)):
            raise self._refused(self._full("CALLS_FULL"))
        raise AssertionError("the context has raised")

    @contextmanager
    def call(
        self, context: grpc.ServicerContext, method: str, *, collection: str | None = None, items: int = 0
    ) -> Iterator[Call]:
        """Runs a unary call; ends it by `context.abort_with_status` if it fails.

        Args:
            context: gRPC's.
            method: its name.
            collection: the one that the request names; None: it names none.
            items: entries of the request that have a result each.
        """
        about = About("call", method, collection, items)
        with self._answered(context, about) as call:
            self._access.guard.check(call.caller, method, collection)
            with self._turn(call, items), self._slot(self._calls, "CALLS_FULL"):
                yield call
                call.check_alive()  # so that the metrics record what the caller saw

    def require(self, call: Call, method: str, collection: str, rule: Rule) -> None:
        """Checks a right that a call needs beyond its method's rule.

        Raises:
            PermissionDenied: the caller lacks the right.
        """
        self._access.guard.check(call.caller, method, collection, rule=rule)

    @contextmanager
    def stream(self, context: grpc.ServicerContext, method: str) -> Iterator[Call]:
        """Runs a stream; its messages go through `message`, which checks the caller's rights."""
        with self._answered(context, About("stream", method), check_waiting=self._check_open) as call:
            self._access.guard.check_opening(call.caller, method)
            with self._stream_place(call):
                self._opened.add(call, context)
                try:
                    self._check_open()  # `close` may have run before the stream was added to those it ends
                    yield call
                    # When a caller has gone, gRPC may end its requests as if it had finished, a moment before reporting
                    # that it has gone: such a stream counts as OK if all its messages were answered.
                    call.check_alive()
                finally:
                    self._opened.discard(call)

    @contextmanager
    def message(self, stream: Call, method: str, *, collection: str | None = None, items: int = 0) -> Iterator[Call]:
        """Runs one message of a stream: waits for its turn among the calls; its errors are raised, not sent.

        `answered` must follow once its response has left: until then draining leaves the stream open.

        Args:
            stream: the stream of the message.
            method: the stream's.
            collection: the one that the message is for; None: the method names none.
            items: entries of the message that have a result each.

        Raises:
            Cancelled, DeadlineExceeded: nobody reads the stream any more.
            PermissionDenied: the caller lacks the right.
            Unauthenticated: the caller's token is no longer valid.
            Unavailable: the server drains.
        """
        self._opened.begin(stream)
        with self._noted(stream, About("message", method, collection, items)):
            self.check_stream(stream)
            self._access.guard.check(stream.caller, method, collection)
            with (
                self._turn(stream, items, waiting=stream),
                self._slot(self._calls, "CALLS_FULL", waiting=stream),
            ):
                yield stream

    @contextmanager
    def question(self, stream: Call, method: str) -> Iterator[None]:
        """Runs a stream message that needs a token but no right and no slot; otherwise like `message`.

        Raises:
            Cancelled, DeadlineExceeded, Unauthenticated, Unavailable: as `check_stream` does.
        """
        self._opened.begin(stream)
        with self._noted(stream, About("message", method)):
            self.check_stream(stream)
            with self._turn(stream, 0, waiting=stream):
                yield

    def refuse(self, context: grpc.ServicerContext, method: str, error: TwinsightError) -> None:
        """Rejects a call whose message did not reach its servicer; it counts towards its caller's share.

        It appears in the metrics, the log and the audit log like any other call.
        """
        with self._answered(context, About("call", method)) as call, self._turn(call, 0):
            raise error

    def answered(self, stream: Call) -> None:
        """Must be called when the response to a message has left; raises like `check_stream`."""
        self._opened.wait(stream)
        self.check_stream(stream)

    def check_stream(self, stream: Call) -> None:
        """Checks that a stream can continue.

        Raises:
            Cancelled, DeadlineExceeded: nobody reads it any more.
            Unauthenticated: the caller's token is no longer valid.
            Unavailable: the server drains.
        """
        stream.check_alive()
        self._check_open()
        stream.caller = self._access.guard.identify(stream.metadata)

    def _check_open(self) -> None:
        if reason := self._closed:
            raise Unavailable(_CLOSED[reason], reason=reason)

    @contextmanager
    def _turn(self, call: Call, items: int, *, waiting: Call | None = None) -> Iterator[None]:
        """Takes what the call needs of the caller's share: its rates, and one of its concurrent calls."""
        caller, limiter = call.caller, self._access.limiter
        while (refusal := limiter.enter(caller, items)) is not None:
            patience_s = waiting.patience_s() if waiting else None
            if patience_s is None:
                raise self._refused(refusal.error())
            limiter.pause(min(patience_s, refusal.wait_s))
        try:
            yield
        finally:
            limiter.leave(caller, owed=max(0, call.touched - items))

    @contextmanager
    def _stream_place(self, stream: Call) -> Iterator[None]:
        """Takes a place among the streams, and one of the caller's share; streams without a valid token make room."""
        caller, limiter = stream.caller, self._access.limiter
        refusal = self._enter_stream(caller)
        own = refusal is not None and refusal.reason == "KEY_STREAMS_FULL"
        if refusal is not None and self._end_unproven(caller if own else None):
            until = time.monotonic() + _ENDING_S
            while refusal is not None and time.monotonic() < until:
                limiter.pause(0.01)
                refusal = self._enter_stream(caller)
        if refusal is not None:
            raise self._refused(refusal)
        try:
            yield
        finally:
            self._streams.give_back()
            limiter.leave_stream(caller)

    def _enter_stream(self, caller: Principal) -> Overloaded | None:
        if (refusal := self._access.limiter.enter_stream(caller)) is not None:
            return refusal.error()
        if self._streams.take():
            return None
        self._access.limiter.leave_stream(caller)
        return self._full("STREAMS_FULL")

    def _end_unproven(self, caller: Principal | None) -> bool:
        """Ends the streams, of one caller or of all, whose token is no longer valid; returns whether there were any.

        Idle or not: a caller that does not read its answers would keep its places otherwise.
        """

        def is_unproven(stream: Call) -> bool:
            if caller is not None and str(stream.caller) != str(caller):  # whatever its key's grants are now
                return False
            try:
                self._access.guard.identify(stream.metadata)
            except Unauthenticated:
                return True
            return False

        return self._opened.end(is_unproven) > 0

    @contextmanager
    def _slot(self, slots: Slots, reason: str, *, waiting: Call | None = None) -> Iterator[None]:
        if not slots.take() and not (waiting and _wait_for_slot(slots, waiting)):
            raise self._refused(self._full(reason))
        try:
            yield
        finally:
            slots.give_back()

    def _refused(self, error: Overloaded) -> Overloaded:
        self._metrics.refused.labels(error.reason).inc()
        return error

    def _full(self, reason: str) -> Overloaded:
        slots, what = (self._calls, "concurrent calls") if reason == "CALLS_FULL" else (self._streams, "open streams")
        return Overloaded(
            f"Too many {what} (limit {slots.count}); retry after {_RETRY_AFTER_S:g} s.",
            retry_after_s=_RETRY_AFTER_S,
            reason=reason,
        )

    @contextmanager
    def _answered(
        self, context: grpc.ServicerContext, about: About, *, check_waiting: Callable[[], None] | None = None
    ) -> Iterator[Call]:
        metadata, method = context.invocation_metadata(), about.method
        call = Call(request_id_of(metadata), deadline_of(context), check_waiting=check_waiting, metadata=metadata)
        if self._access.guard.is_open:
            call.caller = ANYONE
        call.peer = context.peer()
        call.cut_off = context.cancel
        self._in_flight.add(call)

        def over() -> None:
            """Called when the response has left, or the caller has gone."""
            call.cancel()
            self._in_flight.discard(call)
            if self._closed == "DRAINING" and not self._in_flight:
                self._drained.set()

        if not context.add_callback(over):  # the call has ended already
            over()
        failure: status_pb2.Status | None = None
        reason = why = ""
        try:
            self._check_open()
            call.check_alive()
            call.caller = self._access.guard.identify(metadata)
            yield call
        except TwinsightError as error:
            failure, reason = status_of(error, request_id=call.request_id), error.reason
            why = _unproven(error)
            if code_of(error) is grpc.StatusCode.INTERNAL:
                log.exception("call failed", request_id=call.request_id, method=method)
            drop_tracebacks(error)
        except grpc.RpcError as error:
            # Raised by the request iterator of a stream whose caller has gone.
            failure, reason = _gone(call), "CANCELLED"
            drop_tracebacks(error)
        except GeneratorExit:
            # The caller of a stream has gone during a message; gRPC closes the generator.
            failure, reason = _gone(call), "CANCELLED"
            raise
        except Exception as error:
            failure, reason = internal(call.request_id), "INTERNAL"
            log.exception("call failed", request_id=call.request_id, method=method)
            drop_tracebacks(error)
        finally:
            stages = call.stages()
            times = ((f"twinsight-{stage}-ms", f"{seconds * 1e3:.3f}") for stage, seconds in stages.items())
            trailing = (("x-request-id", call.request_id), *times)
            context.set_trailing_metadata(trailing)
            name = _CODE_NAMES[failure.code if failure else 0]
            self._note(about, call, stages, name, reason=reason, why=why)
        if failure:
            context.abort_with_status(abort_status(failure, trailing))

    @contextmanager
    def _noted(self, stream: Call, about: About) -> Iterator[None]:
        """Counts and logs the block, which is one message of a stream."""
        code, reason, why = grpc.StatusCode.INTERNAL, "INTERNAL", ""
        stream.begin_message()
        try:
            yield
            code, reason = grpc.StatusCode.OK, ""
        except TwinsightError as error:
            code, reason, why = code_of(error), error.reason, _unproven(error)
            raise
        finally:
            self._note(about, stream, stream.stages(), code.name, reason=reason, why=why)
            stream.end_message()

    def _note(self, about: About, call: Call, stages: Mapping[str, float], name: str, *, reason: str, why: str) -> None:
        """Counts a call or message, and writes it to the log and the audit log."""
        self._metrics.ended(about, name, reason, stages=stages, outcomes=call.outcomes)
        self._audit(call, about, name, reason, why)
        is_message = about.event == "message"
        level = logging.DEBUG if is_message and not reason else logging.INFO
        if _plain_log.isEnabledFor(level):
            log.log(
                level,
                "message" if is_message else "call",
                method=about.method,
                **({"collection": about.collection_start} if about.collection else {}),
                code=name,
                **({"reason": reason} if reason else {}),
                request_id=call.request_id,
                caller=str(call.caller),
                peer=call.peer,
                items=dict(call.outcomes),
                **({"unproven": why} if why else {}),
                **{f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in stages.items()},
            )

    def _audit(self, call: Call, about: About, code: str, reason: str, why: str) -> None:
        if self._access.audit:
            self._access.audit.write(
                about,
                call.effect,
                caller=str(call.caller),
                peer=call.peer,
                code=code,
                reason=reason,
                unproven=why,
                request_id=call.request_id,
            )


def _wait_for_slot(slots: Slots, waiting: Call) -> bool:
    """Waits for a slot as long as the call may; returns whether it got one."""
    while (step_s := waiting.patience_s()) is not None:
        if slots.take(step_s):
            return True
    return False


def _unproven(error: TwinsightError) -> str:
    """Returns why a caller's credential is not valid; empty if the error is another."""
    return str(error.__cause__) if isinstance(error.__cause__, Unproven) else ""


def _gone(call: Call) -> status_pb2.Status:
    return status_of(Cancelled("The caller is gone.", reason="CANCELLED"), request_id=call.request_id)


_CLOSED = {"STARTING": "The server is starting.", "DRAINING": "The server is shutting down."}
_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}
