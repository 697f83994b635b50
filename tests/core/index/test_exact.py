import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.index import exact
from twinsight_core.index.base import Metric, prepared, scores
from twinsight_core.index.exact import ExactIndex, ExactView, are_below


def _index(vectors: np.ndarray, metric: Metric) -> ExactIndex:
    index = ExactIndex(vectors.shape[1], metric)
    index.add(np.arange(len(vectors)), prepared(vectors, metric))
    return index


def _truth(query: np.ndarray, vectors: np.ndarray, metric: Metric) -> np.ndarray:
    """Scores by plain NumPy in float64, `[n]`."""
    q, x = query.astype(np.float64), vectors.astype(np.float64)
    truth: np.ndarray = x @ q
    if metric is Metric.EUCLIDEAN:
        truth = -np.linalg.norm(x - q, axis=1)
    elif metric is Metric.COSINE:
        truth /= np.linalg.norm(x, axis=1) * np.linalg.norm(q)
    return truth


def test_scores_worked_by_hand() -> None:
    query = np.array([[3, 4]], np.float32)
    vectors = np.array([[[3, 4], [4, -3], [0, 0.5]]], np.float32)
    assert scores(query, vectors, Metric.DOT).tolist() == [[25, 0, 2]]
    assert scores(query, vectors, Metric.EUCLIDEAN)[0] == pytest.approx([0, -(50**0.5), -((9 + 12.25) ** 0.5)])
    assert scores(query, vectors, Metric.COSINE)[0] == pytest.approx([1, 0, 0.8])


def test_scores_do_not_depend_on_how_the_vectors_lie() -> None:
    # Products that nearly cancel out, of which little is left but the order of the sum.
    whole = np.random.default_rng(3).integers(-2, 3, (500, 33)).astype(np.float32)
    vectors = prepared(whole + np.float32(1e-16), Metric.COSINE)
    spread = np.broadcast_to(vectors, (2, *vectors.shape))  # as float64 it would lie by columns
    for metric in Metric:
        expected = scores(vectors[:2], spread.copy(), metric).tobytes()
        assert scores(vectors[:2], spread, metric).tobytes() == expected
        assert scores(np.asfortranarray(vectors[:2]), np.asfortranarray(spread), metric).tobytes() == expected


@pytest.mark.parametrize(
    ("rows", "below"), [([], True), ([0, 4], True), ([4, 5], False), ([-1, 2], False), ([[3], [1]], True)]
)
def test_whether_all_rows_are_below_an_end(rows: list[int], below: bool) -> None:
    assert are_below(np.array(rows, np.int64), 5) is below


def test_distances_follow_from_scores() -> None:
    assert Metric.COSINE.distances([0.25, 1.0]) == [0.75, 0.0]
    assert Metric.EUCLIDEAN.distances([-2.0]) == [2.0]
    assert Metric.DOT.distances([3.0, -1.0]) == [-3.0, 1.0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_vector_is_exactly_like_itself_under_cosine_at_any_scale(scale: float) -> None:
    vectors = (np.random.default_rng(0).normal(size=(50, 33)) * scale).astype(np.float32)
    ready = prepared(vectors, Metric.COSINE)
    assert scores(ready, ready[:, None, :], Metric.COSINE).tolist() == [[1.0]] * 50


def test_equal_vectors_have_equal_bytes_once_prepared() -> None:
    ready = prepared(np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32), Metric.DOT)
    assert ready[0].tobytes() == ready[1].tobytes()


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("queries", [1, 40])
def test_it_gives_the_order_that_float64_gives(metric: Metric, queries: int) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(3000, 48)).astype(np.float32)
    asked = rng.normal(size=(queries, 48)).astype(np.float32)
    found = _index(vectors, metric).view.nearest(prepared(asked, metric), 10)
    for query, one in zip(asked, found, strict=True):
        truth = _truth(query, vectors, metric)
        assert one.rows.tolist() == np.argsort(-truth, kind="stable")[:10].tolist()
        assert one.scores == pytest.approx(truth[one.rows], rel=1e-6, abs=1e-6)


def test_equal_vectors_come_in_the_order_of_their_labels() -> None:
    index = ExactIndex(2, Metric.EUCLIDEAN, capacity=4)
    index.add(np.array([3, 5, 9, 12]), np.array([[1, 1], [0, 0], [1, 1], [1, 1]], np.float32))
    assert index.search(np.ones((1, 2), np.float32), 4).tolist() == [[3, 9, 12, 5]]


def test_vectors_far_from_the_origin_are_told_apart() -> None:
    # |x|^2 - 2 x.q in float32 has errors of 10 here, and the distances differ by 0.01.
    rng = np.random.default_rng(4)
    vectors = (10_000 + rng.normal(size=(500, 16))).astype(np.float32)
    found = _index(vectors, Metric.EUCLIDEAN).view.nearest(vectors, 5)
    for query, one in zip(vectors, found, strict=True):
        truth = _truth(query, vectors, Metric.EUCLIDEAN)
        assert one.scores == pytest.approx(np.sort(truth)[::-1][:5], rel=1e-6, abs=1e-6)
        assert one.scores[0] == 0.0


def test_steps_of_a_long_scan_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(1000, 16)).astype(np.float32)
    allowed = rng.random(1000) < 0.3
    whole = _index(vectors, Metric.EUCLIDEAN).view.nearest(vectors[:9], 12, allowed=allowed)
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 4 * 16 * 37)
    stepped = _index(vectors, Metric.EUCLIDEAN).view.nearest(vectors[:9], 12, allowed=allowed)
    assert [one.rows.tolist() for one in stepped] == [one.rows.tolist() for one in whole]


@settings(deadline=None, max_examples=150)
@given(data=st.data(), metric=st.sampled_from(list(Metric)))
def test_masks_slices_and_row_lists_give_what_a_plain_scan_gives(data: st.DataObject, metric: Metric) -> None:
    count = data.draw(st.integers(1, 60))
    # Few distinct values, so that ties are common.
    values = data.draw(st.lists(st.integers(-2, 2), min_size=count * 3, max_size=count * 3))
    vectors = np.array(values, np.float32).reshape(count, 3) + np.array([0, 0, 0.5], np.float32)
    index = _index(vectors, metric)
    dead = data.draw(st.lists(st.integers(0, count - 1)))
    index.remove(np.array(dead, np.int64))
    view = index.view
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))) & view.alive
    start = data.draw(st.integers(0, count))
    k = data.draw(st.integers(1, count + 2))
    query = prepared(vectors[:1] + np.float32(0.25), metric)
    every = scores(query, view.vectors[None], metric)[0]
    for among, pool in (
        (slice(start, None), np.arange(start, count)),
        (np.arange(start, count, 2), np.arange(start, count, 2)),
    ):
        pool_allowed = pool[mask[pool]]
        expected = sorted(pool_allowed.tolist(), key=lambda row: (-every[row], row))[:k]
        assert view.nearest(query, k, among=among, allowed=mask)[0].rows.tolist() == expected


def test_a_view_does_not_change_under_later_writes() -> None:
    index = _index(np.eye(4, dtype=np.float32), Metric.DOT)
    before = index.view
    index.apply(np.array([10]), np.ones((1, 4), np.float32), removed=np.array([0, 1]))
    assert (len(before), before.live, before.alive.tolist()) == (4, 4, [True] * 4)
    assert (len(index.view), index.view.live) == (5, 3)
    assert index.view.rows_of(np.array([10, 3, 77, -5])).tolist() == [4, 3, -1, -1]


def test_rows_of_labels_among_which_none_is_missing() -> None:
    index = ExactIndex(2, Metric.DOT)
    assert index.view.rows_of(np.array([[3, 4]])).tolist() == [[-1, -1]]
    index.add(np.array([3, 4, 5]), np.ones((3, 2), np.float32))
    assert index.view.rows_of(np.array([[5, 3, 2], [6, -1, 4]])).tolist() == [[2, 0, -1], [-1, -1, 1]]


@pytest.mark.parametrize("scores", [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [3.0, 1.0, 1.0], [1.0]])
def test_the_best_come_first_and_of_equal_ones_the_lower_row(scores: list[float]) -> None:
    rows = [7, 5, 6][: len(scores)]
    found = exact.in_order(np.array(rows), np.array(scores, np.float32), 2)
    expected = sorted(zip(scores, rows, strict=True), key=lambda one: (-one[0], one[1]))[:2]
    assert list(zip(found.scores.tolist(), found.rows.tolist(), strict=True)) == expected


def test_adding_and_removing_in_one_step_is_seen_at_once() -> None:
    class Watched(ExactIndex):
        seen: list[tuple[int, int]]

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if name == "view":
                self.__dict__.setdefault("seen", []).append((len(self.view), self.view.live))

    index = Watched(4, Metric.DOT, capacity=2)
    index.apply(np.arange(3), np.eye(4, dtype=np.float32)[:3], removed=np.empty(0, np.int64))
    index.apply(np.array([5, 6]), np.ones((2, 4), np.float32), removed=np.array([1]))
    assert index.seen == [(0, 0), (3, 3), (5, 4)]


@pytest.mark.parametrize("metric", [Metric.EUCLIDEAN, Metric.DOT])
def test_beside_one_long_vector_few_others_are_scored_in_float64(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).normal(size=(4000, 16)).astype(np.float32)
    query = vectors[:1] + np.float32(0.01)
    index = _index(vectors, metric)
    expected = index.search(query, 20)
    index.add(np.array([5000]), np.full((1, 16), 1e7, np.float32))
    index.remove(np.array([5000]))
    scored: list[int] = []
    score = ExactView.score

    def counted(view: ExactView, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        scored.append(rows.size)
        return score(view, queries, rows)

    monkeypatch.setattr(ExactView, "score", counted)
    np.testing.assert_array_equal(index.search(query, 20), expected)
    assert sum(scored) < 100
