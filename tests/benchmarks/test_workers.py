"""Workers of the comparison: orders, failures, and that nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.peers.orders import Answer, Order
from benchmarks.peers.processes import ROOT, PeerFailed, Worker

STAND_IN = "tests.benchmarks.stand_in"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(Path(sys.executable), STAND_IN, tmp_path / "log") as started:
        yield started


def opened(worker: Worker, *, threads: int = 1, fail_at: int = -1) -> Answer:
    return worker.ask(Order("open", settings={"fail_at": fail_at}, count=threads))


def test_orders_and_answers_survive_the_line() -> None:
    order = Order("load", settings={"onnx": "a b", "batch": 8, "spin": True}, at=1.5, seconds=0.25)
    answer = Answer(facts={"made": True}, times_ms=[0.125], count=1, values=[[1.0, 2.0]], error="no\nroom")
    assert Order.parse(order.line()) == order
    assert Answer.parse(answer.line()) == answer
    assert "\n" not in answer.line()


def test_a_subject_tells_its_facts_when_it_is_opened(worker: Worker) -> None:
    assert opened(worker).facts == {"made": True}


def test_calls_that_warm_up_are_not_counted(worker: Worker) -> None:
    opened(worker)
    answer = worker.ask(Order("times", count=5, warm_up=3))
    assert answer.count == len(answer.times_ms) == 5
    assert min(answer.times_ms) > 0


def test_values_are_those_of_the_first_calls_in_order(worker: Worker) -> None:
    opened(worker)
    assert worker.ask(Order("values", count=3)).values == [[0.0], [1.0], [2.0]]


def test_batches_are_timed(worker: Worker) -> None:
    opened(worker)
    assert worker.ask(Order("batches", count=4, size=8)).count == 4


def test_a_load_counts_what_ends_within_its_window(worker: Worker) -> None:
    opened(worker, threads=4)
    answer = worker.ask(Order("load", at=time.monotonic(), seconds=0.1))
    assert answer.count == len(answer.times_ms) > 4
    assert max(answer.times_ms) <= 100


def test_a_call_that_fails_under_load_fails_the_load_and_the_worker_goes_on(worker: Worker) -> None:
    opened(worker, threads=2, fail_at=11)
    with pytest.raises(PeerFailed, match="ConnectionError: the server is gone"):
        worker.ask(Order("load", at=time.monotonic(), seconds=5))
    assert opened(worker).facts


def test_a_failure_is_told_with_its_kind(worker: Worker) -> None:
    with pytest.raises(PeerFailed, match="ValueError: no room"):
        worker.ask(Order("fill", settings={"die": False}))


def test_a_worker_that_dies_is_told_with_its_last_words(worker: Worker) -> None:
    with pytest.raises(PeerFailed, match=r"ended with status 3\. It printed last: the last words"):
        worker.ask(Order("fill", settings={"die": True}))


def test_an_answer_that_does_not_come_in_time_is_a_failure(worker: Worker) -> None:
    opened(worker)
    with pytest.raises(PeerFailed, match=r"No answer within 0\.01 s"):
        worker.ask(Order("load", at=time.monotonic(), seconds=1), timeout_s=0.01)


def test_versions_are_those_of_the_workers_environment(worker: Worker) -> None:
    facts = worker.ask(Order("versions", settings={"numpy": "", "no-such-package": ""})).facts
    assert facts["no-such-package"] == "not installed"
    assert str(facts["numpy"]).count(".") >= 1


def test_a_paused_worker_answers_once_it_is_resumed(worker: Worker) -> None:
    opened(worker)
    worker.pause()
    worker.send(Order("values", count=1))
    with pytest.raises(PeerFailed, match="No answer"):
        worker.answer(timeout_s=0.2)
    worker.resume()
    assert worker.answer(timeout_s=30).values == [[0.0]]


def test_a_paused_worker_is_ended_too(worker: Worker) -> None:
    opened(worker)
    worker.pause()
    worker.close()
    with pytest.raises(ValueError, match="closed"):
        worker.ask(Order("values", count=1))


def test_a_server_that_left_its_session_is_ended_with_the_run(tmp_path: Path) -> None:
    # A process of its own: what it ends are all children that it does not know.
    script = f"""
import sys
from pathlib import Path
from benchmarks.peers.orders import Order
from benchmarks.peers.processes import Worker, adopt_orphans, end_orphans
adopt_orphans()
with Worker(Path(sys.executable), {STAND_IN!r}, Path({str(tmp_path)!r}) / "log") as worker:
    worker.ask(Order("serve", settings={{"folder": {str(tmp_path)!r}}}))
    assert end_orphans() == 0
print(end_orphans())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "1\n", done.stderr
    server = Path("/proc", (tmp_path / "server.pid").read_text(), "cmdline")
    assert not server.exists()
