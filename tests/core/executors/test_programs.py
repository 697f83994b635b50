"""Compiled networks kept between starts."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.executors import kept_files, openvino
from twinsight_core.executors.choice import choose_executor
from twinsight_core.executors.programs import KeptPrograms
from twinsight_core.exporting.agreement import trial_pictures
from twinsight_core.packages import ModelPackage

needs_openvino = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("openvino", "jax2onnx", "onnxruntime")),
    reason="OpenVINO, the extra `openvino`, is not installed",
)


def test_a_program_comes_back_under_its_network_environment_and_form(tmp_path: Path) -> None:
    kept = KeptPrograms(tmp_path, "network", "today")
    kept.keep("here", "f32-1-1", b"program")
    assert kept.load("here", "f32-1-1") == b"program"
    assert kept.load("here", "f32-2-1") is None
    assert kept.load("there", "f32-1-1") is None
    assert KeptPrograms(tmp_path, "other", "today").load("here", "f32-1-1") is None


@pytest.mark.parametrize("spoil", [lambda old: old[:-1], lambda old: old[:-1] + b"?", lambda _: b"", lambda _: b"xy"])
def test_a_damaged_program_is_not_run(
    tmp_path: Path, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptPrograms(tmp_path, "network", "today")
    kept.keep("here", "f32-1-1", b"program")
    (file,) = tmp_path.iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    assert kept.load("here", "f32-1-1") is None
    assert "is damaged" in caplog.text


def test_what_another_environment_left_goes_and_other_networks_stay(tmp_path: Path) -> None:
    kept, other = KeptPrograms(tmp_path, "network", "today"), KeptPrograms(tmp_path, "other", "today")
    kept.keep("before", "f32-1-1", b"old")
    other.keep("before", "f32-1-1", b"others")
    kept.keep("now", "f32-1-1", b"new")
    kept.keep("now", "f32-2-1", b"newer")
    assert kept.load("before", "f32-1-1") is None
    assert kept.load("now", "f32-1-1") == b"new"
    assert other.load("before", "f32-1-1") == b"others"
    upgraded = KeptPrograms(tmp_path, "network", "tomorrow")
    assert upgraded.load("now", "f32-1-1") is None
    upgraded.keep("now", "f32-1-1", b"newest")
    assert kept.load("now", "f32-2-1") is None
    assert upgraded.load("now", "f32-1-1") == b"newest"


def test_without_room_a_program_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept_files, "write_whole", full)
    kept = KeptPrograms(tmp_path, "network", "today")
    kept.keep("here", "f32-1-1", b"program")
    assert kept.load("here", "f32-1-1") is None
    assert "No space left on device" in caplog.text


@pytest.fixture(scope="module")
def cache(embedding: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a first start has filled."""
    folder = tmp_path_factory.mktemp("cache")
    prepared(embedding, folder)
    return folder


def prepared(package: ModelPackage, cache: Path) -> np.ndarray:
    """The answers of an executor and of its lanes, chosen with a cache."""
    executor = choose_executor(package, "openvino", cache_dir=cache)
    executor.prepare(1, 2)
    lanes = executor.lanes()
    for lane in lanes:
        lane.prepare(1, 2)
    pictures = trial_pictures(package.card.preprocessing)[:2]
    return np.concatenate([one.compute(pictures) for one in (executor, *lanes)])


class Core:
    """OpenVINO's core, of which it is known how often it compiled, and for how many threads."""

    def __init__(self, core: openvino._Core) -> None:
        self.compiled = 0
        self.threads: set[str | None] = set()
        self._core = core
        self.read_model = core.read_model
        self.import_model = core.import_model
        self.get_property = core.get_property

    def compile_model(self, model: openvino._Model, device: str, options: Mapping[str, str]) -> openvino._Compiled:
        self.compiled += 1
        self.threads.add(options.get("INFERENCE_NUM_THREADS"))
        return self._core.compile_model(model, device, options)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    counting = Core(openvino._core())
    monkeypatch.setattr(openvino, "_core", lambda: counting)
    return counting


@needs_openvino
@pytest.mark.parametrize(("count", "threads"), [(2, {None, "1"}), (1, {"1"})])
def test_a_quota_bounds_the_threads_that_compute(
    embedding: ModelPackage,
    tmp_path: Path,
    core: Core,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    threads: set[str | None],
) -> None:
    monkeypatch.setattr(openvino, "usable_cores", lambda: frozenset(range(2)))
    monkeypatch.setattr(openvino, "core_count", lambda: count)
    openvino._environment.cache_clear()
    try:
        answers = prepared(embedding, tmp_path)
    finally:
        openvino._environment.cache_clear()
    assert len(answers) == 2 * (1 + count)  # of the executor and of each lane
    assert core.threads == threads


@needs_openvino
def test_a_lane_computes_in_its_callers_thread(
    embedding: ModelPackage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "core_count", lambda: 2)
    lane = choose_executor(embedding, "openvino", cache_dir=cache).lanes()[0]
    assert lane.is_single_threaded
    lane.prepare(2)
    pictures = trial_pictures(embedding.card.preprocessing)[:2]
    lane.compute(pictures)
    own, everyone = time.thread_time(), time.process_time()
    for _ in range(50):
        lane.compute(pictures)
    assert time.thread_time() - own > 0.8 * (time.process_time() - everyone)


@needs_openvino
def test_more_lanes_than_the_most_share_programs_that_divide_the_cores(
    embedding: ModelPackage, tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "core_count", lambda: 4)
    monkeypatch.setattr(openvino, "MOST_LANES", 2)
    lanes = choose_executor(embedding, "openvino", cache_dir=tmp_path).lanes()
    assert [lane.is_single_threaded for lane in lanes] == [False, False]
    before = core.compiled
    for lane in lanes:
        lane.prepare(1)
    assert core.compiled == before + 1
    picture = trial_pictures(embedding.card.preprocessing)[:1]
    np.testing.assert_allclose(lanes[0].compute(picture), lanes[1].compute(picture), atol=2e-6)


def threads_of_some_cores() -> list[str]:
    """This process's threads that may not run on every core that it has."""
    own = os.sched_getaffinity(0)
    held = []
    for thread in Path("/proc/self/task").iterdir():
        try:
            if os.sched_getaffinity(int(thread.name)) != own:
                held.append(thread.name)
        except ProcessLookupError:  # it ended
            continue
    return held


@needs_openvino
@pytest.mark.skipif(not Path("/proc/self/task").exists() or os.cpu_count() == 1, reason="one core, or no Linux")
def test_threads_that_compute_are_free_to_run_where_no_other_program_does(embedding: ModelPackage, cache: Path) -> None:
    before = set(threads_of_some_cores())  # those of other tests
    executor = choose_executor(embedding, "openvino", cache_dir=cache)
    lanes = executor.lanes()
    for one in (executor, *lanes):
        one.prepare(1, 2)
    pictures = trial_pictures(embedding.card.preprocessing)[:2]
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            for one in (executor, *lanes):
                one.compute(pictures)

    computing = threading.Thread(target=compute)
    computing.start()
    try:
        for _ in range(200):
            # The lanes and calls of other tests' servers choose their cores themselves.
            others = {str(one.native_id) for one in threading.enumerate() if one is not computing}
            assert set(threads_of_some_cores()) <= before | others
    finally:
        ended.set()
        computing.join()


@needs_openvino
def test_a_second_start_compiles_nothing_and_answers_the_same(embedding: ModelPackage, cache: Path, core: Core) -> None:
    again = prepared(embedding, cache)
    assert core.compiled == 0
    np.testing.assert_array_equal(again, prepared(embedding, cache))


@needs_openvino
@pytest.mark.parametrize(
    "spoil", [lambda old: old[:-100], lambda _: hashlib.sha256(b"no program").digest() + b"no program"]
)
def test_a_program_that_is_damaged_or_not_openvinos_is_compiled_anew(
    embedding: ModelPackage,
    cache: Path,
    tmp_path: Path,
    core: Core,
    spoil: Callable[[bytes], bytes],
) -> None:
    for file in cache.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    wanted = prepared(embedding, tmp_path)
    spoilt = sorted(tmp_path.glob("*.program"))[:2]
    assert len(spoilt) == 2
    for file in spoilt:
        file.write_bytes(spoil(file.read_bytes()))
    np.testing.assert_allclose(prepared(embedding, tmp_path), wanted, atol=1e-6)
    assert core.compiled == 2
    assert all(len(file.read_bytes()) > 1000 for file in spoilt)
    prepared(embedding, tmp_path)
    assert core.compiled == 2
