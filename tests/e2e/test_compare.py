from __future__ import annotations

import math

import grpc
import numpy as np
import pytest

from e2e import errors
from e2e.conftest import Dynamic, Reflected, edited, to_bytes

DIMENSION = 256


def compare(api: Reflected, *pairs: tuple[dict[str, object], dict[str, object]]) -> list[Dynamic]:
    sides = [{"left": left, "right": right} for left, right in pairs]
    return list(api.call("InferenceService", "Compare", pairs=sides).results)


def image(data: bytes) -> dict[str, object]:
    return {"image": {"encoded": data}}


def vector(*values: float) -> dict[str, object]:
    return {"vector": to_bytes(np.pad(np.array(values, np.float32), (0, DIMENSION - len(values))))}


def test_a_picture_is_the_same_as_itself(api: Reflected, photos: dict[str, bytes]) -> None:
    (result,) = compare(api, (image(photos["coffee"]), image(photos["coffee"])))
    assert result.comparison.cosine_similarity == pytest.approx(1, abs=1e-6)
    assert result.comparison.euclidean_distance == pytest.approx(0, abs=1e-3)
    assert result.comparison.probability > 0.95
    assert result.comparison.same


def test_different_photos_are_not_the_same(api: Reflected, photos: dict[str, bytes]) -> None:
    (result,) = compare(api, (image(photos["coffee"]), image(photos["rocket"])))
    assert result.comparison.probability < 0.1
    assert not result.comparison.same


def test_a_resaved_copy_is_the_same(api: Reflected, photos: dict[str, bytes]) -> None:
    copy = edited(photos["chelsea"], lambda picture: picture.resize((200, 133)))
    (result,) = compare(api, (image(photos["chelsea"]), image(copy)))
    assert result.comparison.same


def test_the_order_of_a_pair_does_not_matter(api: Reflected, photos: dict[str, bytes]) -> None:
    one, other = image(photos["coffee"]), image(photos["coins"])
    there, back = compare(api, (one, other), (other, one))
    assert there.comparison.cosine_similarity == pytest.approx(back.comparison.cosine_similarity, abs=1e-6)


def test_vectors_compare_by_hand_worked_values(api: Reflected) -> None:
    (result,) = compare(api, (vector(1, 0), vector(0, 5)))
    assert result.comparison.cosine_similarity == pytest.approx(0, abs=1e-7)
    assert result.comparison.euclidean_distance == pytest.approx(math.sqrt(2), abs=1e-6)


def test_a_picture_compares_with_its_own_vector(api: Reflected, photos: dict[str, bytes]) -> None:
    response = api.call("InferenceService", "Embed", images=[{"encoded": photos["coins"]}])
    own = {"vector": response.results[0].embedding.vector}
    (result,) = compare(api, (image(photos["coins"]), own))
    assert result.comparison.cosine_similarity == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("side", "reason", "field"),
    [
        (image(b"broken"), "IMAGE_FORMAT_UNSUPPORTED", "pairs[1].right.image.encoded"),
        ({}, "INPUT_MISSING", "pairs[1].right"),
        ({"vector": b"1234"}, "VECTOR_INVALID", "pairs[1].right.vector"),
        (vector(math.nan), "VECTOR_INVALID", "pairs[1].right.vector"),
        (vector(math.inf), "VECTOR_INVALID", "pairs[1].right.vector"),
        (vector(0), "VECTOR_INVALID", "pairs[1].right.vector"),
        ({"image": {}}, "IMAGE_MISSING", "pairs[1].right.image"),
    ],
)
def test_a_bad_side_fails_its_pair_alone_and_is_named(
    api: Reflected, photos: dict[str, bytes], side: dict[str, object], reason: str, field: str
) -> None:
    good = (image(photos["coins"]), vector(1))
    results = compare(api, good, (vector(1), side), good)
    assert [result.WhichOneof("result") for result in results] == ["comparison", "error", "comparison"]
    error = results[1].error
    assert (error.code, errors.reason(error), errors.field(error)) == (3, reason, field)


def test_vectors_of_another_model_are_refused(api: Reflected) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        api.call(
            "InferenceService",
            "Compare",
            pairs=[{"left": vector(1), "right": vector(1)}],
            vector_model_digest="sha256:other",
        )
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert errors.reason(errors.status_of(caught.value)) == "MODEL_MISMATCH"


def test_the_models_card_states_the_operating_point(api: Reflected, photos: dict[str, bytes]) -> None:
    model = api.call("ModelService", "GetModel").model
    assert (model.name, model.is_default, model.dimension) == ("base", True, DIMENSION)
    assert -1 <= model.calibration.threshold <= 1
    assert model.calibration.meaning
    assert model.licence
    assert [one.name for one in api.call("ModelService", "ListModels").models] == ["base"]
    results = compare(api, *((image(photos["coins"]), image(other)) for other in photos.values()))
    for result in results:
        passes = result.comparison.cosine_similarity >= model.calibration.threshold
        assert result.comparison.same == passes
