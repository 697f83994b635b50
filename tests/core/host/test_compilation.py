"""What XLA compiled, kept between starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinsight_core.host import compilation
from twinsight_core.host.compilation import keep_compiled_code


def test_a_folder_that_can_not_be_made_keeps_nothing_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compilation, "_compiled", compilation._Compiled())
    (tmp_path / "file").touch()
    keep_compiled_code(tmp_path / "file" / "xla")
    assert compilation._compiled.folder is None
    assert "xla (Not a directory): each start compiles again" in caplog.text
