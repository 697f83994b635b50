from functools import partial
from pathlib import Path

import pytest

from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelCard, ModelPackage, save_package

SIZE = Preprocessing(height_px=32, width_px=48)
SQUARE = Preprocessing(height_px=32, width_px=32)
NARROW = MobileNetConfig(width_multiplier=0.1)
RESIDUAL = ResNetConfig(depths=(1, 1), widths=(8, 16), stem="strided")
CONFIGS: dict[str, tuple[SiameseConfig | ClassifierConfig, Preprocessing]] = {
    "embedding": (SiameseConfig(backbone=NARROW, dimension=16), SIZE),
    "flattened": (SiameseConfig(backbone=RESIDUAL, dimension=16, pooling="flatten", map_px=8), SQUARE),
    "classifier": (ClassifierConfig(backbone=NARROW, classes=3), SIZE),
}


def made(folder: Path, name: str) -> ModelPackage:
    """Writes a package with a small network of first weights."""
    config, size = CONFIGS[name]
    network: SiameseNetwork | Classifier
    if isinstance(config, SiameseConfig):
        network = drawn(partial(SiameseNetwork, config=config), seed=0)
    else:
        network = drawn(partial(Classifier, config=config), seed=0)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    card = ModelCard(
        architecture="siamese" if isinstance(config, SiameseConfig) else "classifier",
        config=config,
        task=config.TASK,
        preprocessing=size,
        dimension=config.dimension if isinstance(config, SiameseConfig) else 0,
        labels=tuple("abc") if isinstance(config, ClassifierConfig) else (),
        licence="none",
        training_data="none",
        description="none",
    )
    return save_package(folder / name, card, network)


@pytest.fixture(scope="module", params=CONFIGS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return made(tmp_path_factory.mktemp("models"), request.param)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return made(tmp_path_factory.mktemp("models"), "embedding")
