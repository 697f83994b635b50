"""The whole contract, through the client over gRPC and through the fake: both must say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from twinsight_client import (
    AlreadyExists,
    Client,
    CollectionState,
    FailedPrecondition,
    HealthStatus,
    ImageInput,
    InvalidArgument,
    ItemError,
    ItemId,
    Metric,
    ModelTask,
    NewItem,
    NotFound,
    Unavailable,
    field,
)
from twinsight_client.testing import FakeClient

from .conftest import WireServer

pytestmark = pytest.mark.client

Draw = Callable[[int], bytes]


@pytest.fixture(params=["grpc", "fake"])
def client(request: pytest.FixtureRequest, wire: WireServer) -> Iterator[Client]:
    with Client(wire.address) if request.param == "grpc" else FakeClient(wire.memory) as client:
        yield client


@pytest.fixture
def photos(client: Client, picture: Draw) -> str:
    client.create_collection("photos", model="fake")
    items = [NewItem(f"p{n}", picture(n), {"year": 2000 + n, "tags": ["even"] if n % 2 == 0 else []}) for n in range(5)]
    assert client.upsert("photos", items).values() == ["p0", "p1", "p2", "p3", "p4"]
    return "photos"


def test_embed_answers_each_picture_on_its_own_and_in_order(client: Client, picture: Draw) -> None:
    results = client.embed([picture(1), b"no picture", picture(2), picture(1)])
    broken = results[1]
    assert isinstance(broken, ItemError)
    assert (broken.index, broken.reason, broken.field) == (1, "IMAGE_FORMAT_UNSUPPORTED", "images[1].encoded")
    assert [error.index for error in results.errors()] == [1]
    with pytest.raises(InvalidArgument, match="not a JPEG, PNG or WebP file"):
        results.values()
    vectors = [one.vector for one in results.successes()]
    assert [one.dtype for one in vectors] == [np.float32] * 3
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])
    assert results.model.name == "fake"
    assert results.model.digest.startswith("sha256:")


def test_embed_takes_files_arrays_and_regions(client: Client, picture: Draw, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    by_path, by_bytes = client.embed([tmp_path / "a.jpg", picture(1)]).values()
    assert np.array_equal(by_path.vector, by_bytes.vector)
    assert client.embed([np.zeros((2, 2, 3), np.uint8)]).values()[0].dimension == 16


def test_a_lone_picture_is_refused_where_many_are_asked_for(client: Client) -> None:
    with pytest.raises(TypeError, match=r"^`images` must be a list, even for a single value\.$"):
        client.embed("cat.jpg")
    with pytest.raises(InvalidArgument, match=r"^`images` has 0 entries; it must have 1 to 256\.$"):
        client.embed([])


def test_embed_stream_answers_batch_by_batch_with_indices_over_all(client: Client, picture: Draw) -> None:
    pictures = [picture(1), picture(2), picture(3), b"broken", picture(4)]
    batches = list(client.embed_stream(pictures, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [error.index for batch in batches for error in batch.errors()] == [3]
    expected = client.embed(pictures)
    got = [answer for batch in batches for answer in batch]
    for left, right in zip(got, expected, strict=True):
        if not isinstance(left, ItemError) and not isinstance(right, ItemError):
            assert np.array_equal(left.vector, right.vector)
    assert list(client.embed_stream([])) == []


def test_compare_takes_pictures_and_vectors(client: Client, picture: Draw) -> None:
    vector = client.embed([picture(1)]).values()[0].vector
    results = client.compare(
        [(picture(1), picture(1)), (picture(1), vector * 3), (picture(1), picture(2)), (b"", [1.0])]
    )
    same, scaled, other = results.successes()
    assert same.cosine_similarity == pytest.approx(1, abs=1e-6)
    assert same.euclidean_distance == pytest.approx(0, abs=1e-6)
    assert same.probability == pytest.approx(1, abs=1e-6)
    assert same.same is True
    assert scaled.cosine_similarity == pytest.approx(1, abs=1e-6)
    assert other.cosine_similarity < 0.9
    assert other.euclidean_distance == pytest.approx(np.sqrt(2 - 2 * other.cosine_similarity), abs=1e-5)
    assert [error.field for error in results.errors()] == ["pairs[3].left.image.encoded"]


@pytest.mark.parametrize(
    ("target_fmr", "threshold", "point"),
    [(None, 0.5, None), (1.0, 0.3, 0.1), (0.1, 0.3, 0.1), (0.05, 0.7, 0.01), (float(np.float32(0.01)), 0.7, 0.01)],
)
def test_compare_decides_at_the_point_for_a_false_match_rate(
    client: Client, target_fmr: float | None, threshold: float, point: float | None
) -> None:
    # A cosine of 0.6.
    pair = ([1.0] + [0.0] * 15, [0.6, 0.8] + [0.0] * 14)
    (one,) = client.compare([pair], target_fmr=target_fmr).values()
    assert (one.threshold, one.target_fmr, one.same) == (threshold, point, threshold <= 0.6)
    assert (one.false_match_rate, one.false_non_match_rate) == (0.0, 0.0)


def test_compare_refuses_a_false_match_rate_below_all_points_and_names_them(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"operating points: 0\.1, 0\.01\.$") as raised:
        client.compare([([1.0] * 16, [1.0] * 16)], target_fmr=0.001)
    assert (raised.value.reason, raised.value.field) == ("TARGET_FMR_UNKNOWN", "target_fmr")
    with pytest.raises(InvalidArgument, match="above 0 and at most 1"):
        client.compare([([1.0] * 16, [1.0] * 16)], target_fmr=0.0)


def test_classify_answers_each_picture_with_its_most_probable_labels(client: Client, picture: Draw) -> None:
    results = client.classify([picture(1), b"broken", picture(2)], top_k=2)
    assert [(error.index, error.field) for error in results.errors()] == [(1, "images[1].encoded")]
    for labels in results.successes():
        assert len(labels) == 2
        assert labels[0].probability >= labels[1].probability
    assert results.model.name == "fake-classifier"
    (every,) = client.classify([picture(1)]).values()
    assert {one.label for one in every} == set(client.get_model("fake-classifier").labels)
    assert sum(one.probability for one in every) == pytest.approx(1, abs=1e-6)
    assert every[:2] == results[0]
    with pytest.raises(InvalidArgument) as raised:
        client.classify([picture(1)], top_k=-1)
    assert raised.value.field == "top_k"


def test_detect_answers_each_picture_with_what_is_in_it(client: Client, picture: Draw) -> None:
    results = client.detect([picture(1), b"broken"], score_threshold=0)
    assert [(error.index, error.field) for error in results.errors()] == [(1, "images[1].encoded")]
    (found,) = results.successes()
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert {one.label for one in found} <= set(client.get_model("fake-detector").labels)
    for one in found:
        assert 0 <= one.box.x_min < one.box.x_max <= 1
        assert 0 <= one.box.y_min < one.box.y_max <= 1
    assert client.detect([picture(1)], score_threshold=0, max_detections=1).values() == [found[:1]]
    least = found[1].score
    assert client.detect([picture(1)], score_threshold=least).values() == [found[:2]]
    assert client.detect([picture(1)]).values() == [[one for one in found if one.score >= 0.5]]
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidArgument) as raised:
            client.detect([picture(1)], score_threshold=wrong)
        assert raised.value.field == "score_threshold"
    with pytest.raises(InvalidArgument) as raised:
        client.detect([picture(1)], max_detections=-1)
    assert raised.value.field == "max_detections"


def test_a_box_that_was_found_is_a_region_to_look_at(client: Client, picture: Draw) -> None:
    (found,) = client.detect([picture(1)], score_threshold=0).values()
    part = found[0].box
    (within,) = client.detect([ImageInput(picture(1), region=part)], score_threshold=0).values()
    for one in within:
        assert part.x_min <= one.box.x_min < one.box.x_max <= part.x_max
        assert part.y_min <= one.box.y_min < one.box.y_max <= part.y_max


def test_a_model_of_another_task_is_refused(client: Client, picture: Draw) -> None:
    calls: list[Callable[[], object]] = [
        lambda: client.embed([picture(1)], model="fake-detector"),
        lambda: client.classify([picture(1)], model="fake"),
        lambda: client.detect([picture(1)], model="fake-classifier"),
        lambda: client.create_collection("c", model="fake-classifier"),
    ]
    for call in calls:
        with pytest.raises(FailedPrecondition, match=r"^Model `fake\S*` is for \w+, not \w+\.$") as raised:
            call()
        field = "collection.model" if call is calls[-1] else "model"
        assert (raised.value.reason, raised.value.field) == ("MODEL_TASK", field)


def test_collections_are_made_described_listed_and_deleted(client: Client) -> None:
    made = client.create_collection("b", model="fake")
    assert (made.id, made.model, made.dimension, made.metric) == ("b", "fake", 16, Metric.COSINE)
    assert made.model_digest == client.get_model("fake").digest
    assert made.state is CollectionState.READY
    client.create_collection("a", dimension=3, metric="euclidean")
    assert client.get_collection("a").metric is Metric.EUCLIDEAN
    assert [one.id for one in client.list_collections()] == ["a", "b"]
    client.delete_collection("b")
    assert [one.id for one in client.list_collections()] == ["a"]
    with pytest.raises(NotFound, match=r"^Collection `b` does not exist; available: `a`\.$") as raised:
        client.get_collection("b")
    assert raised.value.reason == "COLLECTION_NOT_FOUND"
    with pytest.raises(AlreadyExists, match="Collection `a` already exists"):
        client.create_collection("a", dimension=3)
    with pytest.raises(InvalidArgument, match=r"^`metric` \(=manhattan\) must be one of cosine, euclidean, dot\.$"):
        client.create_collection("c", dimension=3, metric="manhattan")


def test_search_finds_by_picture_by_vector_and_by_item(client: Client, photos: str, picture: Draw) -> None:
    vector = client.embed([picture(3)]).values()[0].vector
    results = client.search(photos, [picture(3), vector, ItemId("p3"), b"broken", ItemId("gone")], top_k=2)
    for matches in results.successes():
        assert matches[0].id == "p3"
        assert len(matches) == 2
        assert matches[0].score == pytest.approx(1, abs=1e-6)
        assert matches[0].distance == pytest.approx(0, abs=1e-6)
        assert matches[0].metadata == {"year": 2003, "tags": ()}
        assert matches[0].vector is None
    assert [(error.index, error.code) for error in results.errors()] == [(3, "INVALID_ARGUMENT"), (4, "NOT_FOUND")]


def test_an_item_can_be_left_out_of_its_own_matches(client: Client, photos: str, picture: Draw) -> None:
    client.upsert(photos, [NewItem(f"copy-{n}", picture(3)) for n in range(3)]).values()
    queries: list[bytes | ItemId] = [ItemId("p3"), ItemId("copy-1"), picture(3)]
    for ef, exact in ((0, False), (4, False), (0, True)):
        found = client.search(photos, queries, top_k=4, ef=ef, exact=exact, exclude_self=True).values()
        assert [{one.id for one in matches} & {"p3", "copy-0", "copy-1", "copy-2"} for matches in found] == [
            {"copy-0", "copy-1", "copy-2"},
            {"p3", "copy-0", "copy-2"},
            {"p3", "copy-0", "copy-1", "copy-2"},
        ]
        assert [len(matches) for matches in found] == [4, 4, 4]
    (all_others,) = client.search(photos, [ItemId("p3")], top_k=1000, exclude_self=True).values()
    assert len(all_others) == 7
    with pytest.raises(InvalidArgument, match=r"^`ef` \(=3\) must be `top_k` \(=4\) to 4096, or 0\.$"):
        client.search(photos, [ItemId("p3")], top_k=4, ef=3, exclude_self=True)


def test_search_keeps_to_filter_score_and_what_is_asked_for(client: Client, photos: str, picture: Draw) -> None:
    (even,) = client.search(photos, [picture(3)], where=field("tags") == "even", include_metadata=False).values()
    assert {match.id for match in even} == {"p0", "p2", "p4"}
    assert all(match.metadata == {} for match in even)
    (near,) = client.search(photos, [picture(3)], min_score=0.99, include_vectors=True).values()
    assert [match.id for match in near] == ["p3"]
    assert near[0].vector is not None
    assert np.array_equal(near[0].vector, client.embed([picture(3)]).values()[0].vector)
    with pytest.raises(InvalidArgument, match=r"^`top_k` \(=0\) must be between 1 and 1000\.$") as raised:
        client.search(photos, [picture(3)], top_k=0)
    assert raised.value.field == "top_k"


def test_vectors_of_another_model_are_refused(client: Client, photos: str) -> None:
    with pytest.raises(FailedPrecondition) as raised:
        client.search(photos, [[1.0] * 16], vector_model_digest="sha256:other")
    assert raised.value.reason == "MODEL_MISMATCH"


def test_items_are_replaced_read_and_deleted(client: Client, photos: str) -> None:
    client.upsert(photos, [NewItem("p1", [1.0] + [0.0] * 15, {"year": 1999})]).values()
    results = client.get_items(photos, ["p1", "gone"], include_vectors=True)
    (item,) = results.successes()
    assert item.metadata == {"year": 1999}
    assert item.vector is not None
    assert item.vector.tolist() == [1.0] + [0.0] * 15
    assert [(error.index, error.code) for error in results.errors()] == [(1, "NOT_FOUND")]

    deleted = client.delete_items(photos, ["p0", "gone"])
    assert (deleted.deleted_count, deleted.successes(), len(deleted.errors())) == (1, ["p0"], 1)
    by_filter = client.delete_items(photos, where=field("year") >= 2003)
    assert (by_filter.deleted_count, len(by_filter)) == (2, 0)
    assert client.delete_items(photos, ["p0"], purge=True).deleted_count == 0
    assert [item.id for page in client.list_items(photos) for item in page.values()] == ["p1", "p2"]


def test_pages_follow_one_another_to_the_end(client: Client, photos: str) -> None:
    pages = [[item.id for item in page.values()] for page in client.list_items(photos, page_size=2)]
    assert pages == [["p0", "p1"], ["p2", "p3"], ["p4"]]
    some = client.list_items(photos, where=field("year") < 2002, page_size=1)
    assert [item.id for page in some for item in page.values()] == ["p0", "p1"]
    client.create_collection("empty", dimension=1)
    assert [list(page) for page in client.list_items("empty")] == [[]]


def test_one_bad_item_never_fails_its_neighbours(client: Client, photos: str) -> None:
    good = [1.0] * 16
    results = client.upsert(
        photos, [NewItem("x", good), NewItem("", good), NewItem("short", [1.0]), NewItem("zero", [0.0] * 16)]
    )
    assert results.successes() == ["x"]
    assert [error.field for error in results.errors()] == ["items[1].id", "items[2].vector", "items[3].vector"]


def test_ingest_acknowledges_batches_and_resumes_after_the_last(client: Client) -> None:
    client.create_collection("c", dimension=1)
    items = [NewItem(f"i{n}", [1.0]) for n in range(5)]
    begun = client.ingest("c", items, ingest_id="bulk", batch_size=2)
    first = next(begun)
    assert (first.batch, first.last_batch, first.values()) == (2, 2, ["i0", "i1"])
    begun.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    client.delete_items("c", ["i0", "i1"])

    rest = list(client.ingest("c", items, ingest_id="bulk", batch_size=2))
    written = {item.id for page in client.list_items("c") for item in page.values()}
    # The batch that was acknowledged is not written again; those under way when it broke off may have been.
    assert written == {"i2", "i3", "i4"}
    assert rest == [] or rest[-1].last_batch == 5
    assert list(client.ingest("c", items, ingest_id="bulk", batch_size=2)) == []


def test_ingest_without_a_name_writes_everything(client: Client) -> None:
    client.create_collection("c", dimension=1)
    batches = list(
        client.ingest("c", [NewItem("a", [1.0]), NewItem("b", [1.0, 2.0]), NewItem("c", [1.0])], batch_size=2)
    )
    assert [batch.successes() for batch in batches] == [["a"], ["c"]]
    assert [error.index for batch in batches for error in batch.errors()] == [1]
    assert [batch.last_batch for batch in batches] == [0, 0]


@pytest.mark.parametrize(
    ("call", "path", "said"),
    [
        (lambda client: client.search("c", [[1.0]], top_k=10**12), "top_k", "`top_k` (=1000000000000)"),
        (lambda client: client.classify([b""], top_k=2**31), "top_k", "`top_k` (=2147483648)"),
        (lambda client: client.detect([b""], max_detections=2**31), "max_detections", "`max_detections` (=2147483648)"),
        (lambda client: client.search("c", [[1.0]], ef=2**31), "ef", "`ef` (=2147483648)"),
        (lambda client: next(client.list_items("c", page_size=2**31)), "page_size", "`page_size` (=2147483648)"),
        (
            lambda client: client.create_collection("c", dimension=-(2**31) - 1),
            "collection.dimension",
            "`dimension` (=-2147483649)",
        ),
    ],
)
def test_a_number_that_the_wire_can_not_hold_is_refused_before_sending(
    client: Client, call: Callable[[Client], object], path: str, said: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        call(client)
    assert raised.value.message == f"{said} must fit a signed 32-bit integer."
    assert (raised.value.reason, raised.value.field) == ("CLIENT_CHECK", path)


def test_models_have_cards(client: Client) -> None:
    card, classifier, detector = client.list_models()
    assert card == client.get_model() == client.get_model("fake")
    assert (card.name, card.task, card.dimension, card.is_default) == ("fake", ModelTask.EMBEDDING, 16, True)
    assert card.calibration is not None
    assert card.calibration.threshold == 0.5
    assert (card.calibration.false_match_rate_low, card.labels) == (None, ())
    assert [(one.target_fmr, one.threshold) for one in card.calibration.operating_points] == [(0.1, 0.3), (0.01, 0.7)]
    assert card.calibration.operating_points[0].false_match_rate_high == 0.1
    assert [one.task for one in (classifier, detector)] == [ModelTask.CLASSIFICATION, ModelTask.DETECTION]
    assert (detector.labels, detector.dimension, detector.calibration) == (("bird", "cat", "dog"), 0, None)
    with pytest.raises(NotFound, match=r"^Model `big` does not exist; available: `fake`, "):
        client.embed([b"x"], model="big")


def test_health_is_told_and_waited_for(client: Client, wire: WireServer) -> None:
    assert client.health() is HealthStatus.SERVING
    client.wait_ready()
    wire.memory.is_serving = False
    assert client.health() is HealthStatus.NOT_SERVING
    with pytest.raises(Unavailable, match=r"^The server responds, but is not_serving\.$"):
        client.wait_ready(timeout_s=0.05)
