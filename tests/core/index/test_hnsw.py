import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters, HnswIndex, exponent_for, is_fit

PARAMETERS = GraphParameters(threads=2)


def _graph(vectors: np.ndarray) -> HnswIndex:
    graph = HnswIndex(vectors.shape[1], Metric.EUCLIDEAN, PARAMETERS, capacity=len(vectors))
    graph.add(np.arange(len(vectors)), vectors)
    return graph


def _vectors(count: int, dimension: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)


def test_each_search_has_its_own_width() -> None:
    vectors = _vectors(3000, 64)
    graph = _graph(vectors)
    queries = _vectors(3300, 64)[3000:]
    truth = np.argsort(np.linalg.norm(vectors[None] - queries[:100, None], axis=2), axis=1)[:, :10]

    def recall(width: int) -> float:
        found = graph.search(queries[:100], width)[:, :10]
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), truth.tolist(), strict=True)]))

    narrow, wide = recall(10), recall(1500)
    assert narrow < 0.9
    assert wide >= 0.99
    assert recall(10) == narrow  # a wide search leaves nothing behind


def test_a_saved_graph_gives_the_same_answers(tmp_path: Path) -> None:
    vectors = _vectors(1500)
    graph = _graph(vectors)
    graph.remove(np.arange(100))
    size = graph.save(tmp_path / "graph")
    assert size == (tmp_path / "graph").stat().st_size
    loaded = HnswIndex.load(tmp_path / "graph", 16, Metric.EUCLIDEAN, PARAMETERS, alive=np.arange(100, 1500))
    assert (len(loaded), loaded.dead) == (len(graph), graph.dead) == (1400, 100)
    assert np.array_equal(loaded.search(vectors[:200], 20), graph.search(vectors[:200], 20))
    assert loaded.labels().tolist() == list(range(1500))
    loaded.add(np.array([2000]), vectors[:1] + 2)
    assert loaded.search(vectors[:1] + 2, 50)[0, 0] == 2000


def test_a_loaded_graph_has_no_more_room_than_it_needs_and_grows(tmp_path: Path) -> None:
    graph = HnswIndex(16, Metric.EUCLIDEAN, PARAMETERS, capacity=5000)
    graph.add(np.arange(1500), _vectors(1500))
    graph.save(tmp_path / "graph")
    loaded = HnswIndex.load(tmp_path / "graph", 16, Metric.EUCLIDEAN, PARAMETERS, alive=np.arange(1500))
    assert loaded._native.get_max_elements() == 1500
    assert np.array_equal(loaded.search(_vectors(200), 20), graph.search(_vectors(200), 20))
    loaded.add(np.arange(1500, 1600), _vectors(1600)[1500:])
    assert loaded.search(_vectors(1600)[1500:], 50)[:, 0].tolist() == list(range(1500, 1600))


def test_what_was_removed_after_saving_is_removed_on_loading(tmp_path: Path) -> None:
    vectors = _vectors(300)
    _graph(vectors).save(tmp_path / "graph")
    loaded = HnswIndex.load(tmp_path / "graph", 16, Metric.EUCLIDEAN, PARAMETERS, alive=np.arange(10, 300))
    assert not set(loaded.search(vectors[:10], 290).ravel().tolist()) & set(range(10))


def test_a_file_that_is_no_graph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "graph").write_bytes(b"")
    with pytest.raises(RuntimeError):
        HnswIndex.load(tmp_path / "graph", 16, Metric.EUCLIDEAN, PARAMETERS, alive=np.arange(1))


def test_points_out_of_reach_are_left_blank_instead_of_failing() -> None:
    # 60 copies link to one another alone: a walk that ends among them finds no other point.
    vectors = np.concatenate([np.ones((60, 16), np.float32), _vectors(400) + 50])
    graph = _graph(vectors)
    found = graph.search(np.ones((1, 16), np.float32), 460)
    assert found.shape == (1, 460)
    reached = found[0][found[0] >= 0]
    assert len(set(reached.tolist())) == len(reached) > 0
    assert (found[0][len(reached) :] == -1).all()


def test_searches_come_between_when_many_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _vectors(2000)
    graph = _graph(vectors)
    left = list[int]()
    release = graph._lock.release_write

    def released() -> None:
        release()
        left.append(len(graph))

    monkeypatch.setattr(graph._lock, "release_write", released)
    graph.remove(np.arange(1000))
    assert left[-1] == 1000
    assert max(np.diff([-2000, *(-count for count in left)])) <= 256


def test_adding_removing_and_growing_beside_searches() -> None:
    vectors = _vectors(6000)
    graph = HnswIndex(16, Metric.EUCLIDEAN, PARAMETERS, capacity=1)
    graph.add(np.arange(200), vectors[:200])
    done = threading.Event()
    failures: list[BaseException] = []

    def searching() -> None:
        try:
            while not done.is_set():
                found = graph.search(vectors[100:164], 10)
                assert found[:, 0].tolist() == list(range(100, 164))
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=searching) for _ in range(3)]
    for thread in threads:
        thread.start()
    for first in range(200, 6000, 50):
        graph.add(np.arange(first, first + 50), vectors[first : first + 50])
        graph.remove(np.arange(first, first + 5))
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(graph) == 6000 - 116 * 5


@pytest.mark.parametrize("of_vectors", [1e-30, 1e-4, 1e-3, 1.0, 1e15])
@pytest.mark.parametrize("of_queries", [1e-30, 1.0, 1e15])
def test_how_long_vectors_and_queries_are_costs_no_recall(tmp_path: Path, of_vectors: float, of_queries: float) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16)) / 4
    drawn = (centres[rng.integers(20, size=1550)] + 0.1 * rng.normal(size=(1550, 16))).astype(np.float32)
    vectors, queries = drawn[:1500] * np.float32(of_vectors), drawn[1500:] * np.float32(of_queries)
    exponent = exponent_for(Metric.DOT, float(np.linalg.norm(vectors.astype(np.float64), axis=1).max()))
    graph = HnswIndex(16, Metric.DOT, PARAMETERS, exponent=exponent)
    graph.add(np.arange(1500), vectors)
    truth = np.argsort(-queries.astype(np.float64) @ vectors.T.astype(np.float64))[:, :10]
    found = graph.search(queries, 100)
    shared = [len(set(a) & set(b)) for a, b in zip(truth.tolist(), found[:, :10].tolist(), strict=True)]
    assert np.mean(shared) >= 9.8
    graph.save(tmp_path / "graph")
    loaded = HnswIndex.load(tmp_path / "graph", 16, Metric.DOT, PARAMETERS, alive=np.arange(1500), exponent=exponent)
    assert np.array_equal(loaded.search(queries, 100), found)
    loaded.add(np.array([1500]), vectors[:1] * np.float32(2))
    assert loaded.search(vectors[:1], 100)[0, 0] == 1500


def test_a_graph_is_fit_for_vectors_of_many_lengths_and_not_of_all() -> None:
    exponent = exponent_for(Metric.DOT, 1.0)
    assert exponent == 29
    assert [is_fit(exponent, Metric.DOT, length) for length in (0.0, 1e-11, 1e-9, 1.0, 1e9, 1e11)] == [
        *(True, False),
        *(True, True, True, False),
    ]
    assert not is_fit(0, Metric.DOT, 1e-3)  # of an earlier release
    assert is_fit(0, Metric.DOT, 1.0)
    assert exponent_for(Metric.COSINE, 1e-3) == exponent_for(Metric.EUCLIDEAN, 1e-3) == 0
    assert is_fit(0, Metric.EUCLIDEAN, 1e-30)
    for length in (1e-45, 1e-4, 1.0, 1e15):
        assert is_fit(exponent_for(Metric.DOT, length), Metric.DOT, length)
    assert exponent_for(Metric.DOT, 0.0) == 0


# Where threads are short, a process has memory for the stack of one more, but not of two.
_FEW_THREADS = """
import resource
import numpy as np
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters, HnswIndex

vectors = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
graph = HnswIndex(16, Metric.EUCLIDEAN, GraphParameters(threads=4), capacity=3000)
stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + stack + stack // 2, resource.RLIM_INFINITY))
graph.add(np.arange(3000), vectors)
found = graph.search(vectors[:200], 50)[:, 0]
print(len(graph), np.mean(found == np.arange(200)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_process_that_gets_only_some_of_the_threads_goes_on_without() -> None:
    command = ["sh", "-c", 'ulimit -S -s 8192 && exec "$@"', "sh", sys.executable, "-c", _FEW_THREADS]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    count, recall = ended.stdout.split()
    assert count == "3000"
    assert float(recall) > 0.99
