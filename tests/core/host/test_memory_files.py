"""Files in memory, and how much memory there is for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twinsight_core.host.memory_files import memory_file, memory_has_room, memory_left

FREE_KIB = 8_000_000


def _written(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def _left(folder: Path) -> float:
    return memory_left(folder / "meminfo", folder / "cgroup", folder / "own")


def test_a_file_in_memory_is_read_by_its_path_and_gone_in_the_end() -> None:
    with memory_file() as (file, path):
        path.write_bytes(b"content")
        assert file.read() == b"content"
        assert path.readlink().name.startswith("memfd:")
    assert not path.exists()


def test_without_limits_the_machines_memory_is_left(tmp_path: Path) -> None:
    _written(tmp_path, {"meminfo": f"MemTotal: 9 kB\nMemAvailable:  {FREE_KIB} kB\n", "own": "0::/\n"})
    assert _left(tmp_path) == FREE_KIB * 1024


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (
            "0::/pod/box\n",
            {
                "pod/box/memory.max": "max\n",
                "pod/box/memory.current": "999999\n",
                "pod/memory.max": "5000000\n",
                "pod/memory.current": "3000000\n",
                "pod/memory.stat": "anon 1\ninactive_file 400000\n",
            },
        ),
        (
            "4:memory:/outside\n0::/\n",
            {
                "memory/memory.limit_in_bytes": "5000000\n",
                "memory/memory.usage_in_bytes": "3000000\n",
                "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 400000\n",
            },
        ),
    ],
)
def test_a_containers_limit_counts_but_for_the_page_cache(tmp_path: Path, own: str, files: dict[str, str]) -> None:
    _written(tmp_path, {"meminfo": f"MemAvailable: {FREE_KIB} kB\n", "own": own})
    _written(tmp_path / "cgroup", files)
    assert _left(tmp_path) == 2_400_000


def test_where_nothing_tells_no_memory_is_left(tmp_path: Path) -> None:
    assert _left(tmp_path) == 0


def test_a_file_may_take_half_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twinsight_core.host.memory_files.memory_left", lambda: 1000.0)
    assert memory_has_room(500)
    assert not memory_has_room(501)
    monkeypatch.delattr(os, "memfd_create")
    assert not memory_has_room(1)
