"""What processes cost, as the kernel tells."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from benchmarks.processors import CpuWatch, cpu_s, memory_mib, wait_at_rest

COUNTS_ITSELF = """
import time
while time.process_time() < 0.3:
    pass
print(time.process_time(), flush=True)
input()
"""


def test_the_time_of_a_process_is_that_which_it_counts_itself() -> None:
    command = [sys.executable, "-c", COUNTS_ITSELF]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        own = float(process.stdout.readline())
        assert cpu_s(process.pid) == pytest.approx(own, abs=0.1)
        process.communicate("\n")


def test_a_watch_counts_from_its_first_begin_to_its_first_end() -> None:
    watch = CpuWatch(os.getpid())
    watch.begin()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        watch.begin()
    watch.end()
    first = watch.cores()
    watch.end()
    assert watch.cores() == first
    assert first["load_cores"] > 0
    # To the kernel's ticks of 10 ms the same process used the same.
    assert first["server_cores"] == pytest.approx(first["load_cores"], rel=0.5)


def test_a_watch_that_has_not_begun_says_so() -> None:
    with pytest.raises(RuntimeError, match="has not begun"):
        CpuWatch(os.getpid()).cores()


def test_memory_that_is_written_to_is_resident_and_private() -> None:
    before = memory_mib(os.getpid())
    kept = np.ones(64 * 2**20, np.uint8)
    after = memory_mib(os.getpid())
    for kind in ("rss", "pss", "private"):
        assert after[kind] - before[kind] == pytest.approx(kept.nbytes / 2**20, rel=0.2)


def test_a_process_is_waited_for_until_it_rests() -> None:
    command = [sys.executable, "-c", "print(flush=True)\n" + COUNTS_ITSELF]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_at_rest(process.pid, for_s=0.2, within_s=30)
        assert cpu_s(process.pid) >= 0.25  # of 0.3, in ticks of 10 ms
        process.communicate("\n")


def test_a_process_that_never_rests_is_told() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as one:
        try:
            with pytest.raises(TimeoutError, match="did not come to rest"):
                wait_at_rest(one.pid, for_s=0.1, within_s=0.5)
        finally:
            one.kill()
