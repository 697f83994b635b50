"""The load of `twinsight bench` on a real gRPC server: closed and open loops, refusals, interruptions."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2

from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight_client import InvalidArgument, NotFound, Unavailable
from twinsight_client.bench import loop
from twinsight_client.bench.calls import Workload, embed_calls, search_calls, vector_queries
from twinsight_client.bench.connection import Connection
from twinsight_client.bench.loop import Plan, Run, Tick, run_load
from twinsight_client.bench.outcomes import ANSWERED, REFUSED, UNANSWERED
from twinsight_client.bench.report import Report, Subject, measured, summarize

from .conftest import WireServer

pytestmark = pytest.mark.client

NewStatus = Callable[..., status_pb2.Status]
Before = Callable[[int, Callable[[], object]], None]
INTERNAL = 13
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def workload(picture: Callable[[int], bytes]) -> Workload:
    return embed_calls([picture(1), picture(2), picture(3)], what="three pictures", batch=1, timeout_s=10)


@pytest.fixture
def before(wire: WireServer) -> Before:
    """Has something done in the server before it answers a call; 1 is the first that is part of the load."""
    answer = wire.memory.answer
    hooks: dict[int, Callable[[], object]] = {}
    seen = iter(range(1_000_000))  # 0: the call that is sent to see whether any is answered

    def hooked(request: Message) -> Message:
        if isinstance(request, inference_pb.EmbedRequest) and (hook := hooks.get(next(seen))):
            hook()
        return answer(request)

    wire.memory.answer = hooked  # type: ignore[method-assign]  # pyright: ignore[reportAttributeAccessIssue]
    return hooks.__setitem__


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C does what it does in a terminal; a shell that runs the tests in the background has it ignored."""
    was = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, was)


def told(run: Run, workload: Workload, plan: Plan) -> Report:
    return summarize(run, workload, plan, subject=Subject(), started=STARTED)


def test_a_closed_loop_sends_one_call_after_another_and_counts_them_all(wire: WireServer, workload: Workload) -> None:
    wire.trailing = (("twinsight-compute-ms", "0.25"), ("twinsight-total-ms", "0.5"))
    plan = Plan(wire.address, 2, duration_s=0.3, warmup_s=0.1)
    run = run_load(workload, plan)
    embeds = [call for call in wire.calls if call.method == "Embed"]
    assert len(run.records) == len(embeds) - 1  # one was sent to see whether any is answered
    assert len({call.request_id for call in embeds}) == len(embeds)
    assert all(call.request_id.startswith(f"{run.name}-") for call in embeds)
    assert [call.time_remaining_s for call in embeds] == pytest.approx([10] * len(embeds), abs=2)
    assert (run.records.column("begun") == run.records.column("due")).all()
    chosen = measured(run)
    assert 0 < len(chosen) < len(run.records)
    report = told(run, workload, plan)
    assert report.calls.due == report.calls.answered == len(chosen)
    assert report.calls_per_s == pytest.approx(len(chosen) / 0.3, abs=2 / 0.3 + 0.1)
    assert report.latency_ms is not None
    assert report.latency_ms.max == pytest.approx(float(chosen.latencies_ms().max()), abs=1e-3)
    assert list(report.stages_ms) == ["compute", "server_other", "network_and_client"]
    assert report.stages_ms["compute"].p99 == report.stages_ms["server_other"].p99 == 0.25
    assert report.model == "fake"
    assert 0.01 < report.client_cpu < 4  # the server's threads are of the same process here


def test_as_many_connections_are_opened_as_calls_may_be_in_flight(wire: WireServer, workload: Workload) -> None:
    run_load(workload, Plan(wire.address, 3, duration_s=0.05))
    assert wire.methods().count("Check") == 3


def test_an_open_loop_sends_at_its_rate_whatever_the_server_does(wire: WireServer, workload: Workload) -> None:
    plan = Plan(wire.address, 4, duration_s=0.4, warmup_s=0.09, rate=50)  # until 0.49 s
    run = run_load(workload, plan)
    assert (run.due_count, run.warmup_due_count) == (25, 5)
    assert len(run.records) == 25
    due = np.sort(run.records.column("due"))
    np.testing.assert_allclose(np.diff(due), 0.02, atol=1e-9)
    assert (run.records.column("begun") >= run.records.column("due")).all()
    report = told(run, workload, plan)
    assert (report.calls.due, report.calls.answered, report.calls.not_started) == (20, 20, 0)
    assert "wait" in report.stages_ms


def test_latencies_of_an_open_loop_count_from_when_calls_were_due(
    wire: WireServer, workload: Workload, before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call stalls the server; those that were due meanwhile waited as well, though each was quick."""
    monkeypatch.setattr(loop, "TICK_S", 0.05)
    go_on = threading.Event()
    before(1, lambda: go_on.wait(30))

    def release(tick: Tick) -> None:
        if tick.elapsed_s >= 0.4:
            go_on.set()

    plan = Plan(wire.address, 1, duration_s=1.0, rate=50)
    run = run_load(workload, plan, on_tick=release)
    begun, ended = run.records.column("begun"), run.records.column("ended")
    stalled_until = ended.min()
    due = run.records.column("due")
    waited = due < stalled_until
    assert waited.sum() >= 20  # 50 a second for 0.4 s and more
    assert (run.records.latencies_ms()[waited] >= (stalled_until - due[waited]) * 1e3).all()
    # Measured from the sending, the stall would have been one slow call among many.
    assert ((ended - begun) * 1e3 > 300).sum() == 1
    report = told(run, workload, plan)
    assert report.latency_ms is not None
    assert report.latency_ms.max > 400
    assert report.latency_ms.p90 > 200
    assert report.stages_ms["wait"].p90 > 200
    assert report.calls.late >= 19


def test_calls_that_nobody_could_start_are_counted(
    wire: WireServer, workload: Workload, before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "TICK_S", 0.05)
    go_on = threading.Event()
    before(1, lambda: go_on.wait(30))

    def release_at_the_end(tick: Tick) -> None:
        if tick.elapsed_s >= 0.4:
            assert tick.in_flight == 1
            go_on.set()

    plan = Plan(wire.address, 1, duration_s=0.39, rate=50)
    report = told(run_load(workload, plan, on_tick=release_at_the_end), workload, plan)
    assert (report.calls.due, report.calls.answered, report.calls.not_started) == (20, 1, 19)
    assert report.calls_per_s == 0


def test_refused_calls_are_counted_apart_from_errors_and_sent_once(
    wire: WireServer, workload: Workload, new_status: NewStatus, before: Before
) -> None:
    statuses = [
        new_status("RESOURCE_EXHAUSTED", "The queue is full.", reason="QUEUE_FULL", retry_after_s=1),
        new_status("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!"),
        new_status("INTERNAL", "Internal error."),
    ]
    before(1, lambda: wire.refusals.extend(statuses))
    plan = Plan(wire.address, 1, duration_s=0.3)
    run = run_load(workload, plan)
    assert run.records.column("outcome")[:5].tolist() == [ANSWERED, REFUSED, REFUSED, INTERNAL, ANSWERED]
    report = told(run, workload, plan)
    assert (report.calls.refused, report.calls.failed, report.errors) == (2, 1, {"INTERNAL": 1})
    assert report.calls.answered == report.calls.due - 3
    assert report.refusals == {"QUEUE_FULL": 1, "RESOURCE_EXHAUSTED": 1}
    assert report.messages == {
        "QUEUE_FULL": "The queue is full.",
        "RESOURCE_EXHAUSTED": "Concurrent RPC limit exceeded!",
        "INTERNAL": "Internal error.",
    }
    assert wire.methods().count("Embed") == len(run.records) + 1


def test_pictures_that_fail_alone_are_counted_and_the_call_is_answered(
    wire: WireServer, picture: Callable[[int], bytes]
) -> None:
    workload = embed_calls([picture(1), b"broken"], what="", batch=2)
    plan = Plan(wire.address, 1, duration_s=0.1)
    report = told(run_load(workload, plan), workload, plan)
    assert report.calls.answered == report.items.answered == report.items.failed > 0
    assert report.items.errors == {"INVALID_ARGUMENT": report.items.failed}
    assert list(report.messages) == ["IMAGE_FORMAT_UNSUPPORTED"]


def test_a_load_of_which_nothing_works_is_not_sent(wire: WireServer) -> None:
    broken = embed_calls([b"broken", b"too"], what="", batch=1)
    with pytest.raises(InvalidArgument):
        run_load(broken, Plan(wire.address, 1, duration_s=5))
    assert wire.methods().count("Embed") == 2
    missing = search_calls("none", vector_queries(2, batch=1), what="", top_k=1)
    with pytest.raises(NotFound, match="does not exist"):
        run_load(missing, Plan(wire.address, 1, duration_s=5))
    assert wire.methods().count("Search") == 1


def test_a_server_that_is_full_already_is_measured(
    wire: WireServer, workload: Workload, new_status: NewStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = new_status("RESOURCE_EXHAUSTED", "The queue is full.", reason="QUEUE_FULL", retry_after_s=1)
    opened = Connection.open

    async def open_and_fill(self: Connection, *, request_id: str) -> None:
        await opened(self, request_id=request_id)
        wire.refusals.extend([full] * 2)

    monkeypatch.setattr(Connection, "open", open_and_fill)
    run = run_load(workload, Plan(wire.address, 1, duration_s=0.1))
    assert run.records.column("outcome")[:2].tolist() == [REFUSED, ANSWERED]


def test_nobody_at_the_address_is_one_error(dead_address: str, workload: Workload) -> None:
    with pytest.raises(Unavailable):
        run_load(workload, Plan(dead_address, 8, duration_s=5))


def test_a_server_that_goes_away_fails_calls_and_the_run_goes_on(
    wire: WireServer, workload: Workload, new_status: NewStatus, before: Before
) -> None:
    before(1, lambda: wire.refusals.extend([new_status("UNAVAILABLE", "Draining.")] * 1000))
    plan = Plan(wire.address, 1, duration_s=0.3)
    report = told(run_load(workload, plan), workload, plan)
    assert report.errors == {"UNAVAILABLE": report.calls.failed}
    # Without a pause there would be hundreds.
    assert 2 <= report.calls.failed <= 7


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_early_and_keeps_what_was_measured(
    wire: WireServer, workload: Workload, before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "TICK_S", 0.1)
    before(20, lambda: wire.may_answer.wait(30))

    def interrupt(tick: Tick) -> None:
        if tick.elapsed_s >= 0.3:
            signal.raise_signal(signal.SIGINT)

    plan = Plan(wire.address, 1, duration_s=60)
    run = run_load(workload, plan, on_tick=interrupt)
    assert run.interrupted
    assert run.window.end - run.window.start < 5
    assert run.records.column("outcome").tolist() == [ANSWERED] * 19 + [UNANSWERED]
    report = told(run, workload, plan)
    assert (report.calls.answered, report.calls.unanswered, report.calls.failed) == (19, 1, 0)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_before_the_load_is_an_interruption_as_any_other(wire: WireServer, workload: Workload) -> None:
    wire.held = "Check"

    def interrupt() -> None:
        wire.arrived.get(timeout=30)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_load(workload, Plan(wire.address, 1, duration_s=60))
