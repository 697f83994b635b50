"""Promise 13: hostile pictures harm neither the decoder, nor the server, nor the traffic beside them.

Three trials of the same pictures, which can be run apart:

1. `hostile-decoder`: in a process of its own the decoder gets each, and time and memory of each are measured.
2. `hostile-flood`: a server gets nearly nothing else, and a good call now and then, which must be answered rightly.
3. `hostile-traffic`: one in twenty of a server's calls brings one, in turns with the same traffic without them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving import server
from benchmarks.torture.hostile_decoder import MOST_MB, MOST_S, try_decoder
from benchmarks.torture.hostile_traffic import SHARE, Traffic, traffic
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_client import Client

PICTURES = 100_000
MODEL = "glyph"
"""The smallest: its pictures cost the least, so that what others cost shows most, and millions can be sent."""

FLAGS = ("--models", MODEL, "--default-model", MODEL)
_FLOOD_SHARE = 0.9
_MOST_TIMES = 1.5


def over(shown: Traffic) -> Iterator[str]:
    """Yields the bars on a single picture that traffic missed."""
    if shown.slowest_s > MOST_S:
        yield f"a picture took {shown.slowest_s:.2f} s of the server, over {MOST_S:g} s"
    if shown.most_mb > MOST_MB:
        yield f"a picture took {shown.most_mb:.0f} MB of the server, over {MOST_MB:g} MB"


def slowed(shown: Traffic) -> Iterator[str]:
    """Yields the bar on good calls that traffic missed."""
    beside, alone = shown.p99s()
    if beside > _MOST_TIMES * alone:
        yield f"the p99 of good calls is {beside / alone:.2f} times that without hostile ones, over {_MOST_TIMES:g}"


def decode(scale: Scale) -> Outcome:
    """Decodes hostile pictures."""
    return try_decoder(_first(scale), scale.of(PICTURES))


def flood(scale: Scale) -> Outcome:
    """Sends a server little but hostile pictures."""
    shown = _served(scale, share=_FLOOD_SHARE)
    return Outcome(shown.hostile, [*shown.flaws, *over(shown)], _figures(shown))


def mix(scale: Scale) -> Outcome:
    """Sends a server hostile pictures among good ones."""
    shown = _served(scale, share=SHARE)
    beside, alone = shown.p99s()
    p99s: dict[str, Figure] = {"p99 ms beside": round(beside, 2), "p99 ms alone": round(alone, 2)}
    return Outcome(shown.hostile, [*shown.flaws, *over(shown), *slowed(shown)], _figures(shown) | p99s)


def _first(scale: Scale) -> int:
    return scale.seed * 1_000_000


def _served(scale: Scale, *, share: float) -> Traffic:
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder, server(Path(folder), *FLAGS) as served:
        shown = traffic(served, _first(scale), scale.of(PICTURES), share=share)
        with Client(served.address) as client:
            client.wait_ready(timeout_s=30.0)  # it lives
    return shown


def _figures(shown: Traffic) -> dict[str, Figure]:
    return {
        **dict(shown.outcomes.most_common()),
        "good calls": len(shown.beside_ms),
        "slowest_s": round(shown.slowest_s, 2),
        "most_mb": round(shown.most_mb),
        "most_mb of a slice": round(shown.most_beside_mb),
    }


_ONE = f"at most {MOST_S:g} s and {MOST_MB:g} MB for one picture"
DECODER = Promise(
    number=13,
    name="hostile-decoder",
    bar=f"100,000 mutated pictures, decoded one by one: no crash; {_ONE}",
    minutes=40.0,
    run=decode,
)
FLOOD = Promise(
    number=13,
    name="hostile-flood",
    bar=f"100,000 mutated pictures to a server: it never dies, good calls are answered rightly; {_ONE}",
    minutes=40.0,
    run=flood,
)
TRAFFIC = Promise(
    number=13,
    name="hostile-traffic",
    bar="100,000 mutated pictures as 5 % of a server's traffic: it never dies, good calls are answered rightly, their "
    f"p99 within {_MOST_TIMES:g} times; {_ONE}",
    minutes=240.0,
    run=mix,
)
