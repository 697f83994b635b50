from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from e2e import errors
from e2e.conftest import Dynamic, Reflected, edited, to_bytes
from e2e.tiny import save_embedder
from twinsight_core.calibration import Calibration, OperatingPoint
from twinsight_server.app import Server
from twinsight_server.config import ServerConfig

DIMENSION = 256
CALIBRATION = Calibration(
    meaning="the same",
    scale=10.0,
    offset=-5.0,
    threshold=0.5,
    false_match_rate=0.01,
    false_non_match_rate=0.02,
    expected_calibration_error=0.03,
    pairs_fitted=4000,
    pairs_measured=4000,
    false_match_rate_low=0.005,
    false_match_rate_high=0.015,
    operating_points=(
        OperatingPoint(0.1, 0.25, *(0.09, 0.08, 0.1), *(0.01, 0.0, 0.02)),
        OperatingPoint(0.001, 0.75, *(0.0, 0.0, 0.001), *(0.2, 0.1, 0.3)),
    ),
)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Reflected]:
    """A server of `base`, of a model with operating points, and of one without calibration."""
    models_dir, data_dir = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("data")
    save_embedder(models_dir / "points", CALIBRATION)
    save_embedder(models_dir / "plain", None)
    made = Server(
        ServerConfig(
            listen="127.0.0.1:0",
            data_dir=data_dir,
            cache_dir=cache_dir,
            models_dir=models_dir,
            models="base,points,plain",
            batch_size=1,
        )
    )
    made.start()
    client = Reflected(made.address)
    yield client
    client.close()
    made.stop()


def judged(judge: Reflected, cosine: float, **more: object) -> Dynamic:
    """Compares two vectors of 8 components at an angle."""
    left, right = np.eye(8, dtype=np.float32)[0], np.zeros(8, np.float32)
    right[:2] = cosine, math.sqrt(1 - cosine**2)
    pair = {"left": {"vector": to_bytes(left)}, "right": {"vector": to_bytes(right)}}
    (result,) = judge.call("InferenceService", "Compare", pairs=[pair], **{"model": "points", **more}).results
    return result.comparison


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


@pytest.mark.parametrize(
    ("target_fmr", "threshold", "point", "rates"),
    [
        (None, 0.5, None, (0.01, 0.02)),
        (1.0, 0.25, 0.1, (0.09, 0.01)),
        (0.1, 0.25, 0.1, (0.09, 0.01)),
        (0.0999, 0.75, 0.001, (0.0, 0.2)),
        (0.001, 0.75, 0.001, (0.0, 0.2)),
    ],
)
def test_a_false_match_rate_says_where_it_is_decided_and_how_often_that_is_wrong(
    judge: Reflected, target_fmr: float | None, threshold: float, point: float | None, rates: tuple[float, float]
) -> None:
    more = {} if target_fmr is None else {"target_fmr": target_fmr}
    for cosine in (0.2, 0.3, 0.6, 0.8):
        found = judged(judge, cosine, **more)
        assert found.cosine_similarity == pytest.approx(cosine, abs=1e-6)
        assert (found.threshold, found.same) == (threshold, cosine >= threshold)
        assert (found.target_fmr if found.HasField("target_fmr") else None) == point
        assert (found.false_match_rate, found.false_non_match_rate) == rates
        assert found.HasField("false_match_rate")


@pytest.mark.parametrize(
    ("model", "target_fmr", "code", "reason", "said"),
    [
        ("points", 0.0005, "INVALID_ARGUMENT", "TARGET_FMR_UNKNOWN", "operating points: 0.1, 0.001."),
        ("points", 0.0, "INVALID_ARGUMENT", "TARGET_FMR_INVALID", "must be above 0 and at most 1"),
        ("points", 1.5, "INVALID_ARGUMENT", "TARGET_FMR_INVALID", "must be above 0 and at most 1"),
        ("points", math.nan, "INVALID_ARGUMENT", "TARGET_FMR_INVALID", "must be above 0 and at most 1"),
        ("plain", 0.1, "FAILED_PRECONDITION", "MODEL_NOT_CALIBRATED", "the model has no calibration"),
    ],
)
def test_a_false_match_rate_that_can_not_be_kept_to_is_refused(
    judge: Reflected, model: str, target_fmr: float, code: str, reason: str, said: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        # The pair itself is broken: what the whole call asks for is checked before.
        judge.call("InferenceService", "Compare", model=model, pairs=[{}], target_fmr=target_fmr)
    status = errors.status_of(caught.value)
    assert caught.value.code().name == code
    assert (errors.reason(status), errors.field(status)) == (reason, "target_fmr")
    assert said in status.message


def test_without_a_calibration_nothing_is_decided(judge: Reflected) -> None:
    found = judged(judge, 0.5, model="plain")
    decided = ("probability", "same", "threshold", "target_fmr", "false_match_rate", "false_non_match_rate")
    assert not any(found.HasField(one) for one in decided)


def test_the_card_states_the_operating_points_and_their_intervals(judge: Reflected) -> None:
    stated = judge.call("ModelService", "GetModel", model="points").model.calibration
    assert (stated.threshold, stated.false_match_rate, stated.false_match_rate_high) == (0.5, 0.01, 0.015)
    assert stated.HasField("false_match_rate_low")
    assert not stated.HasField("false_non_match_rate_low")
    for found, point in zip(stated.operating_points, CALIBRATION.operating_points, strict=True):
        for name in (field.name for field in type(found).DESCRIPTOR.fields):
            assert getattr(found, name) == getattr(point, name)
    assert not judge.call("ModelService", "GetModel", model="plain").model.HasField("calibration")
