import errno
import json
import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from twinsight_core import packages
from twinsight_core.calibration import Calibration
from twinsight_core.errors import PackageError
from twinsight_core.host.whole_files import exchanged
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.classifier import MAX_CLASSES, ClassifierConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import (
    CARD_FILE,
    MAX_CARD_BYTES,
    WEIGHTS_FILE,
    ModelCard,
    ModelPackage,
    check_labels,
    find_package,
    load_package,
    load_packages,
    save_package,
    shipped_packages,
)

CONFIG = SiameseConfig(backbone=MobileNetConfig(width_multiplier=0.1), dimension=8)
CARD = ModelCard(
    architecture="siamese",
    config=CONFIG,
    task="embedding",
    preprocessing=Preprocessing(height_px=32, width_px=32),
    dimension=8,
    licence="Apache-2.0",
    training_data="Nothing.",
    description="For tests.",
    calibration=Calibration(
        meaning="The two are the same.",
        scale=10.0,
        offset=-5.0,
        threshold=0.5,
        false_match_rate=0.0,
        false_non_match_rate=0.0,
        expected_calibration_error=0.0,
        pairs_fitted=2,
        pairs_measured=2,
    ),
    scores={"recall": 0.5},
)


@pytest.fixture(scope="module")
def network() -> SiameseNetwork:
    # Values of its own making: initialising op by op would compile each.
    graph, state = nnx.split(nnx.eval_shape(lambda: SiameseNetwork(config=CONFIG, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    filled = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 1.0, leaf.shape), jnp.float32), state)
    made = nnx.merge(graph, filled)
    made.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return made


@pytest.fixture(scope="module")
def saved(network: SiameseNetwork, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return save_package(tmp_path_factory.mktemp("models") / "tiny", CARD, network)


@pytest.fixture
def folder(saved: ModelPackage, tmp_path: Path) -> Path:
    """A copy of the package that a test may damage."""
    return Path(shutil.copytree(saved.folder, tmp_path / "tiny"))


def flat(network: nnx.Module) -> dict[str, np.ndarray]:
    return {str(place): np.asarray(variable[...]) for place, variable in nnx.to_flat_state(nnx.state(network))}


def test_what_is_saved_is_what_is_loaded(saved: ModelPackage, network: SiameseNetwork) -> None:
    package = load_package(saved.folder)
    assert package == saved
    assert package.name == "tiny"
    assert package.card == CARD
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", package.digest)
    loaded, original = flat(package.build()), flat(network)
    assert loaded.keys() == original.keys()
    for name, value in original.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_a_built_network_uses_its_stored_statistics(saved: ModelPackage) -> None:
    graph, state = nnx.split(saved.build())
    embed = jax.jit(nnx.merge(graph, state))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    others = np.stack([images[0], 255 - images[1]])
    # In training mode the neighbour in the batch would change the vector.
    np.testing.assert_allclose(embed(jnp.asarray(images))[0], embed(jnp.asarray(others))[0], atol=1e-6)


def test_the_digest_follows_meaning_and_weights_but_not_words(saved: ModelPackage, folder: Path) -> None:
    path = folder / CARD_FILE
    card = json.loads(path.read_text())
    words = {"licence": "MIT", "description": "Other.", "scores": {"recall": 0.6}, "recipe": "x", "training_data": "y"}
    path.write_text(json.dumps(card | words))
    assert load_package(folder).digest == saved.digest
    path.write_text(json.dumps(dict(reversed(card.items())), indent=7))
    assert load_package(folder).digest == saved.digest
    for change in (
        {"preprocessing": card["preprocessing"] | {"fit": "crop"}},
        {"preprocessing": card["preprocessing"] | {"height_px": 64}},
        {"calibration": None},
        {"calibration": card["calibration"] | {"threshold": 0.6}},
    ):
        path.write_text(json.dumps(card | change))
        assert load_package(folder).digest != saved.digest
    path.write_text(json.dumps(card))
    weights = load_file(folder / WEIGHTS_FILE)
    weights["head.bias"][0] += 1
    save_file(weights, folder / WEIGHTS_FILE)
    assert load_package(folder).digest != saved.digest


def test_the_folders_name_is_the_models_name_and_not_in_the_digest(saved: ModelPackage, folder: Path) -> None:
    renamed = folder.rename(folder.with_name("other"))
    package = load_package(renamed)
    assert (package.name, package.digest) == ("other", saved.digest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architecture": "resnet"},
            "`architecture` (='resnet') must be one of `siamese`, `classifier`, `mobilefacenet`, `faster_rcnn`.",
        ),
        ({"task": "detection"}, "`task` (='detection') must be 'embedding', that of `siamese`."),
        ({"dimension": 9}, "`dimension` must be 8, as in `config`."),
        ({"labels": [1]}, "`labels` (=[1]) must be a list of strings."),
        ({"labels": ["cat"]}, "`labels` must be 0 distinct names, none empty."),
        ({"licence": None}, "`licence` (=None) must be a string."),
        ({"scores": {"recall": "high"}}, "`scores.recall` (='high') must be a finite number."),
        ({"surprise": 1}, "`surprise` is unknown."),
        (
            {"surprise": 1, "format_version": 2},
            "it was written by a later version of twinsight (format version 2; this one reads up to 1).",
        ),
        ({"config": {"backbone": {}}}, "`config.dimension` is missing."),
        (
            {"preprocessing": {"height_px": 32, "width_px": 32, "fit": "stretch", "version": 99}},
            "`preprocessing.version` (=99) must be 1 or 2.",
        ),
        (
            {"preprocessing": {"height_px": 0, "width_px": 32, "fit": "stretch", "version": 1}},
            "`preprocessing.height_px` (=0) must be an integer in 1..4096.",
        ),
        ({"calibration": []}, "`calibration` must be an object."),
    ],
)
def test_a_card_that_breaks_a_rule_is_refused(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / CARD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PackageError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_package(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"scores": NaN}', "not JSON (NaN is not a JSON number)"),
        ("[" * 100_000, "not JSON"),
        ("[]", "it must be an object."),
        ("{}", "`architecture` is missing."),
    ],
)
def test_a_card_that_is_no_card_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / CARD_FILE).write_text(content)
    with pytest.raises(PackageError, match=re.escape(f"{folder / CARD_FILE}: {message}")):
        load_package(folder)


def test_a_card_that_is_too_large_is_not_read(folder: Path) -> None:
    with (folder / CARD_FILE).open("wb") as file:
        file.truncate(MAX_CARD_BYTES + 1)
    with pytest.raises(
        PackageError, match=f"the file has {MAX_CARD_BYTES + 1} bytes; the limit is {MAX_CARD_BYTES}\\.$"
    ):
        load_package(folder)


def test_a_card_holds_the_most_classes_that_a_classifier_may_have() -> None:
    config = ClassifierConfig(classes=MAX_CLASSES)
    labels = tuple(f"{number:0100}" for number in range(MAX_CLASSES))
    check_labels(labels)
    card = replace(CARD, architecture="classifier", config=config, task="classification",
                   dimension=0, labels=labels, calibration=None)  # fmt: skip
    text = json.dumps(card.to_json(), indent=2, ensure_ascii=False)
    assert len(text.encode()) < MAX_CARD_BYTES
    assert ModelCard.from_json(json.loads(text)).labels == labels


def test_labels_that_no_card_will_hold_are_told_before_training() -> None:
    check_labels([f"{number:0300}" for number in range(1000)])
    message = r"^The names of the 60,000 classes take 18,480,000 bytes in the model's card; the limit is 15,728,640\."
    with pytest.raises(PackageError, match=message):
        check_labels([f"{number:0300}" for number in range(60_000)])


@pytest.mark.parametrize("name", [CARD_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PackageError, match=f"^{re.escape(str(folder / name))}: the file is missing\\.$"):
        load_package(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "the tensor `head.bias` is missing."),
        ("extra", "the tensor `more` is not one of the architecture's."),
        ("shape", "the tensor `head.bias` has the shape (9,); it must be (8,)."),
        ("dtype", "the tensor `head.bias` is float16; it must be float32."),
        ("nan", "the tensor `head.bias` holds a value that is not finite."),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, damage: str, message: str) -> None:
    path = folder / WEIGHTS_FILE
    tensors = load_file(path)
    bias = tensors.pop("head.bias")
    changed = {
        "missing": {},
        "extra": {"head.bias": bias, "more": bias},
        "shape": {"head.bias": np.zeros(9, np.float32)},
        "dtype": {"head.bias": bias.astype(np.float16)},
        "nan": {"head.bias": np.full(8, np.nan, np.float32)},
    }
    save_file(tensors | changed[damage], path)
    with pytest.raises(PackageError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_package(folder).build()


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_weights_that_are_no_safetensors_are_refused(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(PackageError, match="not a safetensors file"):
        load_package(folder).build()


def test_weights_that_change_after_loading_are_refused(folder: Path) -> None:
    package = load_package(folder)
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors["head.bias"][0] += 1
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(PackageError, match="the file has changed since it was loaded"):
        package.build()


def test_packages_of_a_folder_come_by_name(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("another"))
    shutil.copytree(folder, folder.with_name(".hidden"))
    (folder.parent / "notes.txt").write_text("not a package")
    (folder.parent / "lost+found").mkdir()  # of a file system's own folder
    assert [package.name for package in load_packages(folder.parent)] == ["another", "tiny"]


def test_a_models_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"nowhere: the models folder does not exist\.$"):
        load_packages(tmp_path / "nowhere")


def test_saving_replaces_a_package_and_leaves_nothing_else(folder: Path, network: SiameseNetwork) -> None:
    package = save_package(folder, replace(CARD, description="Newer."), network)
    assert load_package(folder) == package
    assert package.card.description == "Newer."
    assert [one.name for one in folder.parent.iterdir()] == ["tiny"]


def test_a_package_that_can_not_be_saved_leaves_the_old_one(folder: Path, network: SiameseNetwork) -> None:
    before = load_package(folder)
    with pytest.raises(PackageError, match="has the shape"):
        save_package(folder, replace(CARD, config=replace(CONFIG, dimension=9), dimension=9), network)
    assert load_package(folder) == before
    assert [one.name for one in folder.parent.iterdir()] == ["tiny"]


def test_through_a_link_what_it_leads_to_is_replaced(folder: Path, network: SiameseNetwork, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "linked").symlink_to(folder)
    (models / "new").symlink_to(tmp_path / "elsewhere" / "made")  # leads to nothing yet
    for name, target in (("linked", folder), ("new", tmp_path / "elsewhere" / "made")):
        package = save_package(models / name, replace(CARD, description="Newer."), network)
        assert (package.name, package.folder) == (name, models / name)
        assert (models / name).is_symlink()
        assert load_package(target).card.description == "Newer."
        assert [one.name for one in target.parent.iterdir() if one.name.startswith(".")] == []
    assert sorted(one.name for one in models.iterdir()) == ["linked", "new"]


def test_a_package_takes_the_place_of_another_in_one_step(
    folder: Path, network: SiameseNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    probe = folder.parent / "probe"
    probe.mkdir()
    if not exchanged(folder, probe):
        pytest.skip("the file system exchanges no folders")
    exchanged(folder, probe)
    monkeypatch.setattr(Path, "replace", killed)  # the old one is not moved away first
    monkeypatch.setattr(shutil, "rmtree", killed)  # nor is anything left to do but to delete it
    with pytest.raises(KeyboardInterrupt):
        save_package(folder, replace(CARD, description="Newer."), network)
    assert load_package(folder).card.description == "Newer."


@pytest.mark.parametrize("failing", [0, 1])
def test_a_package_that_can_not_be_put_in_place_leaves_the_old_one(
    failing: int, folder: Path, network: SiameseNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, move, moves = load_package(folder), Path.replace, []

    def fail(path: Path, target: Path) -> Path:
        moves.append(path)
        if len(moves) == failing + 1:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return move(path, target)

    monkeypatch.setattr(packages, "exchanged", lambda *_: False)  # as on a file system that can't
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="busy"):
        save_package(folder, replace(CARD, description="Newer."), network)
    assert load_package(folder) == before
    assert [one.name for one in folder.parent.iterdir()] == ["tiny"]


def test_the_shipped_packages_are_small_and_say_what_they_are() -> None:
    shipped = shipped_packages()
    tasks = {"base": "embedding", "cells": "detection", "garments": "classification", "glyph": "embedding"}
    assert {one.name: one.card.task for one in shipped} == tasks
    for one in shipped:
        assert (one.folder / WEIGHTS_FILE).stat().st_size <= 12_000_000, one.name
        assert all((one.card.licence, one.card.training_data, one.card.description, one.card.recipe)), one.name


def test_the_shipped_packages_scored_as_they_should_on_what_was_held_out() -> None:
    scores = {one.name: one.card.scores for one in shipped_packages()}
    assert scores["base"]["caltech_heldout_map_at_r"] >= scores["base"]["caltech_heldout_map_at_r_teacher"]
    assert scores["base"]["caltech_heldout_recall_at_1"] >= 0.95
    assert scores["glyph"]["verification_accuracy"] >= 0.935
    assert scores["cells"]["ap_50"] >= 0.88
    assert scores["garments"]["top1_accuracy"] >= 0.85


@pytest.mark.parametrize("name", ["base", "glyph"])
def test_the_shipped_embeddings_are_calibrated(name: str) -> None:
    calibration = find_package(name).card.calibration
    assert calibration is not None
    assert calibration.expected_calibration_error <= 0.02
    assert calibration.probability(np.array([1.0]))[0] > 0.95
    assert calibration.probability(np.array([0.0]))[0] < 0.05
    assert {0.1, 0.01, 0.001} <= {one.target_fmr for one in calibration.operating_points}
    for one in calibration.operating_points:
        assert one.false_match_rate_low <= one.false_match_rate <= one.false_match_rate_high


def test_a_package_is_found_by_name_and_by_path(folder: Path) -> None:
    here = load_package(folder)
    assert find_package("tiny", folder.parent) == here
    assert find_package(str(folder)) == here
    assert find_package("base").is_shipped
    assert not here.is_shipped
    with pytest.raises(PackageError, match=r"^Model `vgg` .* is neither a shipped model \(`base`, `cells`, "):
        find_package("vgg")


def test_base_embeds_a_picture_alike_in_any_batch() -> None:
    base = find_package("base")
    graph, state = nnx.split(base.build())
    embed = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    size = base.card.preprocessing
    images = np.random.default_rng(0).integers(0, 256, (32, size.height_px, size.width_px, 3), np.uint8)
    batch = embed(state, images)
    for row in (0, 17):
        np.testing.assert_allclose(embed(state, images[row : row + 1])[0], batch[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_a_packages_folder_has_the_permissions_that_the_umask_leaves(
    mask: int, mode: int, network: SiameseNetwork, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        save_package(tmp_path / "tiny", CARD, network)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "tiny").stat().st_mode) == mode
    assert [one.name for one in tmp_path.iterdir()] == ["tiny"]
