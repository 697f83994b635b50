from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from twinsight_core.errors import FailedPrecondition, InvalidInput
from twinsight_core.images import Limits
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec
from twinsight_server.calls.call import Call
from twinsight_server.inference.models import Models
from twinsight_server.inference.pipeline import Picture, Pipeline
from twinsight_server.services.inputs import collection_vectors

NO_MODELS = cast("Models", SimpleNamespace(with_digest=lambda _: None))


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    made = Pipeline(decoders=1, limits=Limits())
    yield made
    made.close()


@pytest.mark.parametrize(("digest", "reason"), [("", "COLLECTION_UNBOUND"), ("sha256:00", "MODEL_NOT_LOADED")])
def test_without_a_model_each_picture_has_its_own_error_and_vectors_pass(
    pipeline: Pipeline, digest: str, reason: str
) -> None:
    spec = CollectionSpec("c", 2, Metric.COSINE, "gone" if digest else "", digest, 0.0)
    vector, flaw = np.ones(2, np.float32), InvalidInput("No.", reason="INPUT_MISSING")
    first, passed, second, kept = collection_vectors(
        spec,
        [Picture(b"a"), vector, Picture(b"b"), flaw],
        lambda n: f"items[{n}].image",
        pipeline=pipeline,
        models=NO_MODELS,
        call=Call("test", None),
    )
    assert passed is vector
    assert kept is flaw
    assert isinstance(first, FailedPrecondition)
    assert isinstance(second, FailedPrecondition)
    assert (first.reason, first.field, second.field) == (reason, "items[0].image", "items[2].image")
