"""Weight files of other projects as NumPy arrays by name.

safetensors files are read as they are. PyTorch's own files are pickles, which may run code when loaded; they are read
with `weights_only=True`, which accepts only tensors and plain containers.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from twinsight_core.errors import StartupError
from twinsight_core.extras import how_to_install
from twinsight_core.host.bounded_files import FileTooLarge, open_bounded
from twinsight_core.packages import MAX_WEIGHTS_BYTES

PYTORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
NESTED_UNDER = ("net_state_dict", "model_state_dict", "state_dict", "model", "state_dict_ema")
"""Keys under which training scripts put the weights in a checkpoint that holds more than weights."""

_NAMED = 10
# What `torch.nn.DataParallel` puts before each name.
_PARALLEL_PREFIX = "module."


class _Tensor(Protocol):
    """The part of PyTorch's tensors that is used here."""

    def detach(self) -> _Tensor: ...
    def is_floating_point(self) -> bool: ...
    def float(self) -> _Tensor: ...
    def numpy(self) -> np.ndarray: ...


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name: as float32 if they are floating-point, otherwise unchanged.

    Args:
        path: a safetensors file, or a PyTorch file if its suffix says so.

    Raises:
        StartupError: the file can't be read or is too large, or it is a PyTorch file and PyTorch is not installed.
    """
    try:
        tensors = _read_pytorch(path) if path.suffix.lower() in PYTORCH_SUFFIXES else _read_safetensors(path)
    except FileTooLarge as error:
        raise StartupError(f"{path}: {error.strerror}.", reason="WEIGHTS_TOO_LARGE") from error
    except OSError as error:
        raise StartupError(f"{path}: can't be read ({error.strerror}).", reason="WEIGHTS_UNREADABLE") from error
    prefix = _PARALLEL_PREFIX if tensors and all(name.startswith(_PARALLEL_PREFIX) for name in tensors) else ""
    return {
        # NumPy itself does not know bfloat16.
        name.removeprefix(prefix): tensor.astype(np.float32) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor
        for name, tensor in tensors.items()
    }


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with open_bounded(path, MAX_WEIGHTS_BYTES):
        pass
    try:
        return safetensors.numpy.load_file(path)  # `load` does not know bfloat16
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartupError(f"{path}: not a safetensors file ({error}).", reason="WEIGHTS_UNREADABLE") from error


def _read_pytorch(path: Path) -> dict[str, np.ndarray]:
    with open_bounded(path, MAX_WEIGHTS_BYTES) as file:
        # By name, since only this needs PyTorch and type checkers run without it.
        try:
            torch = importlib.import_module("torch")
        except ModuleNotFoundError as error:
            raise StartupError(
                f"{path}: a PyTorch file, which needs PyTorch; it is not installed. {how_to_install('torch')}",
                reason="EXTRA_MISSING",
            ) from error
        try:
            content: object = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
            raise _no_weights(path, error) from error
    state = _state(path, content)
    found: dict[str, _Tensor] = {name: one for name, one in state.items() if torch.is_tensor(one)}
    if not found:
        named = ", ".join(f"`{name}`" for name in list(state)[:_NAMED]) or "nothing"
        raise StartupError(f"{path}: it holds no tensors by name, but {named}.", reason="WEIGHTS_UNREADABLE")
    try:
        return {name: _array(one) for name, one in found.items()}
    except (RuntimeError, TypeError) as error:  # sparse, say
        raise _no_weights(path, error) from error


def _no_weights(path: Path, error: Exception) -> StartupError:
    said = str(error).partition("\n")[0][:200]
    return StartupError(f"{path}: not a PyTorch file of weights ({said}).", reason="WEIGHTS_UNREADABLE")


def _array(tensor: _Tensor) -> np.ndarray:
    # A state saved with `keep_vars=True` holds parameters, which must be detached before they become arrays.
    values = tensor.detach()
    # NumPy has no bfloat16.
    return (values.float() if values.is_floating_point() else values).numpy()


def _state(path: Path, content: object) -> dict[str, _Tensor]:
    """Returns the names and tensors in a checkpoint, from under the first key in NESTED_UNDER that it has."""
    for key in NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise StartupError(f"{path}: it holds no named weights.", reason="WEIGHTS_UNREADABLE")
    return dict(content)
