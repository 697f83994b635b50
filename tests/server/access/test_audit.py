from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog.testing

from twinsight_server.access import audit
from twinsight_server.access.audit import About, AuditLog, Effect


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Has the system take what fits into `size` bytes of a file, and then nothing, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(log: AuditLog, request_id: str) -> None:
    about, effect = About("call", "Search"), Effect()
    log.write(about, effect, caller="key:a", peer="here", code="OK", reason="", request_id=request_id)


def request_id(line: str) -> str:
    found = json.loads(line)["request_id"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("taken", [1, 20])
def test_after_a_line_that_was_cut_off_the_next_ones_are_whole(tmp_path: Path, taken: int) -> None:
    path = tmp_path / "audit.jsonl"
    log, other = AuditLog(path), AuditLog(path)
    write(log, "first")
    with structlog.testing.capture_logs() as logged:
        with files_of_at_most(path.stat().st_size + taken):
            write(log, "cut off")
            write(log, "lost")
        with files_of_at_most(path.stat().st_size + 1):
            write(log, "lost but for the end of the line before")
        for number in range(2):
            write(log, f"after {number}")
            write(other, f"other {number}")
    log.close()
    other.close()
    lines = path.read_text().splitlines()
    whole = [request_id(line) for line in (lines[0], *lines[2:])]
    assert whole == ["first", "after 0", "other 0", "after 1", "other 1"]
    assert len(lines[1]) == taken
    assert [line["event"] for line in logged] == [
        "the audit log can't be written; entries are lost",
        "the audit log can be written again",
    ]


def test_a_file_made_anew_begins_with_a_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    with structlog.testing.capture_logs(), files_of_at_most(20):
        write(log, "cut off")
    path.rename(tmp_path / "audit.1")
    write(log, "whole")
    log.close()
    assert [request_id(line) for line in path.read_text().splitlines()] == ["whole"]


@pytest.mark.parametrize("there", [b"", b"{}\n", b'{}\n{"time":'])
def test_a_start_goes_on_after_what_was_cut_off_before(tmp_path: Path, there: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(there)
    log = AuditLog(path)
    write(log, "after")
    log.close()
    assert path.read_bytes().startswith(there)
    lines = path.read_text().splitlines()
    assert request_id(lines[-1]) == "after"
    assert lines[:-1] == there.decode().splitlines()


def test_what_comes_after_the_end_is_lost_and_told_and_closes_no_other_file(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    number = log._file
    log.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, number)  # as the next file that is opened has the number
    with structlog.testing.capture_logs() as told:
        write(log, "late")
    os.fstat(number)
    os.close(number)
    if other != number:
        os.close(other)
    assert [one["event"] for one in told] == ["entry arrived after the audit log was closed and is lost"]
    assert (tmp_path / "audit.jsonl").read_bytes() == b""


def test_lines_go_into_the_file_that_was_moved_where_no_new_one_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder of root's, where only the file is the server's."""
    path, moved = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    log = AuditLog(path)
    write(log, "first")
    path.rename(moved)

    def refused(_: Path) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with structlog.testing.capture_logs() as logged:
        with monkeypatch.context() as patch:
            patch.setattr(audit, "_opened", refused)
            for number in range(2):
                write(log, f"moved {number}")
        write(log, "after")
    log.close()

    assert [request_id(line) for line in moved.read_text().splitlines()] == ["first", "moved 0", "moved 1"]
    assert [request_id(line) for line in path.read_text().splitlines()] == ["after"]
    assert [line["event"] for line in logged] == [
        "the audit log was moved away and can't be created again; entries go into the moved file",
        "the audit log was created again",
    ]
