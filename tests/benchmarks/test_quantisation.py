"""What int8 would bring."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quantisation


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_without_nncf_it_says_how_to_install_it_before_it_reads_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr(sys, "argv", ["quantisation", "--data", str(tmp_path / "absent"), "--quick"])
    with pytest.raises(SystemExit, match=r"needs the module `nncf`.*requirements-quantisation\.txt$"):
        quantisation.main()


def test_cosines_are_of_each_picture_with_itself() -> None:
    left = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    right = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    assert quantisation.cosines(left, right) == {"mean": 0.9, "least": 0.8}
