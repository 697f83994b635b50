from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.errors import StartupError
from twinsight_core.exporting import package as exporting
from twinsight_core.exporting.onnx import run_onnx
from twinsight_core.exporting.package import FORMATS, Format, export_package
from twinsight_core.exporting.stablehlo import run_stablehlo, to_stablehlo
from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.rcnn import FasterRCNN
from twinsight_core.models.registry import Network
from twinsight_core.packages import CARD_FILE, ModelPackage, load_package

Packaged = Callable[[str], ModelPackage]


def answers(package: ModelPackage, images: np.ndarray) -> jax.Array:
    found: jax.Array = nnx.jit(lambda network, images: network(images))(package.build(), jnp.asarray(images))
    return found


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("architecture", ["siamese", "classifier", "faster_rcnn"])
def test_a_stablehlo_file_answers_as_the_network_for_any_batch(
    packaged: Packaged, tmp_path: Path, architecture: str
) -> None:
    package = packaged(architecture)
    done = export_package(package, format="stablehlo", out=tmp_path / "out" / "model.bin")
    assert done.batch is None
    assert done.size_bytes == done.path.stat().st_size
    assert done.agreement.suffices()


@pytest.mark.parametrize("architecture", ["classifier", "faster_rcnn"])
def test_a_stablehlo_file_read_back_takes_a_batch_of_another_size(
    packaged: Packaged, tmp_path: Path, architecture: str
) -> None:
    package = packaged(architecture)
    run = run_stablehlo(export_package(package, format="stablehlo", out=tmp_path / "model.bin").path.read_bytes())
    np.testing.assert_allclose(run(pictures(3)), answers(package, pictures(3)), atol=1e-5)


@pytest.mark.parametrize("architecture", ["siamese", "classifier", "mobilefacenet", "faster_rcnn"])
def test_an_onnx_file_answers_as_the_network_for_any_batch(
    packaged: Packaged, tmp_path: Path, architecture: str
) -> None:
    pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")
    package = packaged(architecture)
    done = export_package(package, format="onnx", out=tmp_path / "model.onnx")
    assert done.batch is None
    assert done.agreement.suffices()
    run = run_onnx(done.path.read_bytes())
    np.testing.assert_allclose(run(pictures(5)), answers(package, pictures(5)), atol=1e-5)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([architecture, "model.onnx"])


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_can_not_be_expressed_with_the_batch_left_open_is_written_for_one_picture(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_name: Format
) -> None:
    if format_name == "onnx":
        pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")

    def bounded(self: Classifier, images: jax.Array) -> jax.Array:
        assert images.shape[0] < 100  # no answer for a size that is open
        return whole(self, images)

    whole = Classifier.__call__
    monkeypatch.setattr(Classifier, "__call__", bounded)
    done = export_package(packaged("classifier"), format=format_name, out=tmp_path / "model.bin")
    assert done.batch == 1


def test_converting_to_onnx_says_nothing(
    packaged: Packaged, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")
    export_package(packaged("faster_rcnn"), format="onnx", out=tmp_path / "model.onnx")
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_without_the_extra_the_error_says_how_to_get_it(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(StartupError, match=r"Install it with: pip install '\.\[onnx\]' in the folder"):
        export_package(packaged("siamese"), format="onnx", out=tmp_path / "model.onnx")


def test_a_file_that_answers_otherwise_is_not_put_in_place_of_the_one_there(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model.bin"
    out.write_bytes(b"the one before")

    def other(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
        run = run_stablehlo(content)
        return lambda images: np.roll(run(images), 1, axis=-1)

    monkeypatch.setitem(exporting._WAYS, "stablehlo", exporting._Way(to_stablehlo, other))
    with pytest.raises(
        StartupError, match=r"difference 0?\d.*on test pictures, past a difference of 0\.001\. No file was"
    ):
        export_package(packaged("classifier"), format="stablehlo", out=out)
    assert out.read_bytes() == b"the one before"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_network_that_wants_a_fixed_batch_is_written_for_one_picture(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fixed(network: Network, preprocessing: Preprocessing, *, batch: int | None) -> bytes:
        if batch is None:
            raise StartupError("No.", reason="EXPORT_UNSUPPORTED")
        return to_stablehlo(network, preprocessing, batch=batch)

    monkeypatch.setitem(exporting._WAYS, "stablehlo", exporting._Way(fixed, run_stablehlo))
    done = export_package(packaged("classifier"), format="stablehlo", out=tmp_path / "model.bin")
    assert done.batch == 1
    assert done.agreement.suffices()


def test_a_detector_that_finds_nothing_is_compared_without_its_least_score(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []

    def write(network: Network, preprocessing: Preprocessing, *, batch: int | None) -> bytes:
        del preprocessing, batch
        assert isinstance(network, FasterRCNN)
        written.append(b"quiet" if network._config.least_score else b"telling")
        return written[-1]

    def run(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
        assert content in written
        return lambda images: np.zeros((len(images), 21, 6), np.float32)

    card = packaged("faster_rcnn").folder / CARD_FILE
    values = json.loads(card.read_text())
    card.write_text(json.dumps(values | {"config": values["config"] | {"least_score": 0.99}}))
    monkeypatch.setitem(exporting._WAYS, "stablehlo", exporting._Way(write, run))
    with pytest.raises(StartupError, match="does not answer as the package does: largest difference"):
        export_package(load_package(card.parent), format="stablehlo", out=tmp_path / "model.bin")
    assert written == [b"quiet", b"telling"]
