from __future__ import annotations

import numpy as np
import pytest

from twinsight_core.errors import StartupError
from twinsight_core.exporting.onnx import run_onnx


def test_what_onnx_runtime_refuses_is_one_line() -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    with pytest.raises(StartupError, match=r"^ONNX Runtime refuses the exported network \(.*\)\.$"):
        run_onnx(b"no protobuf")(np.zeros((1, 4, 4, 3), np.uint8))
