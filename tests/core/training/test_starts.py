from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.packages import ModelCard, ModelPackage, save_package
from twinsight_core.training.starts import first_network


def maker(*, classes: int, width: float = 0.1) -> partial[Classifier]:
    return partial(
        Classifier, config=ClassifierConfig(backbone=MobileNetConfig(width_multiplier=width), classes=classes)
    )


@pytest.fixture(scope="module")
def source() -> Classifier:
    return drawn(maker(classes=3), seed=0)


@pytest.fixture(scope="module")
def package(source: Classifier, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    card = ModelCard(
        architecture="classifier",
        config=ClassifierConfig(backbone=MobileNetConfig(width_multiplier=0.1), classes=3),
        task="classification",
        preprocessing=Preprocessing(height_px=32, width_px=32),
        dimension=0,
        labels=tuple("abc"),
        licence="",
        training_data="",
        description="",
    )
    folder: Path = tmp_path_factory.mktemp("models") / "source"
    return save_package(folder, card, source)


@pytest.mark.parametrize(("classes", "kept"), [(3, True), (4, False)])
def test_backbone_and_a_head_that_fits_are_the_packages(
    source: Classifier, package: ModelPackage, *, classes: int, kept: bool
) -> None:
    network = first_network(maker(classes=classes), seed=1, start=package)
    for place in ("stem", "blocks"):
        ours, theirs = (nnx.to_flat_state(nnx.state(getattr(one.backbone, place))) for one in (network, source))
        for (path, given), (_, value) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(given[...], value[...], err_msg=str(path))
    expected = source if kept else drawn(maker(classes=classes), seed=1)
    np.testing.assert_array_equal(network.head.kernel[...], expected.head.kernel[...])


def test_from_a_package_statistics_stay_and_from_none_they_follow(package: ModelPackage) -> None:
    for start in (package, None):
        backbone = first_network(maker(classes=3), seed=1, start=start).backbone
        assert isinstance(backbone, MobileNetV1)
        assert backbone.stem_norm.use_running_average == (start is package)


def test_another_backbone_is_refused(package: ModelPackage) -> None:
    with pytest.raises(TrainingError, match="does not have the backbone") as refused:
        first_network(maker(classes=3, width=0.25), seed=1, start=package)
    assert refused.value.reason == "START_MISMATCH"
