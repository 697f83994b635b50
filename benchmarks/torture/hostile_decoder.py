"""Hostile pictures against the decoder, in a process of its own that may die of them.

Time is the processor's, so that what else the machine does counts for nothing; memory is the peak above what the
process had.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from benchmarks.torture.pictures import hostile_picture
from benchmarks.torture.promise import Figure, Outcome
from benchmarks.torture.watch import forget_peak, status_mb
from twinsight_core.errors import InvalidImage
from twinsight_core.images import Preprocessing, Region, decode

MOST_S = 2.0
MOST_MB = 300.0
_INPUT = Preprocessing(160, 160)
_REGIONS = (None, Region(0.25, 0.25, 0.3, 0.3))
_ROOT = Path(__file__).parents[2]


def try_decoder(first: int, count: int) -> Outcome:
    """Decodes the pictures of `count` seeds in a child process, and says what broke."""
    failures: list[str] = []
    reasons: Counter[str] = Counter()
    slowest_s = most_mb = 0.0
    seed, end = first, first + count
    while seed < end:
        command = [sys.executable, "-m", "benchmarks.torture.hostile_decoder", str(seed), str(end)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as child:
            for line in child.stdout or ():
                seed, reason, took_s, took_mb = json.loads(line)
                reasons[reason] += 1
                slowest_s, most_mb = max(slowest_s, took_s), max(most_mb, took_mb)
                if took_s > MOST_S or took_mb > MOST_MB or reason.startswith("!"):
                    failures.append(f"seed {seed}: {reason}, {took_s:.2f} s, {took_mb:.0f} MB")
                seed += 1
        if child.returncode:
            failures.append(f"seed {seed}: the process ended with {child.returncode}")
            seed += 1
    figures: dict[str, Figure] = {"slowest_s": round(slowest_s, 2), "most_mb": round(most_mb), **reasons}
    return Outcome(cases=count, failures=failures, figures=figures)


def _decode_all(first: int, end: int) -> None:
    """What the child does: a line of JSON for each seed."""
    warnings.simplefilter("ignore")
    for seed in range(first, end):
        data = hostile_picture(seed)
        forget_peak(os.getpid())
        before_mb, start = status_mb(os.getpid(), "VmRSS"), time.process_time()
        try:
            decode(data, _INPUT, region=_REGIONS[seed % 2])
            reason = "decoded"
        except InvalidImage as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - whatever else a decoder raises is what is looked for
            reason = f"!{error!r}"
        took_s = time.process_time() - start
        print(json.dumps([seed, reason, took_s, status_mb(os.getpid(), "VmHWM") - before_mb]), flush=True)


if __name__ == "__main__":
    _decode_all(int(sys.argv[1]), int(sys.argv[2]))
