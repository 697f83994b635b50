from __future__ import annotations

import gc
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from twinsight_core.errors import Unavailable
from twinsight_core.index.row_memory import VectorCopy
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.keyring import Keyring, change_keyring, new_key
from twinsight_server.app import Server
from twinsight_server.config import ServerConfig


def small(folder: Path) -> ServerConfig:
    return ServerConfig(
        listen="127.0.0.1:0",
        data_dir=folder / "data",
        cache_dir=folder / "cache",
        models="base",
        executor="xla",
        drain_s=0.0,
    )


@pytest.mark.parametrize(
    ("on_disk", "copy", "encrypted", "warnings"),
    [
        (True, "float32", True, 1),
        (False, "int8", True, 1),
        (False, "float32", True, 0),
        (True, "int8", False, 0),
    ],
)
def test_what_a_keyring_keeps_from_being_done_is_told_before_a_collection_is_opened(
    on_disk: bool, copy: VectorCopy, encrypted: bool, warnings: int, tmp_path: Path
) -> None:
    change_keyring(tmp_path / "keyring.json", lambda _: Keyring(new_key()))
    config = replace(
        small(tmp_path),
        keyring=str(tmp_path / "keyring.json") if encrypted else None,
        vectors_on_disk=on_disk,
        vector_copy=copy,
    )
    with capture_logs() as lines:
        Server(config).stop()
    told = [line for line in lines if line["log_level"] == "warning"]
    assert len(told) == warnings
    for line in told:
        assert line["event"].startswith("ignoring vectors_on_disk and vector_copy for encrypted collections: ")
        assert (line["vectors_on_disk"], line["vector_copy"]) == (on_disk, copy)


@pytest.mark.parametrize("step", ["canary.service.stop", "gate.close", "gate.wait_drained", "canary.join"])
def test_a_step_of_stopping_that_fails_keeps_none_of_the_others_from_being_done(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    server = Server(small(tmp_path))
    gc.freeze()  # as `start` does
    *owners, name = step.split(".")
    with monkeypatch.context() as failing:
        failing.setattr(attrgetter(".".join(owners))(server), name, fails)
        with pytest.raises(MemoryError):
            server.stop()
    assert gc.get_freeze_count() == 0
    with pytest.raises(Unavailable):
        server._catalog.create(CollectionSpec("late", 2))
    Server(small(tmp_path)).stop()
