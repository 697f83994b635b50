from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import jax
import numpy as np
import pytest

from e2e import errors
from e2e.conftest import Dynamic, Reflected
from e2e.tiny import save_classifier
from twinsight_core import images
from twinsight_core.packages import ModelPackage
from twinsight_server.app import Server
from twinsight_server.config import ServerConfig

LABELS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu")
# One program for each batch size sums in another order.
SAME = 1e-5


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return save_classifier(tmp_path_factory.mktemp("models") / "animals", LABELS)


@pytest.fixture(scope="module")
def zoo(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Server]:
    """A server of `base` and of a classifier from its models folder."""
    data_dir = tmp_path_factory.mktemp("data")
    made = Server(
        ServerConfig(
            listen="127.0.0.1:0",
            data_dir=data_dir,
            executor="xla",  # the answers are compared with the network's own
            cache_dir=cache_dir,
            models_dir=package.folder.parent,
            models="base,animals",
            batch_size=4,
        )
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def keeper(zoo: Server) -> Iterator[Reflected]:
    client = Reflected(zoo.address)
    yield client
    client.close()


def classify(api: Reflected, *encoded: bytes, **more: object) -> list[Dynamic]:
    return list(api.call("InferenceService", "Classify", images=[{"encoded": one} for one in encoded], **more).results)


def refusal(api: Reflected, method: str, **fields: object) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and field with which a call fails as a whole."""
    with pytest.raises(grpc.RpcError) as caught:
        api.call("InferenceService", method, **fields)
    status = errors.status_of(caught.value)
    return caught.value.code(), errors.reason(status), errors.field(status)


def test_labels_and_probabilities_are_the_networks_the_most_probable_first(
    keeper: Reflected, package: ModelPackage, photos: dict[str, bytes]
) -> None:
    pixels = np.stack([images.decode(one, package.card.preprocessing) for one in photos.values()])
    expected = np.asarray(jax.jit(package.build())(pixels))
    response = keeper.call(
        "InferenceService", "Classify", model="animals", top_k=7, images=[{"encoded": one} for one in photos.values()]
    )
    assert (response.model.name, response.model.digest) == ("animals", package.digest)
    for result, row in zip(response.results, expected, strict=True):
        labels = result.classification.labels
        found = np.array([one.probability for one in labels])
        assert found == pytest.approx(row[[LABELS.index(one.label) for one in labels]], abs=SAME)
        assert np.all(np.diff(found) <= 0)
        assert found.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("top_k", "count"), [(0, 5), (1, 1), (6, 6), (7, 7), (8, 7), (2**31 - 1, 7)])
def test_top_k_says_how_many_labels_there_are(
    keeper: Reflected, photos: dict[str, bytes], top_k: int, count: int
) -> None:
    (result,) = classify(keeper, photos["coffee"], top_k=top_k)
    (every,) = classify(keeper, photos["coffee"], top_k=7)
    assert len(result.classification.labels) == count
    assert [one.label for one in result.classification.labels] == [
        one.label for one in every.classification.labels[:count]
    ]


def test_one_bad_picture_fails_alone_and_is_named(keeper: Reflected, zoo: Server, photos: dict[str, bytes]) -> None:
    def counted(outcome: str) -> float:
        labels = {"method": "Classify", "outcome": outcome}
        return zoo.metrics.registry.get_sample_value("twinsight_items_total", labels) or 0.0

    before = {outcome: counted(outcome) for outcome in ("OK", "INVALID_ARGUMENT")}
    encoded = [*list(photos.values())[:3], photos["coins"][:500], photos["rocket"]]
    results = classify(keeper, *encoded)
    assert [one.WhichOneof("result") for one in results] == ["error" if n == 3 else "classification" for n in range(5)]
    error = results[3].error
    assert (error.code, errors.reason(error), errors.field(error)) == (3, "IMAGE_UNREADABLE", "images[3].encoded")
    assert {outcome: counted(outcome) - count for outcome, count in before.items()} == {"OK": 4, "INVALID_ARGUMENT": 1}


def test_a_region_is_what_is_classified(keeper: Reflected, photos: dict[str, bytes]) -> None:
    region = {"x_min": 0.0, "y_min": 0.0, "x_max": 0.3, "y_max": 0.3}
    pictures = [{"encoded": photos["chelsea"]}, {"encoded": photos["chelsea"], "region": region}]
    whole, part = keeper.call("InferenceService", "Classify", images=pictures, top_k=7).results
    assert whole != part


def test_the_trailing_metadata_has_the_request_id_and_the_stages(keeper: Reflected, photos: dict[str, bytes]) -> None:
    request = keeper.message("ClassifyRequest", images=[{"encoded": photos["coffee"]}])
    method = keeper.method("InferenceService", "Classify").with_call
    _, call = method(request, timeout=60, metadata=[("x-request-id", "mine-1")])
    trailing = dict(call.trailing_metadata())
    assert trailing["x-request-id"] == "mine-1"
    assert all(float(trailing[f"twinsight-{one}-ms"]) >= 0 for one in ("decode", "queue", "compute", "total"))


def test_a_model_of_another_task_is_refused(keeper: Reflected, photos: dict[str, bytes]) -> None:
    pictures = [{"encoded": photos["coffee"]}]
    wrong = (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_TASK", "model")
    assert refusal(keeper, "Classify", model="base", images=pictures) == wrong
    assert refusal(keeper, "Embed", model="animals", images=pictures) == wrong
    assert refusal(keeper, "Compare", model="animals", pairs=[{}]) == wrong
    assert refusal(keeper, "Detect", model="animals", images=pictures) == wrong


def test_a_stream_tells_of_a_wrong_task_message_by_message(keeper: Reflected, photos: dict[str, bytes]) -> None:
    pictures = [{"encoded": photos["coffee"]}]
    messages = [keeper.message("EmbedStreamRequest", model=name, images=pictures) for name in ("animals", "base")]
    wrong, right = keeper.stream("InferenceService", "EmbedStream")(iter(messages), timeout=60)
    assert (wrong.error.code, errors.reason(wrong.error)) == (9, "MODEL_TASK")
    assert right.results[0].WhichOneof("result") == "embedding"


def test_a_collection_takes_no_classifier(keeper: Reflected) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        keeper.call("CollectionService", "CreateCollection", collection={"id": "c", "model": "animals"})
    assert errors.reason(errors.status_of(caught.value)) == "MODEL_TASK"


def test_what_breaks_a_rule_is_refused(keeper: Reflected, photos: dict[str, bytes]) -> None:
    pictures = [{"encoded": photos["coffee"]}]
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    assert refusal(keeper, "Classify", images=pictures, top_k=-1) == (invalid, "TOP_K_INVALID", "top_k")
    assert refusal(keeper, "Classify", images=[]) == (invalid, "COUNT_INVALID", "images")
    assert refusal(keeper, "Classify", model="none", images=pictures) == (missing, "MODEL_NOT_FOUND", "model")
    assert refusal(keeper, "Detect", images=pictures) == (missing, "MODEL_NOT_FOUND", "model")


def test_the_card_tells_task_and_labels(keeper: Reflected) -> None:
    card = keeper.call("ModelService", "GetModel", model="animals").model
    tasks = type(card).DESCRIPTOR.fields_by_name["task"].enum_type.values_by_number
    assert tasks[card.task].name == "MODEL_TASK_CLASSIFICATION"
    assert (tuple(card.labels), card.dimension, card.HasField("calibration")) == (LABELS, 0, False)
    assert (card.input_height, card.input_width, card.is_default) == (32, 32, False)


def test_nothing_was_compiled_for_any_of_it(keeper: Reflected, zoo: Server, photos: dict[str, bytes]) -> None:
    before = zoo.compilations.count  # other tests compile in this process
    for count in range(1, 10):
        classify(keeper, *list(photos.values())[:count], top_k=count)
    assert zoo.compilations.count == before
