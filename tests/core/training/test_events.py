import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import RecordWriter

from twinsight_core.training import events
from twinsight_core.training.events import Events


def read(folder: Path) -> list[Any]:
    """The events of a folder's one file: each after its length and a checksum of it, before its own checksum."""
    (file,) = folder.glob("events.out.tfevents.*")
    content, found = file.read_bytes(), list[Any]()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_values_are_written_with_their_steps(tmp_path: Path) -> None:
    written = Events(tmp_path / "new")
    written.add({"train/loss": 0.5, "train/gradient_norm": 2.0}, 10)
    written.add({"validation/score": 0.75}, 20)
    written.close()
    written.close()
    version, losses, score = read(tmp_path / "new")
    assert version.file_version == "brain.Event:2"
    assert {one.tag: one.simple_value for one in losses.summary.value} == {"train/loss": 0.5, "train/gradient_norm": 2}
    assert (losses.step, score.step) == (10, 20)
    assert [one.tag for one in score.summary.value] == ["validation/score"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("flush_s", [-1.0, 1e9])
def test_a_full_disk_is_told_of_once_and_nobody_waits(
    flush_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "RecordWriter", lambda _: RecordWriter("/dev/full"))
    monkeypatch.setattr(events, "_FLUSH_S", flush_s)
    with caplog.at_level("WARNING", "twinsight_core"):
        written = Events(tmp_path)
        for step in range(1000):  # more than a buffer holds
            written.add({"train/loss": 0.5}, step)
        written.close()
    (told,) = caplog.messages
    assert told.endswith("can't write more events for TensorBoard ([Errno 28] No space left on device)")
