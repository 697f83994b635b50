"""Which cores the threads of a server in this process run on, once it has embedded, written and searched."""

from __future__ import annotations

import io
import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from e2e.conftest import Reflected, config, running, to_bytes, until
from twinsight_core.collections import writer
from twinsight_core.host import cores
from twinsight_core.host.cores import one_core, usable_cores
from twinsight_core.search import indexer
from twinsight_server.app import Server

pytestmark = pytest.mark.skipif(
    not cores.CAN_CHOOSE or len(usable_cores()) < 2, reason="threads have no choice of cores here"
)


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


def threads() -> dict[int, str]:
    """Returns Python's threads, which are all that the product starts, with their names."""
    return {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}


def cores_of_new(before: dict[int, str]) -> dict[str, frozenset[int]]:
    """Returns by name on which cores threads run that were not there before."""
    found = dict[str, frozenset[int]]()
    for thread, name in threads().items():
        if thread not in before:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                found[name] = frozenset(os.sched_getaffinity(thread))
    return found


def answers(name: str) -> bool:
    return name.startswith("call_") or "_serve" in name


def test_threads_that_answer_keep_to_one_core_and_all_others_have_all(
    tmp_path: Path, cache_dir: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (writer, indexer):
        monkeypatch.setattr(module, "LINGER_S", 600.0)  # so that their threads are seen
    before = threads()

    def kept() -> set[str]:
        return {name for name, cores in cores_of_new(before).items() if cores != usable_cores()}

    with running(config(tmp_path, cache_dir)) as server:
        use(server, photos["coffee"])
        # A thread that has not had its turn yet has not left the core of the one that started it.
        until(lambda: all(map(answers, kept())))
        found = cores_of_new(before)
    assert {cores for name, cores in found.items() if answers(name)} == {one_core()}
    assert len(list(filter(answers, found))) >= 2  # the one that takes calls, and one at least that answers
    assert {"lane-base-0", "decode-slow-0", "twinsight-index-new", "twinsight-write-new"} <= set(found)
    assert os.sched_getaffinity(0) == usable_cores()


def test_without_it_every_thread_has_all_cores(tmp_path: Path, cache_dir: Path, photos: dict[str, bytes]) -> None:
    before = threads()
    with running(config(tmp_path, cache_dir, one_core=False)) as server:
        use(server, photos["coffee"])
        assert set(cores_of_new(before).values()) == {usable_cores()}
