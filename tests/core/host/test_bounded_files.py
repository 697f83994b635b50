"""Files of others are read within a limit, and only where they are regular files."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from twinsight_core.errors import PackageError
from twinsight_core.host import bounded_files
from twinsight_core.host.bounded_files import FileTooLarge, open_bounded, read_bounded
from twinsight_core.packages import CARD_FILE, load_package


def test_a_file_of_just_the_limit_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"four")
    assert read_bounded(tmp_path / "file", 4) == b"four"
    with pytest.raises(FileTooLarge, match="the file has 4 bytes; the limit is 3"):
        read_bounded(tmp_path / "file", 3)


@pytest.mark.parametrize("name", ["/dev/null", "/"])
def test_what_is_no_regular_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / CARD_FILE).symlink_to(name)
    with pytest.raises(PackageError, match=r"model\.json: can't be read \(not a regular file\)\.$"):
        load_package(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Ends whatever waits for the pipe.
    writer = threading.Thread(target=lambda: os.close(os.open(pipe, os.O_WRONLY)))
    writer.start()
    try:
        with pytest.raises(OSError, match="not a regular file"):
            read_bounded(pipe, 4)
    finally:
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reading)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"four")

    def opened_then_grown(path: Path, limit: int) -> BinaryIO:
        file = open_bounded(path, limit)
        path.write_bytes(b"longer")
        return file

    monkeypatch.setattr(bounded_files, "open_bounded", opened_then_grown)
    with pytest.raises(OSError, match="it grew while it was read"):
        read_bounded(path, 4)
