"""What the server adds to an Embed call: the call's median less decoding and the compiled call, in one run.

They are measured in turns, so that whatever else the machine does falls on all of them alike, and beside them a gRPC
call of the same size to a server that does nothing: the part of what is added that any server on grpcio adds. Decoding
and the compiled call are those of this process; the server's own of the very calls come from its trailing metadata.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks.echo import echo
from benchmarks.extent import Extent
from benchmarks.measure import interleaved_ms, median_of, summary
from benchmarks.serving import served_executor, server
from twinsight_client import Client
from twinsight_core.engine import Engine
from twinsight_core.host.compilation import keep_compiled_code
from twinsight_core.images import decode
from twinsight_core.packages import shipped_packages
from twinsight_server.config import ServerConfig

CALLS = 200
SIZE = (500, 375)


def photograph() -> bytes:
    """Returns a photograph as a JPEG of 500x375 at quality 90."""
    picture = Image.fromarray(load_sample_image("china.jpg")).resize(SIZE)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


def measure(extent: Extent) -> dict[str, object]:
    """Returns the figures of the overhead of Embed at concurrency 1."""
    keep_compiled_code(ServerConfig().cache / "xla")
    package = next(one for one in shipped_packages() if one.name == "base")
    to = package.card.preprocessing
    engine = Engine(served_executor(package), to, answer_shape=package.card.config.answer_shape, buckets=(1,))
    engine.warm_up()
    encoded = photograph()
    pixels = decode(encoded, to)
    runs = []
    with (
        tempfile.TemporaryDirectory() as data,
        server(Path(data)) as served,
        Client(served.address) as client,
        echo() as bare,
    ):
        stages: list[float] = []

        def call() -> None:
            times = client.embed([encoded]).call.times
            stages.append((times.decode_ms or 0.0) + (times.compute_ms or 0.0))

        for _ in range(extent.runs):
            stages.clear()
            times = interleaved_ms(
                {
                    "call": call,
                    "decode": lambda: decode(encoded, to),
                    "compiled": lambda: engine.infer_alone(pixels),
                    "bare_grpc": lambda: bare(encoded),
                },
                count=CALLS,
            )
            p50 = {name: summary(one)["p50"] for name, one in times.items()}
            added = p50["call"] - p50["decode"] - p50["compiled"]
            beside_own = p50["call"] - summary(stages)["p50"]
            runs.append(
                {f"{name}_p50_ms": value for name, value in p50.items()}
                | {
                    "call_p99_ms": summary(times["call"])["p99"],
                    "added_p50_ms": round(added, 3),
                    "added_beside_own_stages_p50_ms": round(beside_own, 3),
                    "added_beyond_bare_grpc_p50_ms": round(added - p50["bare_grpc"], 3),
                }
            )
    return {
        "what": f"Embed of one JPEG of {SIZE[0]}x{SIZE[1]} ({len(encoded)} bytes), concurrency 1, {CALLS} calls a run",
        "runs": runs,
        "median": {name: median_of(runs, name) for name in runs[0]},
    }
