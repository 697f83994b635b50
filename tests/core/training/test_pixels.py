"""Where decoded pictures are kept."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.images import Preprocessing
from twinsight_core.training import pixels
from twinsight_core.training.copies import without_copies
from twinsight_core.training.data import read_class_folders
from twinsight_core.training.pixels import empty_pixels, pixels_of

SHAPE = (600, 2, 3, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made, for a process that keeps few pixels in memory."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(pixels, "_MOST_IN_MEMORY", 100)
    return tmp_path / "temporary"


def test_few_pixels_are_kept_in_memory() -> None:
    assert not isinstance(empty_pixels(SHAPE), np.memmap)


def test_many_pixels_are_kept_in_a_file_without_a_name(folder: Path) -> None:
    some = empty_pixels(SHAPE)
    assert isinstance(some, np.memmap)
    assert list(folder.iterdir()) == []
    some[:] = np.arange(some.size).reshape(SHAPE) % 251
    rows = np.arange(599, -1, -2)
    taken = pixels_of(some, rows)
    assert isinstance(taken, np.memmap)
    assert (taken == np.asarray(some)[rows]).all()
    taken[:] = 0
    assert some.any()


@pytest.mark.usefixtures("folder")
def test_pixels_stay_in_memory_where_there_is_no_room_for_a_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.WARNING):
        some = empty_pixels(SHAPE)
    assert not isinstance(some, np.memmap)
    assert some.shape == SHAPE
    (line,) = caplog.messages
    assert line == ("keeping 0.0 GiB of decoded pictures in memory, not in a file ([Errno 28] No space left on device)")


@pytest.mark.usefixtures("folder")
def test_a_set_that_is_mapped_is_read_as_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        path = tmp_path / f"data/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = 20 * (number // 4 * 2 + number % 2)  # every picture is there twice, both in one class
        Pillow.new("RGB", (16, 16), (shade, shade, shade)).save(path)
    size = Preprocessing(height_px=16, width_px=16)
    mapped, copies = without_copies(read_class_folders(tmp_path / "data", preprocessing=size))
    assert isinstance(mapped.images, np.memmap)
    assert (len(mapped), copies) == (6, 6)
    monkeypatch.undo()
    kept, _ = without_copies(read_class_folders(tmp_path / "data", preprocessing=size))
    assert not isinstance(kept.images, np.memmap)
    assert mapped.files == kept.files
    assert (mapped.images == kept.images).all()
