"""The pure pieces of `twinsight bench`: due times, outcomes, messages, percentiles and what a run comes to."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight_client import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    TwinsightClientError,
    Unavailable,
    field,
)
from twinsight_client.bench import calls
from twinsight_client.bench.calls import (
    compare_calls,
    embed_calls,
    picture_queries,
    search_calls,
    vector_queries,
)
from twinsight_client.bench.due import DueTimes, Window
from twinsight_client.bench.loop import Plan, Run
from twinsight_client.bench.outcomes import ANSWERED, REFUSED, UNANSWERED, code_name, is_failure, outcome_of
from twinsight_client.bench.pictures import generated_jpegs
from twinsight_client.bench.records import Record, Recorder, Records, stage_fields
from twinsight_client.bench.report import Percentiles, Report, Subject, percentiles, stages_ms, summarize
from twinsight_client.errors import error_of
from twinsight_client.images import vector_array
from twinsight_client.results import StageTimes

pytestmark = pytest.mark.client

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE_EXCEEDED = 4


def taken(times: DueTimes) -> list[float]:
    found = []
    while (due := times.take()) is not None:
        found.append(due)
    return found


def records(*rows: Record) -> Records:
    recorder = Recorder()
    for row in rows:
        recorder.add(row)
    return recorder.since(0)


def test_a_window_is_a_warm_up_and_what_is_measured() -> None:
    assert Window.after(100.0, warmup_s=2.0, duration_s=10.0) == Window(100.0, 102.0, 112.0)


def test_due_times_are_fixed_beforehand_and_handed_out_once() -> None:
    assert taken(DueTimes(4.0, begin=10.0, end=11.0)) == [10.0, 10.25, 10.5, 10.75]
    assert taken(DueTimes(0.5, begin=10.0, end=11.0)) == [10.0]


def test_due_times_are_counted_whether_taken_or_not() -> None:
    times = DueTimes(4.0, begin=10.0, end=11.0)
    assert times.take() == 10.0
    assert [times.count_before(one) for one in (9.0, 10.0, 10.1, 10.25, 10.26, 11.0, 99.0)] == [0, 0, 1, 1, 2, 4, 4]


@given(st.floats(0.01, 2000), st.floats(0, 1e6), st.floats(0.001, 2))
def test_as_many_due_times_are_counted_as_are_handed_out(rate: float, begin: float, seconds: float) -> None:
    found = taken(DueTimes(rate, begin=begin, end=begin + seconds))
    assert DueTimes(rate, begin=begin, end=begin + seconds).count_before(begin + seconds) == len(found)


@pytest.mark.parametrize(
    ("error", "outcome", "failed"),
    [
        (ResourceExhausted("The queue is full.", reason="QUEUE_FULL", retry_after_s=1.0), REFUSED, False),
        (ResourceExhausted("Concurrent RPC limit exceeded!"), REFUSED, False),
        (ResourceExhausted("SERVER: Received message larger than max (9 vs. 4)"), 8, True),
        (ResourceExhausted("The answer is too large.", reason="ANSWER_TOO_LARGE"), 8, True),
        (DeadlineExceeded("late"), DEADLINE_EXCEEDED, True),
        (Unavailable("gone"), 14, True),
        (error_of("NO_SUCH_CODE", "odd"), 2, True),
    ],
)
def test_load_turned_away_is_no_failure_and_all_else_is(
    error: TwinsightClientError, outcome: int, failed: bool
) -> None:
    assert outcome_of(error) == outcome
    assert is_failure(outcome) == failed


def test_outcomes_have_the_names_of_their_codes() -> None:
    assert [code_name(one) for one in (DEADLINE_EXCEEDED, 8, 99)] == [
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "UNKNOWN",
    ]
    assert not any(is_failure(one) for one in (ANSWERED, REFUSED, UNANSWERED))


def test_generated_pictures_are_jpegs_of_one_size_and_the_same_each_time() -> None:
    made = generated_jpegs(count=3)
    assert made == generated_jpegs(count=3)
    assert len(set(made)) == 3
    assert made != generated_jpegs(count=3, seed=1)
    for one in made:
        with Image.open(io.BytesIO(one)) as picture:
            picture.load()
            assert (picture.format, picture.size) == ("JPEG", (500, 375))
        assert 40_000 < len(one) < 150_000


def test_pictures_are_cut_into_calls_and_begin_again_in_the_last() -> None:
    workload = embed_calls([b"a", b"b", b"c"], what="letters", batch=2, model="m", timeout_s=7)
    sent = [inference_pb.EmbedRequest.FromString(one) for one in workload.requests]
    assert [[image.encoded for image in one.images] for one in sent] == [[b"a", b"b"], [b"c", b"a"]]
    assert {one.model for one in sent} == {"m"}
    assert (workload.method, workload.batch, workload.timeout_s) == ("/twinsight.v1.InferenceService/Embed", 2, 7)
    (lone,) = embed_calls([b"a", b"b"], what="letters", batch=5).requests
    assert [image.encoded for image in inference_pb.EmbedRequest.FromString(lone).images] == [
        b"a", b"b", b"a", b"b", b"a",
    ]  # fmt: skip


def test_each_picture_is_compared_with_the_next() -> None:
    workload = compare_calls([b"a", b"b", b"c"], what="letters", batch=1)
    sent = [inference_pb.CompareRequest.FromString(one).pairs[0] for one in workload.requests]
    assert [(one.left.image.encoded, one.right.image.encoded) for one in sent] == [
        (b"a", b"b"),
        (b"b", b"c"),
        (b"c", b"a"),
    ]
    assert (workload.items, workload.timeout_s) == ("pairs", 60)


def test_random_queries_are_different_unit_vectors_and_carry_the_searchs_options() -> None:
    queries = vector_queries(5, batch=3)
    workload = search_calls("photos", queries, what="vectors", top_k=7, where=field("year") >= 2000)
    sent = [collections_pb.SearchRequest.FromString(one) for one in workload.requests]
    assert (len(sent), {one.top_k for one in sent}, sent[0].collection) == (calls.VECTOR_CALLS, {7}, "photos")
    assert sent[0].filter.condition.field == "year"
    vectors = np.array([vector_array(query.vector) for one in sent for query in one.queries])
    assert vectors.shape == (3 * calls.VECTOR_CALLS, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert len(np.unique(vectors, axis=0)) == len(vectors)


def test_random_vectors_of_all_calls_stay_within_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "VECTOR_BYTES", 4 * 100 * 2 * 3)
    assert len(vector_queries(100, batch=2)) == 3


def test_a_call_that_no_message_carries_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_BYTES", 10)
    assert len(picture_queries([b"12345", b"1234", b"123"], batch=2)) == 2
    with pytest.raises(
        InvalidArgument, match=r"^`batch` \(=3\) pictures \(12 bytes\) must fit a message of 10 bytes\.$"
    ):
        embed_calls([b"12345", b"1234", b"123"], what="", batch=3)
    with pytest.raises(InvalidArgument, match=r"^`batch` \(=2\) pairs \(16 bytes\)"):
        compare_calls([b"1234", b"1234"], what="", batch=2)
    with pytest.raises(InvalidArgument, match=r"^`batch` \(=1\) vectors \(12 bytes\)"):
        vector_queries(3, batch=1)


def test_the_failed_items_of_an_answer_are_told() -> None:
    response = inference_pb.EmbedResponse(results=[inference_pb.EmbedResult(), inference_pb.EmbedResult()])
    response.results[0].embedding.dimension = 3
    response.results[1].error.code = 3
    response.results[1].error.message = "Broken."
    response.model.name = "base"
    reading = embed_calls([b"a"], what="", batch=1).read(response.SerializeToString())
    assert [(one.index, one.code, one.message) for one in reading.errors] == [(1, "INVALID_ARGUMENT", "Broken.")]
    assert reading.model.name == "base"


def test_percentiles_are_latencies_that_occurred() -> None:
    assert percentiles(np.arange(1, 101, dtype=np.float64)) == Percentiles(50, 90, 95, 99, 100)
    assert percentiles(np.array([3.0, 1.0, math.nan])) == Percentiles(1, 3, 3, 3, 3)
    assert percentiles(np.array([math.nan])) is None
    assert percentiles(np.array([])) is None


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
def test_percentiles_rise_and_end_at_the_longest(values: Sequence[float]) -> None:
    found = percentiles(np.array(values))
    assert found is not None
    ranks = [found.p50, found.p90, found.p95, found.p99, found.max]
    assert ranks == sorted(ranks)
    assert found.max == round(max(values), 3)
    assert set(ranks) <= {round(one, 3) for one in values}


def test_stages_and_what_they_leave_over_make_up_the_latency() -> None:
    # Due at 0, sent 5 ms later, here 25 ms after that; 20 ms on the server, 15 of them in stages.
    stages = stage_fields(StageTimes(decode_ms=4, queue_ms=1, compute_ms=10, total_ms=20))
    one = records(Record(0, 0.0, 0.005, 0.030, ANSWERED, 0, *stages))
    found = {name: stage.p50 for name, stage in stages_ms(one, is_open=True).items()}
    assert found == {
        "wait": 5, "decode": 4, "queue": 1, "compute": 10, "server_other": 5, "network_and_client": 5,
    }  # fmt: skip
    assert sum(found.values()) == pytest.approx(one.latencies_ms()[0])
    assert "wait" not in stages_ms(one, is_open=False)


def test_of_a_server_that_tells_no_times_nothing_is_made_up() -> None:
    assert stages_ms(records(Record(0, 0.0, 0.0, 0.030, ANSWERED)), is_open=False) == {}


def report_of(run: Run, *, rate: float | None = None, batch: int = 1) -> Report:
    workload = embed_calls([b"a"], what="a letter", batch=batch, timeout_s=3)
    plan = Plan("there:1", 2, duration_s=10, warmup_s=2, rate=rate)
    return summarize(run, workload, plan, subject=Subject("base", "sha256:1"), started=STARTED)


RUN = Run(
    name="bench-1",
    window=Window(0.0, 2.0, 12.0),
    records=records(
        Record(0, 0.5, 0.5, 1.0, ANSWERED),  # the warm-up's
        Record(1, 1.5, 1.5, 2.5, ANSWERED),  # the warm-up's, answered in the measured time
        Record(2, 3.0, 3.0, 3.1, ANSWERED, failed_items=1),
        Record(3, 4.0, 4.0, 4.001, REFUSED),
        Record(4, 5.0, 5.0, 8.0, DEADLINE_EXCEEDED),
        Record(5, 11.9, 11.9, 12.4, ANSWERED),  # answered too late to count in the rate
    ),
    due_count=None,
    interrupted=False,
    cpu_share=0.25,
    item_errors={"INVALID_ARGUMENT": 1},
)


def test_a_run_comes_to_counts_rates_and_percentiles() -> None:
    report = report_of(RUN, batch=4)
    assert (report.calls.due, report.calls.answered, report.calls.refused, report.calls.failed) == (4, 2, 1, 1)
    assert (report.calls.unanswered, report.calls.not_started, report.calls.late) == (0, 0, 0)
    assert report.errors == {"DEADLINE_EXCEEDED": 1}
    assert (report.items.kind, report.items.answered, report.items.failed) == ("pictures", 7, 1)
    assert report.items.errors == {"INVALID_ARGUMENT": 1}
    assert report.latency_ms == Percentiles(100, 500, 500, 500, 500)
    assert report.slowest is not None
    assert (report.slowest.latency_ms, report.slowest.request_id) == (500, "bench-1-5")
    assert (report.calls_per_s, report.items_per_s) == (0.2, 0.7)
    assert (report.load.loop, report.latency_from, report.model) == ("closed", "sending", "base")
    assert report.notes == ["Calls without a response within 3 s: 1. No percentile includes them."]


def test_a_run_without_answers_has_no_percentiles() -> None:
    report = report_of(replace(RUN, records=records(Record(3, 4.0, 4.0, 4.001, REFUSED))))
    assert (report.latency_ms, report.slowest, report.stages_ms, report.calls_per_s) == (None, None, {}, 0)


def test_calls_of_an_open_loop_that_were_never_started_are_counted_and_told_of() -> None:
    report = report_of(replace(RUN, due_count=10, warmup_due_count=2), rate=0.8)
    assert (report.calls.due, report.calls.not_started, report.calls.answered) == (8, 4, 2)
    assert (report.load.loop, report.latency_from) == ("open", "due time")
    assert report.notes[0].startswith(
        "Calls due but not started: 4. The server did not sustain 0.8 calls/s with 2 in flight"
    )


def test_calls_due_in_the_warm_up_are_not_of_the_measured_time_though_never_started() -> None:
    # Due at 1/s from 0 on; each takes 4 s and one is in flight at most, so those of 3 to 11 were never started.
    rows = records(*(Record(n, n, 4.0 * n, 4.0 * n + 4, ANSWERED) for n in range(3)))
    late = Run(
        "bench-1", Window(0.0, 5.0, 12.0), rows, due_count=12, interrupted=False, cpu_share=0, warmup_due_count=5
    )
    report = report_of(late, rate=1.0)
    assert (report.calls.due, report.calls.answered, report.calls.not_started) == (7, 0, 7)
    assert (report.calls_per_s, report.latency_ms) == (0.143, None)
    assert report.notes[0].startswith("No call that was due in the measured time was answered")
    assert report.notes[1].startswith("Calls due but not started: 7.")


def test_late_starts_are_told_of() -> None:
    rows = records(Record(0, 3.0, 3.002, 3.1, ANSWERED), Record(1, 4.0, 4.0005, 4.1, ANSWERED))
    report = report_of(replace(RUN, records=rows, due_count=2), rate=0.2)
    assert report.calls.late == 1
    assert report.notes[0].startswith("Calls started more than 1 ms late: 1. Either 2 were in flight")


@pytest.mark.parametrize(("share", "is_told"), [(0.79, False), (0.81, True)])
def test_a_client_that_is_busy_itself_says_so(share: float, is_told: bool) -> None:
    report = report_of(replace(RUN, cpu_share=share))
    assert report.client_cpu == share
    assert any("This client used 81% of one core" in one for one in report.notes) == is_told


def test_an_interrupted_run_says_how_long_it_measured() -> None:
    rows = records(Record(0, 3.0, 3.0, 3.1, ANSWERED), Record(1, 4.0, 4.0, 4.5, UNANSWERED))
    report = report_of(replace(RUN, records=rows, window=Window(0.0, 2.0, 4.5), interrupted=True))
    assert (report.interrupted, report.calls.unanswered, report.load.duration_s) == (True, 1, 2.5)
    assert report.notes == [
        "Interrupted after 2.5 s of measuring.",
        "Calls in flight when the run was interrupted: 1. No percentile includes them.",
    ]
