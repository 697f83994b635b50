from __future__ import annotations

import ctypes
import gc
import platform
from pathlib import Path

import pytest

from twinsight_core.host.allocation import give_back_freed, no_garbage_collection


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_freed_goes_back_to_the_kernel() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    # Small ones are kept by the library when they are freed below one that stays.
    taken = [libc.malloc(60_000) for _ in range(1000)]
    for one in taken:
        ctypes.memset(one, 1, 60_000)
    stays = libc.malloc(60_000)
    for one in taken:
        libc.free(one)
    before = resident_kib()
    give_back_freed()
    assert resident_kib() < before - 40_000
    libc.free(stays)


def test_no_garbage_is_looked_for_meanwhile_and_some_afterwards() -> None:
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
