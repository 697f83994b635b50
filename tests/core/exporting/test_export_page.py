from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.exporting.description import describe
from twinsight_core.exporting.onnx import run_onnx
from twinsight_core.exporting.package import export_package
from twinsight_core.images import Preprocessing, decode
from twinsight_core.packages import ModelPackage, find_package, save_package

PAGE = Path(__file__).parents[3] / "docs" / "export.md"
EXAMPLE = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)[0]
STATED_DIFFERENCE = 2.0
"""Of the page, on average over a JPEG's values; other formats give the same pixels."""
STATED_PROBABILITY = 0.01

Packaged = Callable[[str], ModelPackage]
Fit = Literal["stretch", "crop", "pad"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Soft shapes: a large JPEG that lies on its side, a grey one, a PNG that is half transparent and a WebP."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)

    def drawn(width: int, height: int, channels: int = 3) -> Pillow.Image:
        coarse = Pillow.fromarray(rng.integers(0, 256, (12, 16, channels), dtype=np.uint8))
        return coarse.resize((width, height), Pillow.Resampling.BICUBIC)

    exif = Pillow.Exif()
    exif[274] = 6
    drawn(1217, 803).save(folder / "side.jpg", exif=exif, quality=92)
    drawn(501, 399).convert("L").save(folder / "grey.jpg")
    drawn(1300, 1411, 4).save(folder / "half.png")
    drawn(250, 190).save(folder / "small.webp", quality=95)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_pages_example_sees_what_the_server_sees(photographs: list[Path], packaged: Packaged, fit: Fit) -> None:
    wanted = Preprocessing(height_px=96, width_px=128, fit=fit)
    package = packaged("classifier")
    how = describe(replace(package, card=replace(package.card, preprocessing=wanted)), batch=None)["preprocessing"]
    names: dict[str, Callable[[Path, object], np.ndarray]] = {}
    exec(EXAMPLE.partition("session = ")[0], names)  # noqa: S102 - the page's own code
    for path in photographs:
        seen = decode(path.read_bytes(), wanted).astype(np.int16)
        difference = np.abs(names["prepared"](path, how).astype(np.int16) - seen)
        assert difference.mean() < (STATED_DIFFERENCE if path.suffix == ".jpg" else 1e-9), (path.name, fit)


def test_the_pages_example_gives_the_servers_answers(
    photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jax2onnx", reason="the extra `onnx` is not installed")
    package = find_package("garments")
    file = export_package(package, format="onnx", out=tmp_path / "garments.onnx").path
    monkeypatch.chdir(tmp_path)
    for path in photographs:
        seen = decode(path.read_bytes(), package.card.preprocessing)
        wanted = run_onnx(file.read_bytes())(seen[None])[0]
        exec(EXAMPLE.replace("picture.jpg", str(path)), {})  # noqa: S102 - the page's own code
        told = [line.rpartition(": ") for line in capsys.readouterr().out.splitlines()]
        assert tuple(label for label, _, _ in told) == package.card.labels
        found = [float(probability) for *_, probability in told]
        np.testing.assert_allclose(found, wanted, atol=STATED_PROBABILITY, err_msg=path.name)


@pytest.mark.parametrize("architecture", ["siamese", "classifier", "faster_rcnn"])
def test_an_onnx_file_says_what_it_is_and_a_stablehlo_file_beside_itself(
    packaged: Packaged, tmp_path: Path, architecture: str
) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    made = packaged(architecture)
    card = replace(made.card, licence="CC-BY-4.0", training_data="Möwen", description="Tells gulls.")
    package = save_package(made.folder, card, made.build())
    model = onnx.load_model(export_package(package, format="onnx", out=tmp_path / "model.onnx").path)
    said = {one.key: one.value for one in model.metadata_props}
    described = describe(package, batch=None)
    assert said.keys() == {f"twinsight.{name}" for name in described}
    for name, value in described.items():
        text = said[f"twinsight.{name}"]
        assert (text if isinstance(value, str) else json.loads(text)) == value, name
    assert said["twinsight.digest"] == package.digest
    assert said["twinsight.training_data"] == "Möwen"
    assert json.loads(said["twinsight.labels"]) == list(card.labels)
    assert model.doc_string.endswith("Tells gulls.")
    assert model.graph.output[0].doc_string == described["answers"]
    assert json.loads(model.graph.input[0].doc_string)["channels"] == "RGB"
    done = export_package(package, format="stablehlo", out=tmp_path / "model.bin")
    assert done.description == tmp_path / "model.bin.json"
    assert json.loads((tmp_path / "model.bin.json").read_text()) == described


def test_the_page_lists_what_a_file_says(packaged: Packaged) -> None:
    table = PAGE.read_text().partition("| Key | Content |")[2].partition("\n\n")[0]
    keys = [line.split("|")[1] for line in table.splitlines() if line]
    listed = {name for key in keys for name in re.findall(r"`(\w+)`", key)}
    assert listed == describe(packaged("classifier"), batch=None).keys()
