from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.errors import StartupError
from twinsight_core.exporting.onnx import run_onnx


def test_what_onnx_runtime_refuses_is_one_line() -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    with pytest.raises(StartupError, match=r"^ONNX Runtime rejects the exported network \(.*\)\.$"):
        run_onnx(b"no protobuf")(np.zeros((1, 4, 4, 3), np.uint8))


SESSION = """
import numpy as np
from onnx import TensorProto, helper
from twinsight_core.exporting import INPUT, OUTPUT
from twinsight_core.exporting.onnx import run_onnx

values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (INPUT, OUTPUT)]
graph = helper.make_graph([helper.make_node("Relu", [INPUT], [OUTPUT])], "graph", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
print(run_onnx(model.SerializeToString())(np.array([-1.0], np.float32)))
"""


def test_onnx_runtime_tells_its_maker_nothing(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    # Where it does, it leaves a number of the machine and what is to be sent in the user's cache. Of a build server,
    # which it knows by `CI`, it tells nothing.
    env = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH"}}
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        env=env | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "[0.]\n"
    assert not list(tmp_path.iterdir())
