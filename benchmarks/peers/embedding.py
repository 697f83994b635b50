"""One network, one JPEG: twinsight's executor and server beside the bare runtimes and beside other servers.

1. The network is exported to ONNX; everything but twinsight computes that file.
2. Each peer is started with the settings under which it answers most, and its vector for the JPEG is compared.
3. All are measured in turns: calls one after another, then `CALLERS` at once.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.embed import SIZE, photograph
from benchmarks.peers.bars import Bar, compare
from benchmarks.peers.orders import Settings
from benchmarks.peers.peer import Peer, Plan, Stand, spread
from benchmarks.peers.turns import busy_share, measure
from twinsight_core.images import decode
from twinsight_core.packages import shipped_packages

CALLERS = 16
BATCHES = (1, 8)
LARGEST_BATCH = 16
"""Of the servers: as many as there are callers."""
ALIKE = "cosine_to_twinsight"


def peers() -> list[Peer]:
    """Returns what is measured."""
    cores = os.cpu_count() or 1
    raw = [
        Peer(
            name=f"openvino_{precision}_batch_{batch}",
            what=f"OpenVINO in process, decoded images, {precision}, LATENCY, fixed shape, batch {batch}",
            client="raw_openvino",
            clients=({"batch": batch, "precision": precision},),
            measures=("times",),
            packages=("openvino",),
        )
        for precision in ("bf16", "f32")
        for batch in BATCHES
    ]
    runtime = [
        Peer(
            name=f"onnxruntime_batch_{batch}",
            what=f"ONNX Runtime in process, decoded images, float32, default threads, batch {batch}",
            client="raw_onnxruntime",
            clients=({"batch": batch},),
            measures=("times",),
            packages=("onnxruntime",),
        )
        for batch in BATCHES
    ]
    executor = [
        Peer(
            name=f"twinsight_executor_batch_{batch}",
            what=f"twinsight's executor in process, decoded images, batch {batch}",
            client="twinsight_executor",
            clients=({"batch": batch},),
            measures=("times",),
            packages=("twinsight", "openvino", "jax"),
        )
        for batch in BATCHES
    ]
    in_process = Peer(
        name="in_process",
        what=f"twinsight's decoding and executor in process, no server, {CALLERS} JPEGs in flight",
        client="twinsight_executor",
        clients=[{"decoders": decoders, "batch": batch} for decoders in range(1, cores + 1) for batch in (4, 8, 16)],
        measures=("load",),
        packages=("twinsight", "openvino", "jax"),
    )
    return [*raw, *runtime, *executor, in_process, *_servers(cores)]


def _servers(cores: int) -> list[Peer]:
    # One instance with every core, or one for each core; ONNX Runtime's waiting threads take time from the server's.
    networks: list[Settings] = [
        {"instances": 1, "network_threads": cores, "spin": True},
        {"instances": 1, "network_threads": cores, "spin": False},
        {"instances": cores, "network_threads": 1, "spin": False},
    ]
    batching: Settings = {"batch": LARGEST_BATCH}
    return [
        Peer(
            name="twinsight",
            what="`twinsight serve` with its defaults, Embed by its Python client",
            client="twinsight_server",
            server="twinsight_server",
            clients=spread(CALLERS),
            packages=("twinsight", "grpcio"),
        ),
        Peer(
            name="triton",
            what="Triton through nvidia-pytriton: a Python callable (Pillow, ONNX Runtime) behind dynamic batching",
            client="triton",
            server="triton",
            environment="triton",
            servers=[{**one, **batching, "wait_us": wait} for one in networks for wait in (0, 2000)],
            clients=spread(CALLERS),
            packages=("nvidia-pytriton", "tritonclient", "onnxruntime", "pillow", "numpy"),
        ),
        Peer(
            name="litserve",
            what="LitServe with batching: Pillow and ONNX Runtime, JPEG as the body, HTTP by http.client",
            client="litserve_server",
            server="litserve_server",
            environment="litserve",
            servers=[{**one, **batching, "wait_s": wait} for one in networks for wait in (0.0, 0.002)],
            polls=True,
            clients=spread(CALLERS),
            packages=("litserve", "onnxruntime", "pillow", "numpy"),
        ),
    ]


def run(plan: Plan, folder: Path) -> dict[str, object]:
    """Returns what is recorded of embedding."""
    busy = {"before": busy_share()}
    common = _inputs(folder)
    stands = [Stand(peer, common, folder / peer.name) for peer in peers()]
    try:
        for stand in stands:
            print(f"  {stand.peer.name}", flush=True)
            with stand.failing():
                stand.start()
                stand.choose(plan)
        _compare_vectors(stands)
        busy["peers_waiting"] = busy_share()
        measure(stands, plan)
    finally:
        for stand in stands:
            stand.close()
    size = Path(str(common["jpeg"])).stat().st_size
    return {
        "what": f"`base`, one JPEG of {SIZE[0]}x{SIZE[1]} ({size} bytes) a call, one call at a time and with "
        f"{CALLERS} in flight",
        "machine_busy": busy,
        "peers": {stand.peer.name: stand.result() for stand in stands},
        "bars": compare(_bars(stands), stands),
    }


def _inputs(folder: Path) -> Settings:
    """Writes the network, the JPEG and its pixels; returns where they are."""
    onnx, jpeg, pixels = folder / "base.onnx", folder / "photograph.jpg", folder / "pixels.npy"
    twinsight = Path(sys.executable).parent / "twinsight"
    export = [str(twinsight), "export", "--model", "base", "--format", "onnx", "--out", str(onnx)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    encoded = photograph()
    jpeg.write_bytes(encoded)
    package = next(one for one in shipped_packages() if one.name == "base")
    np.save(pixels, decode(encoded, package.card.preprocessing))
    return {"onnx": str(onnx), "jpeg": str(jpeg), "pixels": str(pixels)}


def _compare_vectors(stands: list[Stand]) -> None:
    """Records how close each peer's vector is to that of twinsight's server: that all compute the same."""
    vectors: dict[str, np.ndarray] = {}
    for stand in stands:
        if not stand.failed and "times" in stand.peer.measures:
            with stand.failing():
                vectors[stand.peer.name] = np.array(stand.values(stand.chosen["caller"], 1)[0])
    if "twinsight" not in vectors:
        return
    for stand in stands:
        if stand.peer.name in vectors:
            one, other = vectors[stand.peer.name], vectors["twinsight"]
            cosine = float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
            stand.facts[ALIKE] = round(cosine, 6)


def _bars(stands: list[Stand]) -> list[Bar]:
    bars = [
        Bar(f"compute_over_openvino_batch_{n}", f"twinsight_executor_batch_{n}", _fastest(stands, n), "p50_ms")
        for n in BATCHES
    ]
    bars += [
        Bar(f"compute_over_onnxruntime_batch_{n}", f"twinsight_executor_batch_{n}", f"onnxruntime_batch_{n}", "p50_ms")
        for n in BATCHES
    ]
    bars.append(Bar("server_images_over_in_process", "twinsight", "in_process", "per_s"))
    for other in ("triton", "litserve"):
        bars += [
            Bar(f"images_over_{other}", "twinsight", other, "per_s"),
            Bar(f"p99_over_{other}", "twinsight", other, "load_p99_ms"),
            Bar(f"alone_p50_over_{other}", "twinsight", other, "p50_ms"),
            Bar(f"alone_p99_over_{other}", "twinsight", other, "p99_ms"),
        ]
    return bars


def _fastest(stands: list[Stand], batch: int) -> str:
    """Returns the name of OpenVINO in the precision that took least time."""

    def p50_ms(stand: Stand) -> float:
        return float("inf") if stand.failed else statistics.median(run["p50_ms"] for run in stand.runs)

    names = [f"openvino_{precision}_batch_{batch}" for precision in ("bf16", "f32")]
    return min((stand for stand in stands if stand.peer.name in names), key=p50_ms).peer.name
