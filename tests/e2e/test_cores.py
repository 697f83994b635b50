"""Which cores the threads of a server in this process run on, once it has done some of everything."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from e2e.conftest import Reflected, config, to_bytes
from twinsight_core import cores
from twinsight_core.cores import one_core, usable_cores
from twinsight_server.app import Server

pytestmark = pytest.mark.skipif(
    not cores.CAN_CHOOSE or len(usable_cores()) < 2, reason="threads have no choice of cores here"
)


@contextmanager
def served(folder: Path, cache_dir: Path, **settings: object) -> Iterator[Server]:
    made = Server(config(folder, cache_dir, **settings))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def slow_picture() -> bytes:
    """A PNG of 12 megapixels, which is decoded aside."""
    file = io.BytesIO()
    Pillow.new("RGB", (4000, 3000), (120, 80, 40)).save(file, "PNG")
    return file.getvalue()


def use(server: Server, photo: bytes) -> None:
    client = Reflected(server.address)
    client.call("InferenceService", "Embed", images=[{"encoded": slow_picture()}])
    client.call("InferenceService", "Embed", images=[{"encoded": photo}])
    client.call("InferenceService", "Embed", images=[{"encoded": photo}, {"encoded": photo}])
    client.call("CollectionService", "CreateCollection", collection={"id": "new", "dimension": 8})
    vectors = [to_bytes(one) for one in np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)]
    items = [{"id": str(n), "vector": one} for n, one in enumerate(vectors)]
    client.call("CollectionService", "UpsertItems", collection="new", items=items)
    for exact in (False, True):
        queries = [{"vector": one} for one in vectors]
        client.call("CollectionService", "Search", collection="new", queries=queries, top_k=3, exact=exact)
    client.close()


def cores_of(thread: int) -> frozenset[int]:
    return frozenset(os.sched_getaffinity(thread))


def kept_threads() -> set[int]:
    """Returns the threads of this process, those that are not Python's too, that may not run on every core."""
    kept = set[int]()
    for task in Path("/proc/self/task").iterdir():
        try:
            if cores_of(int(task.name)) != usable_cores():
                kept.add(int(task.name))
        except ProcessLookupError:  # it has ended meanwhile
            continue
    return kept


def answering_threads() -> set[int]:
    return {
        thread.native_id or 0
        for thread in threading.enumerate()
        if thread.name.startswith("call_") or "_serve" in thread.name
    }


def test_threads_that_answer_keep_to_one_core_and_all_others_have_all(
    tmp_path: Path, cache_dir: Path, photos: dict[str, bytes]
) -> None:
    before = answering_threads()
    with served(tmp_path, cache_dir) as server:
        use(server, photos["coffee"])
        answering = answering_threads()
        assert len(answering - before) >= 2  # the one that takes calls, and one at least that answers
        assert {cores_of(thread) for thread in answering - before} == {one_core()}
        assert kept_threads() <= answering
    assert cores_of(0) == usable_cores()


def test_without_it_every_thread_has_all_cores(tmp_path: Path, cache_dir: Path, photos: dict[str, bytes]) -> None:
    before = kept_threads()
    with served(tmp_path, cache_dir, one_core=False) as server:
        use(server, photos["coffee"])
        assert kept_threads() <= before
