import errno
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache as cache_of
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.errors import StartupError
from twinsight_core.executors import choice, kept_files, openvino, xla
from twinsight_core.executors.choice import ChosenExecutor, choose_executor
from twinsight_core.executors.kept_files import read_kept
from twinsight_core.executors.openvino import load_openvino, supported_precisions
from twinsight_core.exporting import onnx
from twinsight_core.exporting.agreement import LEAST_COSINE, trial_pictures
from twinsight_core.images import Preprocessing
from twinsight_core.models import registry
from twinsight_core.models.precision import Precision
from twinsight_core.packages import ModelPackage

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("openvino", "jax2onnx", "onnxruntime")),
    reason="OpenVINO, the extra `openvino`, is not installed",
)


@pytest.fixture(scope="module")
def cache(embedding: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that a first start has filled."""
    folder = tmp_path_factory.mktemp("cache")
    choose_executor(embedding, "openvino", cache_dir=folder)
    return folder


def test_the_fastest_precision_that_agrees_serves(embedding: ModelPackage, cache: Path) -> None:
    assert choose_executor(embedding, "auto", cache_dir=cache).name == f"openvino:cpu:{supported_precisions()[0]}"


def test_xla_serves_where_it_is_asked_for(embedding: ModelPackage, tmp_path: Path) -> None:
    assert choose_executor(embedding, "xla", cache_dir=tmp_path).name == "xla:cpu:f32"
    assert not list(tmp_path.iterdir())


SECOND_START = """
import sys
from pathlib import Path
import numpy as np
from twinsight_core.executors.choice import choose_executor
from twinsight_core.packages import load_package
package = load_package(Path(sys.argv[1]))
executor = choose_executor(package, "auto", cache_dir=Path(sys.argv[2]))
executor.prepare(1)
size = package.card.preprocessing
answers = executor.compute(np.zeros((1, size.height_px, size.width_px, 3), np.uint8))
print(executor.name.partition(":")[0], answers.shape[0], *({"jax", "flax", "jax2onnx"} & set(sys.modules)))
"""


def test_a_second_start_neither_exports_nor_compares_nor_imports_jax(embedding: ModelPackage, cache: Path) -> None:
    files = {file.name: file.stat().st_ino for file in cache.iterdir() if file.suffix != ".program"}
    command = [sys.executable, "-c", SECOND_START, str(embedding.folder), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "openvino 1\n"), done.stderr
    assert {file.name: file.stat().st_ino for file in cache.iterdir() if file.suffix != ".program"} == files


def spoilt(cache: Path, tmp_path: Path, **values: float) -> Path:
    """Copies a cache with other figures for the precisions."""
    for file in cache.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (record,) = tmp_path.glob("*.json")
    known = {
        f"openvino {load_openvino().__version__} {name}": {"measure": "cosine", "value": value}
        for name, value in values.items()
    }
    record.write_text(json.dumps(known), "utf-8")
    return tmp_path


def test_a_precision_that_answers_otherwise_is_passed_over(
    embedding: ModelPackage, cache: Path, tmp_path: Path
) -> None:
    folder = spoilt(cache, tmp_path, bf16=0.98, f32=1.0)
    assert choose_executor(embedding, "openvino", cache_dir=folder).name == "openvino:cpu:f32"


@pytest.mark.parametrize("value", [0.98, float("nan")])
def test_where_nothing_agrees_xla_serves_and_openvino_is_refused(
    embedding: ModelPackage, cache: Path, tmp_path: Path, value: float
) -> None:
    folder = spoilt(cache, tmp_path, bf16=value, f32=value)
    assert choose_executor(embedding, "auto", cache_dir=folder).name == "xla:cpu:f32"
    with pytest.raises(StartupError, match=r"^`embedding` does not give the same outputs .* \(.*cosine"):
        choose_executor(embedding, "openvino", cache_dir=folder)


@pytest.mark.parametrize("damaged", [b"{", b"[]", b"\xff", b'{"openvino": 1}', None])
def test_a_damaged_record_is_made_anew(
    embedding: ModelPackage, cache: Path, tmp_path: Path, damaged: bytes | None
) -> None:
    folder = spoilt(cache, tmp_path, f32=1.0)
    (record,) = folder.glob("*.json")
    record.unlink()
    if damaged is None:
        record.mkdir()  # can be neither read nor replaced
    else:
        record.write_bytes(damaged)
    assert choose_executor(embedding, "openvino", cache_dir=folder).name.startswith("openvino:cpu:")
    assert damaged is None or json.loads(record.read_text("utf-8"))


@pytest.mark.parametrize("damaged", [b"", b"no network"])
def test_a_damaged_network_is_exported_anew(
    embedding: ModelPackage, cache: Path, tmp_path: Path, damaged: bytes
) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    for program in folder.glob("*.program"):
        program.unlink()
    (network,) = folder.glob("*.network")
    good = network.read_bytes()
    network.write_bytes(damaged)
    for _ in range(2):
        assert choose_executor(embedding, "auto", cache_dir=folder).name.startswith("openvino:cpu:")
    assert len(network.read_bytes()) == pytest.approx(len(good), rel=0.1)


def test_a_cache_that_takes_nothing_keeps_no_network_from_being_served(
    embedding: ModelPackage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    executor = choose_executor(embedding, "openvino", cache_dir=tmp_path / "file" / "cache")
    executor.prepare(1)
    assert executor.name.startswith("openvino:cpu:")
    for suffix in ("network", "json", "program"):
        assert re.search(rf"can't keep .*\.{suffix} \(Not a directory\); it will be re-created", caplog.text), suffix


def test_a_full_cache_disk_keeps_no_network_from_being_served(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept_files, "write_whole", full)
    assert choose_executor(embedding, "openvino", cache_dir=tmp_path).name.startswith("openvino:cpu:")
    assert not list(tmp_path.iterdir())


def test_without_room_for_a_temporary_file_xla_serves(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert choose_executor(embedding, "auto", cache_dir=tmp_path / "cache").name == "xla:cpu:f32"
    assert "can't be exported to ONNX: can't write a temporary file (No such file or directory)" in caplog.text


def test_where_the_converter_fails_in_an_unknown_way_xla_serves(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def convert(*_: object, **__: object) -> None:
        raise AttributeError("module 'jax' has no attribute 'x'")  # as with a JAX that it does not know yet

    monkeypatch.setattr(importlib.import_module("jax2onnx"), "to_onnx", convert)
    assert choose_executor(embedding, "auto", cache_dir=tmp_path).name == "xla:cpu:f32"
    assert "can't be exported to ONNX (module 'jax' has no attribute 'x')" in caplog.text
    with pytest.raises(StartupError, match="can't be exported to ONNX"):
        choose_executor(embedding, "openvino", cache_dir=tmp_path)
    load = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: convert() if name == "jax2onnx" else load(name))
    assert choose_executor(embedding, "auto", cache_dir=tmp_path).name == "xla:cpu:f32"
    assert "`jax2onnx` can't be loaded (module 'jax' has no attribute 'x')" in caplog.text


def test_without_openvino_xla_serves_and_openvino_says_how_to_install_it(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name == "openvino" else find(name))
    assert choose_executor(embedding, "auto", cache_dir=tmp_path).name == "xla:cpu:f32"
    with pytest.raises(
        StartupError, match=r"^The executor `openvino` needs .* pip install '\.\[openvino\]' in the folder"
    ):
        choose_executor(embedding, "openvino", cache_dir=tmp_path)


class Unusable:
    """OpenVINO that is there and fails."""

    __version__ = "0"

    def Core(self) -> object:
        raise RuntimeError("Check 'false' failed\nno such device")


class WithoutProcessor(Unusable):
    def Core(self) -> object:
        return self

    def get_property(self, device: str, name: str) -> object:
        raise RuntimeError(f"{device} has no {name}")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Unusable(), "OpenVINO can't be used (no such device)."),
        (WithoutProcessor(), "OpenVINO can't be used (CPU has no OPTIMIZATION_CAPABILITIES)."),
        (ImportError("libopenvino.so: cannot open"), "OpenVINO can't be loaded (libopenvino.so: cannot open)."),
    ],
)
def test_where_openvino_can_not_be_used_xla_serves(
    embedding: ModelPackage,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: object,
    message: str,
) -> None:
    imported = importlib.import_module

    def load(name: str, package: str | None = None) -> object:
        if name != "openvino":
            return imported(name, package)
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(openvino, "_core", cache_of(openvino._core.__wrapped__))
    monkeypatch.setattr(importlib, "import_module", load)
    with pytest.raises(StartupError, match=f"^{re.escape(message)}$"):
        choose_executor(embedding, "openvino", cache_dir=cache)
    assert choose_executor(embedding, "auto", cache_dir=cache).name == "xla:cpu:f32"
    assert f"serving embedding with XLA: {message}" in caplog.text


def test_a_network_that_openvino_fails_to_compute_is_served_by_xla(
    embedding: ModelPackage, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise RuntimeError("no memory")

    folder = spoilt(cache, tmp_path)
    monkeypatch.setattr(openvino.OpenVinoExecutor, "compute", fail)
    assert choose_executor(embedding, "auto", cache_dir=folder).name == "xla:cpu:f32"
    with pytest.raises(StartupError, match=r"^OpenVINO can't compute the network \(no memory\)\.$"):
        choose_executor(embedding, "openvino", cache_dir=folder)


def test_without_what_exports_openvino_says_how_to_install_it(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(choice, "version", lacking)
    with pytest.raises(
        StartupError, match=r"needs the package `twinsight`, .* pip install '\.\[openvino\]' in the folder"
    ):
        choose_executor(embedding, "openvino", cache_dir=tmp_path)


def test_openvino_can_not_call_its_maker() -> None:
    load_openvino()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("openvino_telemetry")


def test_nothing_is_chosen_before_a_size_is_prepared(embedding: ModelPackage, cache: Path) -> None:
    chosen = ChosenExecutor(embedding, "auto", cache_dir=cache)
    assert chosen.name == ""
    with pytest.raises(KeyError):
        chosen.compute(trial_pictures(embedding.card.preprocessing)[:1])
    chosen.prepare(1)
    assert chosen.name.startswith("openvino:cpu:")
    answer = chosen.compute(trial_pictures(embedding.card.preprocessing)[:1])
    np.testing.assert_allclose(np.linalg.norm(answer), 1.0, atol=1e-5)


SIGNALLED = """
import signal, sys
from pathlib import Path
from twinsight_core.executors.kept_files import read_kept
from twinsight_core.executors.openvino import OpenVinoExecutor
from twinsight_core.images import Preprocessing

signal.signal(signal.SIGTERM, lambda *_: print("heard", flush=True))
onnx, size = read_kept(Path(sys.argv[1])), Preprocessing(height_px=32, width_px=48)
first = OpenVinoExecutor(onnx, size, precision="f32")
first.prepare(1)
second = OpenVinoExecutor(onnx, size, precision="f32")
second.prepare(1)
del first, second
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_is_heard_after_executors_are_gone(cache: Path) -> None:
    # Each core of OpenVINO gives its thread a stack for signals; two that went in the order they came left one that was
    # unmapped, and SIGTERM ended the process with SIGSEGV.
    (network,) = cache.glob("*.network")
    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(network)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_an_upgrade_leaves_nothing_of_the_version_before(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = embedding.digest.rpartition(":")[2][:32]
    others = [tmp_path / f"{'0' * 32}-0.1-9.network", tmp_path / "notes.txt"]
    for file in (tmp_path / f"{digest}-0.0-9.network", tmp_path / f"{digest}-0.0-9.json", *others):
        file.touch()
    monkeypatch.setattr(onnx, "to_onnx", lambda *_, **__: b"network")
    choice._Exported.of(embedding, tmp_path)
    (made,) = set(tmp_path.iterdir()) - set(others)
    assert made.suffix == ".network"
    assert read_kept(made) == b"network"


class Quiet:
    """A detector's executor. It finds nothing; in float32 it would tell something without a least score."""

    def __init__(self, network: str, preprocessing: Preprocessing, *, precision: Precision = "f32") -> None:
        del preprocessing
        self.name = precision
        self._tells = network == "telling all" and precision == "f32"

    def prepare(self, *batch_sizes: int) -> None:
        """There is nothing to compile."""

    def compute(self, images: np.ndarray) -> np.ndarray:
        answers = np.zeros((len(images), 4, 6), np.float32)
        answers[:, 0] = (0, 0, 1, 1, 0.04, 0) if self._tells else 0
        return answers


def blind(content: bytes, preprocessing: Preprocessing, *, precision: Precision, kept: object = None) -> Quiet:
    """An executor that would find nothing in any picture."""
    del content, kept
    return Quiet("quiet", preprocessing, precision=precision)


def test_a_detector_that_finds_nothing_is_compared_without_its_least_score(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = replace(embedding, card=replace(embedding.card, task="detection"))
    monkeypatch.setattr(ModelPackage, "build", lambda _: "quiet")
    monkeypatch.setattr(registry, "telling_all", lambda _: "telling all")
    monkeypatch.setattr(onnx, "to_onnx", lambda *_, **__: b"")
    monkeypatch.setattr(xla, "XlaExecutor", Quiet)
    monkeypatch.setattr(choice, "OpenVinoExecutor", blind)
    with pytest.raises(StartupError, match=r"does not give the same .*f32: largest difference 4\.00e-02"):
        choose_executor(detector, "openvino", cache_dir=tmp_path)
    monkeypatch.setattr(choice, "best_precision", lambda: "bf16")
    assert choose_executor(detector, "xla", cache_dir=tmp_path).name == "f32"


def test_an_accelerator_computes_in_bfloat16_where_that_answers_alike(
    embedding: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "best_precision", lambda: "bf16")
    assert choose_executor(embedding, "xla", cache_dir=tmp_path).name == "xla:cpu:bf16"
    monkeypatch.setitem(LEAST_COSINE, "bf16", 1.1)
    assert choose_executor(embedding, "xla", cache_dir=tmp_path).name == "xla:cpu:f32"
