from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
import pytest
from safetensors.numpy import save_file

from twinsight_core.errors import StartupError
from twinsight_core.importing.weights import read_weights
from twinsight_core.packages import MAX_WEIGHTS_BYTES


class FakeTensor:
    """A tensor as PyTorch would give it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def detach(self) -> FakeTensor:
        return self

    def is_floating_point(self) -> bool:
        return self.values.dtype.kind == "f"

    def float(self) -> FakeTensor:
        return FakeTensor(self.values.astype(np.float32))

    def numpy(self) -> np.ndarray:
        return self.values


class FakeParameter(FakeTensor):
    """A tensor that gradients are asked of; PyTorch gives it out as an array only once it is detached."""

    def detach(self) -> FakeTensor:
        return FakeTensor(self.values)

    def float(self) -> FakeParameter:
        return FakeParameter(self.values.astype(np.float32))

    def numpy(self) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


class FakeSparse(FakeTensor):
    """A tensor that is no array."""

    def numpy(self) -> np.ndarray:
        raise TypeError("can't convert Sparse layout tensor to numpy.")


class FakeTorch(ModuleType):
    """PyTorch as far as a checkpoint is read by it."""

    def __init__(self, content: object) -> None:
        super().__init__("torch")
        self.content = content

    def load(self, file: BinaryIO, *, map_location: str, weights_only: bool) -> object:
        assert file.read() == b"anything"
        assert map_location == "cpu"
        assert weights_only
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    def is_tensor(self, value: object) -> bool:
        return isinstance(value, FakeTensor)


def checkpoint(folder: Path) -> Path:
    path = folder / "weights.ckpt"
    path.write_bytes(b"anything")
    return path


def test_halves_of_a_safetensors_file_become_float32(tmp_path: Path) -> None:
    # Written by hand, since NumPy has no bfloat16: the upper half of a float32.
    values = np.array([1.5, -2.0, 0.15625], np.float32)
    upper, half = (values.view(np.uint32) >> 16).astype(np.uint16), values.astype(np.float16)
    places = {"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
              "b": {"dtype": "F16", "shape": [3], "data_offsets": [6, 12]}}  # fmt: skip
    head = json.dumps(places).encode()
    content = len(head).to_bytes(8, "little") + head + upper.tobytes() + half.tobytes()
    (tmp_path / "halves.safetensors").write_bytes(content)
    tensors = read_weights(tmp_path / "halves.safetensors")
    for name in ("a", "b"):
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], values)


def test_floats_of_a_safetensors_file_become_float32_and_integers_stay(tmp_path: Path) -> None:
    save_file({"a": np.array([1.5], np.float64), "b": np.array([2], np.int64)}, tmp_path / "one.safetensors")
    tensors = read_weights(tmp_path / "one.safetensors")
    assert tensors["a"].dtype == np.float32
    assert tensors["b"].dtype == np.int64
    assert tensors["a"] == 1.5


def test_the_prefix_of_data_parallel_training_is_taken_off(tmp_path: Path) -> None:
    save_file({"module.a": np.ones(1, np.float32), "module.b": np.ones(1, np.float32)}, tmp_path / "one.safetensors")
    assert set(read_weights(tmp_path / "one.safetensors")) == {"a", "b"}


@pytest.mark.parametrize("under", ["net_state_dict", "model_state_dict", "state_dict", "model", "state_dict_ema", ""])
def test_a_checkpoint_s_weights_are_found_where_training_scripts_put_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under: str
) -> None:
    state = {"a": FakeTensor(np.array([0.5], np.float16)), "count": FakeTensor(np.array(3)), "note": "no tensor"}
    content: dict[str, object] = {"epoch": 68, under: state} if under else dict(state)
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(content))
    tensors = read_weights(checkpoint(tmp_path))
    assert set(tensors) == {"a", "count"}
    assert tensors["a"].dtype == np.float32


def test_without_pytorch_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(StartupError, match=r"Install it with: pip install '\.\[torch\]' in the folder") as raised:
        read_weights(checkpoint(tmp_path))
    assert raised.value.reason == "EXTRA_MISSING"


@pytest.mark.parametrize("content", [[1, 2], {1: FakeTensor(np.zeros(1))}])
def test_a_checkpoint_without_names_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(content))
    with pytest.raises(StartupError, match=r"it holds no named weights\.$"):
        read_weights(checkpoint(tmp_path))


def test_a_checkpoint_of_other_things_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch({"epoch": 3, "network": {"a": FakeTensor(np.zeros(1))}}))
    with pytest.raises(StartupError, match=r"it holds no tensors by name, but `epoch`, `network`\.$"):
        read_weights(checkpoint(tmp_path))


def test_parameters_are_read_as_tensors_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch({"a": FakeParameter(np.array([0.5], np.float16))}))
    np.testing.assert_array_equal(read_weights(checkpoint(tmp_path))["a"], np.array([0.5], np.float32))


def test_a_tensor_that_is_no_array_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch({"a": FakeSparse(np.zeros(1, np.int64))}))
    with pytest.raises(StartupError, match=r"not a PyTorch file of weights \(can't convert Sparse layout"):
        read_weights(checkpoint(tmp_path))


def test_what_pytorch_refuses_to_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(pickle.UnpicklingError("Weights only load failed.\nLong talk")))
    with pytest.raises(StartupError, match=r"not a PyTorch file of weights \(Weights only load failed\.\)\.$"):
        read_weights(checkpoint(tmp_path))


def test_a_pickle_that_would_run_code_is_refused_by_the_real_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch, the extra `torch`, is not installed")

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "harm",)

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": Harm()}, protocol=2))
    with pytest.raises(StartupError, match="not a PyTorch file of weights"):
        read_weights(path)
    assert not (tmp_path / "harm").exists()


def test_a_missing_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"none\.safetensors: can't be read \(No such file or directory\)\.$"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08")
    with pytest.raises(StartupError, match=r"bad\.safetensors: not a safetensors file"):
        read_weights(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_what_is_no_regular_file_or_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", FakeTorch({}))
    path = tmp_path / name
    path.symlink_to("/dev/null")
    with pytest.raises(StartupError, match=r"can't be read \(not a regular file\)\.$"):
        read_weights(path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(MAX_WEIGHTS_BYTES + 1)
    with pytest.raises(StartupError, match=r": the file has 2147483649 bytes; the limit is 2147483648\.$") as raised:
        read_weights(path)
    assert raised.value.reason == "WEIGHTS_TOO_LARGE"
