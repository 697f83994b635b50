"""What a container may have of the processor's time, told by files as the kernel has them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from twinsight_core.host import cores
from twinsight_core.host.cores import core_count
from twinsight_core.host.cpu_quota import cpu_quota

HYBRID = "4:memory:/pods/a\n1:cpu,cpuacct:/pods/a\n0::/pods/a\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),  # in a container
        ("0::/\n", {}, math.inf),  # a machine's root group has no such file
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/pods/a\n", {"pods/a/cpu.max": "max 100000\n", "pods/cpu.max": "400000 100000\n"}, 4.0),
        ("0::/pods/a\n", {"pods/a/cpu.max": "50000 100000\n", "pods/cpu.max": "400000 100000\n"}, 0.5),
        ("0::/docker/4f\n", {"cpu.max": "150000 100000\n"}, 1.5),  # named as outside, shown as the root
        ("0::/../../b\n", {"cpu.max": "300000 100000\n"}, 3.0),  # beside what is shown
        (HYBRID, {"cpu,cpuacct/pods/a/cpu.cfs_quota_us": "200000", "cpu,cpuacct/pods/a/cpu.cfs_period_us": "50000"}, 4),
        (HYBRID, {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2),
        (
            HYBRID,
            {"cpu,cpuacct/pods/a/cpu.cfs_quota_us": "-1", "cpu,cpuacct/pods/a/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        ("2:cpuacct,cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "300000", "cpu/a/cpu.cfs_period_us": "100000"}, 3),
        ("0::/caf\udce9\n", {"cpu.max": "100000 100000"}, 1),
        (HYBRID, {"memory/pods/a/cpu.cfs_quota_us": "1", "memory/pods/a/cpu.cfs_period_us": "1"}, math.inf),
        ("0::/\n", {"cpu.max": "torn"}, math.inf),
        ("0::/\n", {"cpu.max": "100000 0"}, math.inf),
        ("no such line\n", {"cpu.max": "100000 100000"}, math.inf),
        (None, {"cpu.max": "100000 100000"}, math.inf),
    ],
)
def test_the_least_limit_of_a_group_and_those_around_it_counts(
    tmp_path: Path, own: str | None, files: dict[str, str], expected: float
) -> None:
    for name, content in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    if own is not None:
        (tmp_path / "own").write_bytes(os.fsencode(own))
    assert cpu_quota(tmp_path / "cgroup", tmp_path / "own") == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [(math.inf, 8), (0.5, 1), (1.9, 1), (2.0, 2), (3.5, 3), (8.0, 8), (10_000.0, 8)]
)
def test_no_more_threads_compute_than_there_is_time_for(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.setattr(cores, "_USABLE", frozenset(range(8)))
    core_count.cache_clear()
    try:
        assert core_count() == expected
    finally:
        core_count.cache_clear()
