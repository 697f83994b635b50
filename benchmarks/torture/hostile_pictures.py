"""Promise 13: hostile pictures harm neither the decoder nor the traffic beside them.

1. In a process of its own the decoder gets each picture, and time and memory of each are measured (`hostile_decoder`).
2. The same pictures go to a server, one in twenty of its calls, in turns with the same traffic without them
   (`hostile_traffic`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving import server
from benchmarks.torture.hostile_decoder import MOST_MB, MOST_S, try_decoder
from benchmarks.torture.hostile_traffic import Traffic, traffic
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_client import Client

PICTURES = 100_000
MODEL = "glyph"
"""The smallest: its pictures cost the least, so that what others cost shows most, and millions can be sent."""

FLAGS = ("--models", MODEL, "--default-model", MODEL)
_MOST_TIMES = 1.5


def missed(shown: Traffic) -> Iterator[str]:
    """Yields the bars that traffic missed."""
    beside, alone = shown.p99s()
    if beside > _MOST_TIMES * alone:
        yield f"the p99 of good calls is {beside / alone:.2f} times that without hostile ones, over {_MOST_TIMES:g}"
    if shown.slowest_s > MOST_S:
        yield f"a picture took {shown.slowest_s:.2f} s of the server, over {MOST_S:g} s"
    if shown.most_mb > MOST_MB:
        yield f"a picture took {shown.most_mb:.0f} MB of the server, over {MOST_MB:g} MB"


def run(scale: Scale) -> Outcome:
    """Decodes hostile pictures, and sends them to a server."""
    first, count = scale.seed * 1_000_000, scale.of(PICTURES)
    decoded = try_decoder(first, count)
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder, server(Path(folder), *FLAGS) as served:
        shown = traffic(served, first, count)
        with Client(served.address) as client:
            client.wait_ready(timeout_s=30.0)  # it lives
    beside, alone = shown.p99s()
    figures: dict[str, Figure] = {
        **decoded.figures,
        **{f"served: {name}": number for name, number in shown.outcomes.most_common()},
        "good calls": len(shown.beside_ms),
        "p99 ms beside": round(beside, 2),
        "p99 ms alone": round(alone, 2),
        "served: slowest_s": round(shown.slowest_s, 2),
        "served: most_mb": round(shown.most_mb),
        "served: most_mb of a slice": round(shown.most_beside_mb),
    }
    return Outcome(2 * count, [*decoded.failures, *shown.flaws, *missed(shown)], figures)


PROMISE = Promise(
    number=13,
    name="hostile-pictures",
    bar="100,000 mutated pictures, decoded alone and as 5 % of a server's traffic: it never dies, good calls are "
    "answered rightly, their p99 within 1.5 times; at most 2 s and 300 MB for one picture",
    minutes=120.0,
    run=run,
)
