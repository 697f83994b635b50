from __future__ import annotations

import errno
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from few_files import few_files_left
from twinsight_core.host import open_files as host
from twinsight_core.host.open_files import OpenFiles, exhausted, limit, open_files, raise_limit

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="what is open is told on Linux alone")


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """What the limits were, and are again at the end."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("in_use", "most", "reserve", "are_short"),
    [
        (300, 400, 100, False),
        (301, 400, 100, True),
        (36, 100, 64, False),
        (37, 100, 64, True),
        (0, 50, 64, True),
        (10**6, math.inf, 0, False),
    ],
)
def test_a_quarter_of_the_limit_is_kept_and_64_at_least(
    in_use: int, most: float, reserve: int, are_short: bool
) -> None:
    files = OpenFiles(in_use, most)
    assert (files.reserve, files.are_short) == (reserve, are_short)


def test_the_limit_is_raised_as_far_as_it_may_be(limits: tuple[int, int]) -> None:
    soft, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    assert limit() == min(256, soft)
    assert raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.parametrize("error", [ValueError("current limit exceeds maximum limit"), OSError(errno.EPERM, "no")])
def test_a_limit_that_can_t_be_raised_stays(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", Mock(side_effect=error))
    before = limit()
    assert not raise_limit()
    assert limit() == before


@on_linux
def test_what_is_open_is_counted() -> None:
    before = open_files()
    assert before is not None
    more = [os.dup(0) for _ in range(3)]
    after = open_files()
    for one in more:
        os.close(one)
    assert after == before._replace(in_use=before.in_use + 3)
    assert before.limit == limit()


@on_linux
def test_where_nothing_can_be_opened_all_are_in_use() -> None:
    with few_files_left(0):
        files, code = open_files(), exhausted()
    assert files is not None
    assert files.in_use == files.limit
    assert code == errno.EMFILE


def test_a_file_or_two_are_as_good_as_none_and_some_are_enough() -> None:
    with few_files_left(2):
        assert exhausted() == errno.EMFILE
    with few_files_left(8):
        assert exhausted() is None


def test_where_nothing_tells_what_is_open_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_OPEN", Path("/nowhere/fd"))
    assert open_files() is None
