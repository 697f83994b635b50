import io
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image as Pillow
from safetensors.numpy import save_file

from twinsight_core.models.configs.mobilenet import BLOCKS, MobileNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.packages import load_package
from twinsight_core.training.augment import Augmentation
from twinsight_core.training.base import BASE, choose_share, student_loss, train_package, trained_student
from twinsight_core.training.loop import LoopConfig
from twinsight_core.training.recipe import Recipe, SetConfig, TrainingSet, load_sets, load_teacher
from twinsight_core.training.student import first_student
from twinsight_core.training.trainable import Arrays

WIDTH = 0.1
RECIPE = Recipe(
    sets=(SetConfig(name="shapes", file="shapes.zip", validation=2, test=2, classes=2),),
    teacher="teacher.safetensors",
    teacher_px=(32, 64),
    reference_px=64,
    size_px=32,
    served_px=40,
    teacher_network=MobileNetConfig(width_multiplier=WIDTH),
    network=SiameseConfig(backbone=MobileNetConfig(width_multiplier=WIDTH), dimension=8),
    frozen_blocks=11,
    pictures=4,
    distillation=1.0,
    distillation_temperature=0.1,
    contrastive=0.3,
    contrastive_temperature=0.1,
    augmentation=Augmentation(),
    loop=LoopConfig(steps=12, learning_rate=3e-3, warmup_steps=2, average=0.5, checkpoint_every=6),
)


def picture(label: int, number: int) -> bytes:
    """Stripes whose direction and colour are the class's, with noise of their own."""
    rng = np.random.default_rng((label, number))
    y, x = np.mgrid[0:40, 0:48]
    angle = label * np.pi / 8
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.5 + rng.uniform(0, 6))
    colour = np.random.default_rng(label).uniform(0, 1, 3)
    pixels = np.clip(128 + 100 * wave[..., None] * colour + rng.normal(0, 12, (40, 48, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def keras_weights() -> dict[str, np.ndarray]:
    """Random weights of a narrow MobileNetV1 under Keras' names."""
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def put(name: str, norm: str, shape: tuple[int, ...], fan_in: int, channels: int) -> None:
        tensors[name] = (rng.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        for part, value in (("gamma", 1.0), ("beta", 0.1), ("moving_mean", 0.0), ("moving_variance", 1.0)):
            tensors[f"{norm}/{part}"] = np.full(channels, value, np.float32)

    channels = int(32 * WIDTH)
    put("conv1/kernel", "conv1_bn", (3, 3, 3, channels), 27, channels)
    for number, (width, _) in enumerate(BLOCKS, start=1):
        out = int(width * WIDTH)
        put(f"conv_dw_{number}/depthwise_kernel", f"conv_dw_{number}_bn", (3, 3, channels, 1), 9, channels)
        put(f"conv_pw_{number}/kernel", f"conv_pw_{number}_bn", (1, 1, channels, out), channels, out)
        channels = out
    return tensors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    save_file(keras_weights(), folder / RECIPE.teacher)
    with zipfile.ZipFile(folder / "shapes.zip", "w") as archive:
        for label in range(6):
            for number in range(6):
                archive.writestr(f"class{label}/{number}.png", picture(label, number))
    return folder


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("out")
    train_package(RECIPE, data=data, out=folder)
    return folder


def test_a_few_steps_lower_the_loss_and_move_the_trained_weights_alone(data: Path, out: Path) -> None:
    backbone = load_teacher(RECIPE, data)
    training = TrainingSet(RECIPE, load_sets(RECIPE, data, out / "cache", backbone))
    np.testing.assert_allclose(np.linalg.norm(training.targets, axis=1), 1.0, atol=1e-5)
    first = first_student(RECIPE.network, backbone, training.projection)
    student = trained_student(RECIPE, first)
    assert {name.split(".")[2] for name in student.params if name.startswith("backbone")} == {"11", "12"}
    assert {"head.kernel", "head.bias"} < student.params.keys()
    before, after = (load_tensors(network) for network in (first, load_package(out / "base").build()))
    moved = {name for name, value in before.items() if (value != after[name]).any()}
    assert moved == student.params.keys()
    loss, batch = jax.jit(student_loss(RECIPE, student, training.targets)), training.batch(1000)
    trained = {name: jnp.asarray(after[name]) for name in student.params}
    losses = [float(loss(params, student.stats, batch, jax.random.key(9))[0]) for params in (student.params, trained)]
    assert losses[1] < 0.95 * losses[0]


def load_tensors(network: nnx.Module) -> dict[str, np.ndarray]:
    flat = nnx.to_flat_state(nnx.state(network))
    return {".".join(str(part) for part in place): np.asarray(variable[...]) for place, variable in flat}


def test_the_recipe_ends_in_a_package_with_scores_and_calibration(out: Path) -> None:
    written = load_package(out / "base")
    assert written.card.calibration is not None
    names = {name for name in written.card.scores if not name.startswith("copies_")}
    assert names == {
        f"shapes_heldout_{measure}{suffix}" for measure in ("recall_at_1", "map_at_r") for suffix in ("", "_teacher")
    }
    assert all(0 <= value <= 1 for value in written.card.scores.values())


def test_a_finished_run_that_is_resumed_writes_the_same_package(data: Path, out: Path) -> None:
    written = load_package(out / "base")
    assert train_package(RECIPE, data=data, out=out, resume=True) == written


def test_the_best_share_of_the_way_is_chosen() -> None:
    first: Arrays = {"w": jnp.zeros(1)}
    chosen = choose_share(first, {"w": jnp.ones(1)}, lambda params: -abs(float(params["w"][0]) - 0.6))
    np.testing.assert_allclose(chosen["w"], [0.5])


def test_the_shipped_recipe_holds_out_classes_of_every_set() -> None:
    assert all(one.validation > 0 and one.test > 0 for one in BASE.sets)
    assert BASE.reference_px in BASE.teacher_px
