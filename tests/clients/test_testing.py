"""The fake: deterministic, and able to fail on demand."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from twinsight_client import Cancelled, Client, ImageInput, InvalidArgument, ItemError, NewItem, NotFound, Unavailable
from twinsight_client.testing import AsyncFakeClient, FakeClient, MemoryServer

pytestmark = pytest.mark.client

Draw = Callable[[int], bytes]


def test_a_vector_depends_on_the_bytes_and_the_region_alone(picture: Draw) -> None:
    def vector(*images: bytes | ImageInput) -> list[list[float]]:
        return [one.vector.tolist() for one in FakeClient().embed(images).values()]

    whole, part, again = vector(picture(1), ImageInput(picture(1), region=(0, 0, 0.5, 1)), picture(1))
    assert whole == again
    assert whole != part
    assert vector(picture(1)) == [whole]
    (black,) = FakeClient().embed([np.zeros((1, 1, 3), np.uint8)]).values()
    # Worked out once: a change of it would break users' tests that keep vectors.
    assert black.vector[:3].tolist() == pytest.approx([0.202526, 0.068565, -0.090064], abs=1e-6)


def test_unlike_pictures_are_about_orthogonal_where_the_dimension_is_high() -> None:
    client = FakeClient(MemoryServer(dimension=1024))
    pixels = [np.full((1, 1, 3), value, np.uint8) for value in range(20)]
    vectors = np.array([one.vector for one in client.embed(pixels).values()])
    cosines = vectors @ vectors.T
    assert np.allclose(np.diag(cosines), 1, atol=1e-5)
    assert np.abs(cosines - np.diag(np.diag(cosines))).max() < 0.2


def png_header(width: int, height: int) -> bytes:
    """A PNG file of which no more than the size is there."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT"]
    packed = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "IMAGE_UNREADABLE"),
        (b"GIF89a", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\x89PNG\r\n\x1a\n", "IMAGE_UNREADABLE"),
        pytest.param(bytes(17 * 1024 * 1024), "IMAGE_TOO_LARGE", id="17 MiB"),
        pytest.param(png_header(7_000, 7_000), "IMAGE_TOO_LARGE", id="49 megapixels"),
        pytest.param(png_header(10_000, 10_000), "IMAGE_TOO_LARGE", id="100 megapixels"),
        pytest.param(png_header(20_000, 20_000), "IMAGE_TOO_LARGE", id="400 megapixels"),
        (ImageInput(np.zeros((1, 1, 3), np.uint8), region=(0.5, 0, 0.5, 1)), "REGION_INVALID"),
    ],
)
def test_pictures_that_a_server_would_refuse_are_refused(image: bytes | ImageInput, reason: str) -> None:
    (answer,) = FakeClient().embed([image])
    assert isinstance(answer, ItemError)
    assert (answer.code, answer.reason) == ("INVALID_ARGUMENT", reason)


def test_truncated_pictures_are_refused(picture: Draw) -> None:
    assert [error.reason for error in FakeClient().embed([picture(1)[:-40]]).errors()] == ["IMAGE_UNREADABLE"]


def test_calls_fail_on_demand_once_each_and_then_go_on() -> None:
    client = FakeClient()
    client.server.fail_next(Unavailable("Draining."), InvalidArgument("No."))
    with pytest.raises(Unavailable, match="Draining"):
        client.list_models()
    with pytest.raises(InvalidArgument, match="No"):
        client.get_model()
    assert len(client.list_collections()) == 0


def test_a_message_of_an_embed_stream_fails_alone_unless_the_server_goes_away(picture: Draw) -> None:
    client = FakeClient()
    batches = client.embed_stream([picture(1), picture(2), picture(3)], batch_size=1)
    client.server.fail_next(NotFound("No model.", reason="MODEL_NOT_FOUND"))
    assert [[(one.index, one.reason) for one in batch.errors()] for batch in batches] == [
        [(0, "MODEL_NOT_FOUND")],
        [],
        [],
    ]
    client.server.fail_next(Unavailable("Draining."))
    with pytest.raises(Unavailable):
        list(client.embed_stream([picture(1)]))


def test_clients_of_one_server_see_each_others_writes() -> None:
    server = MemoryServer(models=["a", "b"], classifiers=(), detectors=(), dimension=4)
    with FakeClient(server) as writer:
        writer.create_collection("c", model="b")
        writer.upsert("c", [NewItem("x", [1.0, 0.0, 0.0, 0.0])]).values()
        assert isinstance(writer, Client)
        assert [(card.name, card.is_default) for card in writer.list_models()] == [("a", True), ("b", False)]

    async def read() -> int:
        async with AsyncFakeClient(server) as reader:
            return (await reader.get_collection("c")).item_count

    assert asyncio.run(read()) == 1


def test_labels_and_boxes_depend_on_the_bytes_alone(picture: Draw) -> None:
    def seen(number: int) -> list[object]:
        with FakeClient() as client:
            return [*client.classify([picture(number)]), *client.detect([picture(number)], score_threshold=0)]

    assert seen(1) == seen(1) != seen(2)


def test_of_models_for_a_task_the_only_one_needs_no_name(picture: Draw) -> None:
    client = FakeClient(MemoryServer(classifiers=["one", "other"], detectors=()))
    with pytest.raises(InvalidArgument, match=r"^`model` must be set; available for classification: `one`, `other`\.$"):
        client.classify([picture(1)])
    assert client.classify([picture(1)], model="other").model.name == "other"
    with pytest.raises(NotFound, match=r"^No model for detection is loaded\.$"):
        client.detect([picture(1)])


@pytest.mark.parametrize(
    ("metric", "scores"),
    # From (1, 0): to (2, 0), (0, 1) and (1, 0).
    [
        ("cosine", {"double": (1.0, 0.0), "square": (0.0, 1.0), "same": (1.0, 0.0)}),
        ("euclidean", {"double": (-1.0, 1.0), "square": (-np.sqrt(2), np.sqrt(2)), "same": (0.0, 0.0)}),
        ("dot", {"double": (2.0, -2.0), "square": (0.0, 0.0), "same": (1.0, -1.0)}),
    ],
)
def test_scores_and_distances_are_the_contracts(metric: str, scores: dict[str, tuple[float, float]]) -> None:
    client = FakeClient()
    client.create_collection("c", dimension=2, metric=metric)
    client.upsert(
        "c", [NewItem("double", [2.0, 0.0]), NewItem("square", [0.0, 1.0]), NewItem("same", [1.0, 0.0])]
    ).values()
    (matches,) = client.search("c", [[1.0, 0.0]]).values()
    assert {match.id: (match.score, match.distance) for match in matches} == {
        name: pytest.approx(pair, abs=1e-6) for name, pair in scores.items()
    }
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
    assert all(match.probability is None for match in matches)


def test_a_match_passes_its_own_score_as_the_least() -> None:
    client = FakeClient()
    client.create_collection("c", dimension=8)
    rng = np.random.default_rng(0)
    client.upsert("c", [NewItem(str(n), rng.normal(size=8)) for n in range(50)]).values()
    query = rng.normal(size=8)
    (all_of_them,) = client.search("c", [query], top_k=50).values()
    for number, match in enumerate(all_of_them, 1):
        (found,) = client.search("c", [query], top_k=50, min_score=match.score).values()
        assert len(found) == number


def test_a_region_that_rounding_carried_over_the_edge_is_taken_as_by_a_server() -> None:
    picture = ImageInput(np.zeros((2, 2, 3), np.uint8), region=(0.0, 0.0, float(np.float32(1.0000001)), 1.0))
    with FakeClient() as client:
        assert not client.embed([picture], model="fake").errors()


def test_a_closed_client_answers_nothing_as_a_real_one() -> None:
    def batches() -> Iterator[NewItem]:
        for number in range(3):
            if number == 2:
                client.close()
            yield NewItem(str(number), [1.0, 0.0])

    client = FakeClient()
    client.create_collection("photos", dimension=2)
    with pytest.raises(Cancelled) as streaming:
        list(client.ingest("photos", batches(), batch_size=1))
    with pytest.raises(Cancelled):
        list(client.ingest("photos", []))
    with pytest.raises(Cancelled) as calling:
        client.get_collection("photos")
    assert (streaming.value.reason, calling.value.reason) == ("CLIENT_CLOSED", "CLIENT_CLOSED")

    async def after_closing() -> None:
        async with AsyncFakeClient() as closed:
            await closed.list_models()
        await closed.list_models()

    with pytest.raises(Cancelled):
        asyncio.run(after_closing())
