from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image as Pillow

from e2e import errors
from e2e.conftest import Dynamic, Reflected, as_jpeg, edited, from_bytes
from twinsight_server.app import Server

# One program for each batch size sums in another order; measured: at most 2e-7.
SAME_VECTOR = 1e-6


def embed(api: Reflected, *images: bytes) -> list[np.ndarray]:
    response = api.call("InferenceService", "Embed", images=[{"encoded": one} for one in images])
    return [from_bytes(result.embedding.vector) for result in response.results]


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def test_of_twenty_photos_the_broken_two_fail_alone_and_in_order(api: Reflected, photos: dict[str, bytes]) -> None:
    twenty = (list(photos.values()) * 2)[:20]
    twenty[3] = twenty[3][: len(twenty[3]) // 2]
    twenty[11] = png_claiming(13000, 13000)
    response = api.call("InferenceService", "Embed", model="base", images=[{"encoded": one} for one in twenty])
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds == ["error" if n in {3, 11} else "embedding" for n in range(20)]
    assert response.model.name == "base"
    assert response.model.digest.startswith("sha256:")
    for number, reason, field in (
        (3, "IMAGE_UNREADABLE", "images[3].encoded"),
        (11, "IMAGE_TOO_LARGE", "images[11].encoded"),
    ):
        error = response.results[number].error
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert error.details[0].Unpack(info)
        assert error.details[1].Unpack(bad)
        assert (info.reason, info.domain) == (reason, "twinsight")
        assert [one.field for one in bad.field_violations] == [field]
    for number in set(range(20)) - {3, 11}:
        embedding = response.results[number].embedding
        vector = from_bytes(embedding.vector)
        assert len(vector) == embedding.dimension
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_picture_has_one_vector_whatever_batch_it_rode_in(api: Reflected, photos: dict[str, bytes]) -> None:
    one, *others = photos.values()
    (alone,) = embed(api, one)
    for companions in range(1, len(others)):
        vectors = embed(api, *others[:companions], one)
        assert np.abs(vectors[-1] - alone).max() <= SAME_VECTOR


def test_calls_that_share_batches_get_their_own_vectors(api: Reflected, photos: dict[str, bytes]) -> None:
    alone = {name: embed(api, data)[0] for name, data in photos.items()}
    names = list(photos) * 8
    with ThreadPoolExecutor(16) as pool:
        for name, vectors in zip(names, pool.map(lambda name: embed(api, photos[name]), names), strict=True):
            assert np.abs(vectors[0] - alone[name]).max() <= SAME_VECTOR


def test_an_edited_copy_is_nearer_than_any_other_photo(api: Reflected, photos: dict[str, bytes]) -> None:
    originals = np.stack(embed(api, *photos.values()))

    def edits(picture: Pillow.Image) -> Pillow.Image:
        width, height = picture.size
        return picture.crop((width // 12, height // 12, width - width // 12, height - height // 12)).rotate(5)

    copies = np.stack(embed(api, *(edited(data, edits) for data in photos.values())))
    assert (copies @ originals.T).argmax(axis=1).tolist() == list(range(len(photos)))


def test_raw_pixels_and_a_region_embed_as_the_same_part_encoded(api: Reflected, photos: dict[str, bytes]) -> None:
    pixels = np.asarray(Pillow.open(io.BytesIO(photos["chelsea"])))[:256, :256]
    raw = {"height": 256, "width": 256, "rgb": pixels.tobytes()}
    half = pixels[:, :128]
    region = {"x_min": 0.0, "y_min": 0.0, "x_max": 0.5, "y_max": 1.0}
    response = api.call(
        "InferenceService",
        "Embed",
        images=[
            {"raw": raw, "region": region},
            {"raw": {"height": 256, "width": 128, "rgb": np.ascontiguousarray(half).tobytes()}},
        ],
    )
    vectors = [from_bytes(result.embedding.vector) for result in response.results]
    # Pillow's box filter reads over the region's edge only where pixels are enlarged.
    assert vectors[0] @ vectors[1] > 0.999


@pytest.mark.parametrize(
    ("image", "reason", "field"),
    [
        ({"encoded": b""}, "IMAGE_UNREADABLE", "images[0].encoded"),
        ({"encoded": b"hello, I am text"}, "IMAGE_FORMAT_UNSUPPORTED", "images[0].encoded"),
        ({"encoded": b"GIF89a" + bytes(50)}, "IMAGE_FORMAT_UNSUPPORTED", "images[0].encoded"),
        ({"encoded": bytes(17 * 1024 * 1024)}, "IMAGE_TOO_LARGE", "images[0].encoded"),
        ({}, "IMAGE_MISSING", "images[0]"),
        ({"raw": {"height": 2, "width": 2, "rgb": b"12"}}, "IMAGE_UNREADABLE", "images[0].raw"),
        ({"raw": {"height": -1, "width": -1, "rgb": b"123"}}, "IMAGE_UNREADABLE", "images[0].raw"),
        (
            {"encoded": b"\xff\xd8\xff", "region": {"x_min": 0.9, "y_min": 0.0, "x_max": 0.1, "y_max": 1.0}},
            "REGION_INVALID",
            "images[0].region",
        ),
    ],
)
def test_a_bad_picture_is_told_why_and_its_neighbour_is_answered(
    api: Reflected, photos: dict[str, bytes], image: dict[str, object], reason: str, field: str
) -> None:
    response = api.call("InferenceService", "Embed", images=[image, {"encoded": photos["coffee"]}])
    assert response.results[1].WhichOneof("result") == "embedding"
    error = response.results[0].error
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert error.details[0].Unpack(info)
    assert error.details[1].Unpack(bad)
    assert (error.code, info.reason) == (3, reason)
    assert bad.field_violations[0].field == field


def test_an_unknown_model_is_not_found_and_the_known_are_named(api: Reflected) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        api.call("InferenceService", "Embed", model="nope", images=[{"encoded": b"x"}])
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "Model `nope` does not exist; available: `base`."


def test_a_call_without_a_deadline_is_answered(api: Reflected, photos: dict[str, bytes]) -> None:
    request = api.message("EmbedRequest", images=[{"encoded": photos["coffee"]}])
    response = api.method("InferenceService", "Embed")(request)
    assert response.results[0].WhichOneof("result") == "embedding"


@pytest.mark.parametrize("count", [0, 257])
def test_nothing_and_too_much_are_refused(api: Reflected, count: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        api.call("InferenceService", "Embed", images=[{"encoded": b"x"}] * count)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"`images` has {count} entries; it must have 1 to 256."


def test_a_message_over_the_limit_is_refused(api: Reflected) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        api.call("InferenceService", "Embed", images=[{"encoded": bytes(15 * 1024 * 1024)}] * 5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_the_trailing_metadata_has_the_request_id_and_the_stages(api: Reflected, photos: dict[str, bytes]) -> None:
    request = api.message("EmbedRequest", images=[{"encoded": photos["coffee"]}])
    method = api.method("InferenceService", "Embed").with_call
    _, call = method(request, timeout=60, metadata=[("x-request-id", "mine-1")])
    trailing = dict(call.trailing_metadata())
    assert trailing["x-request-id"] == "mine-1"
    stages = {name: float(trailing[f"twinsight-{name}-ms"]) for name in ("decode", "queue", "compute", "total")}
    assert all(value >= 0 for value in stages.values())
    assert stages["total"] >= max(stages["decode"], stages["compute"])


def test_a_failed_call_names_its_request_id(api: Reflected) -> None:
    request = api.message("EmbedRequest", model="nope")
    with pytest.raises(grpc.RpcError) as caught:
        api.method("InferenceService", "Embed")(request, metadata=[("x-request-id", "mine-2")], timeout=60)
    info = error_details_pb2.RequestInfo()
    assert any(detail.Unpack(info) for detail in errors.status_of(caught.value).details)
    assert info.request_id == "mine-2"
    failed: Dynamic = caught.value
    trailing = dict(failed.trailing_metadata())
    assert trailing["x-request-id"] == "mine-2"
    assert float(trailing["twinsight-total-ms"]) >= 0


def test_a_stream_answers_message_by_message_and_goes_on_after_a_bad_one(
    api: Reflected, photos: dict[str, bytes]
) -> None:
    stream = api.stream("InferenceService", "EmbedStream")
    messages = [
        api.message("EmbedStreamRequest", images=[{"encoded": photos["coffee"]}]),
        api.message("EmbedStreamRequest", model="nope", images=[{"encoded": photos["coffee"]}]),
        api.message("EmbedStreamRequest", images=[{"encoded": photos["rocket"]}, {"encoded": b"no"}]),
    ]
    first, second, third = stream(iter(messages), timeout=60)
    assert first.results[0].WhichOneof("result") == "embedding"
    assert second.error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert [result.WhichOneof("result") for result in third.results] == ["embedding", "error"]


def test_a_thousand_mixed_requests_compile_nothing(api: Reflected, server: Server) -> None:
    rng = np.random.default_rng(0)
    small = [as_jpeg(Pillow.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))) for _ in range(16)]
    vector = from_bytes(
        api.call("InferenceService", "Embed", images=[{"encoded": small[0]}]).results[0].embedding.vector
    )
    api.call("CollectionService", "CreateCollection", collection={"id": "mixed", "model": "base"})
    api.call(
        "CollectionService", "UpsertItems", collection="mixed", items=[{"id": "a", "image": {"encoded": small[1]}}]
    )

    def ask(number: int) -> None:
        images = [{"encoded": small[(number + n) % 16]} for n in range(number % 11 + 1)]
        match number % 4:
            case 0:
                api.call("InferenceService", "Embed", images=images)
            case 1:
                pair = {"left": {"image": images[0]}, "right": {"vector": vector.tobytes()}}
                api.call("InferenceService", "Compare", pairs=[pair])
            case 2:
                query = {"image": images[0]} if number % 8 == 2 else {"vector": vector.tobytes()}
                api.call("CollectionService", "Search", collection="mixed", queries=[query], top_k=3)
            case _:
                item = {"id": f"i{number}", "vector": vector.tobytes()}
                api.call("CollectionService", "UpsertItems", collection="mixed", items=[item])

    # Other servers of this process may have compiled since this one began to serve.
    before = server.compilations.count
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(1000)))
    assert server.compilations.count == before
