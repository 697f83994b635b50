"""How fast items are written in a stream: pictures beside Embed, vectors beside hnswlib's own building.

Vectors count once the graph holds all of them. hnswlib builds the same graph in this process, with as many threads,
in turns with the server, which does nothing meanwhile.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import hnswlib
import numpy as np

from benchmarks import load
from benchmarks.embed import photograph
from benchmarks.extent import Extent
from benchmarks.filling import items_and_queries
from benchmarks.load import INGEST_BATCH, Load
from benchmarks.measure import medians
from benchmarks.serving import Served, server
from benchmarks.targets import Target, at_least
from twinsight_client import Client
from twinsight_core.collections.collection import CollectionOptions

DIMENSION = 256
IN_FLIGHT = 16
BATCHES_IN_FLIGHT = 2


def measure(extent: Extent) -> dict[str, object]:
    """Returns the figures of ingesting pictures and vectors."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with server(folder / "data") as served, Client(served.address) as client:
            pictures, pictures_target = _pictures(folder, served, client, extent)
            vectors, vectors_target = _vectors(folder, served, client, extent)
    return {
        "what": "IngestItems in one stream, until every item is on disk, and vectors in the graph",
        "pictures": pictures,
        "vectors": vectors,
        "targets": [pictures_target, vectors_target],
    }


def _pictures(folder: Path, served: Served, client: Client, extent: Extent) -> tuple[dict[str, object], Target]:
    jpeg = folder / "photograph.jpg"
    jpeg.write_bytes(photograph())
    count, seconds = extent.pick(2000, 200), extent.pick(3.0, 1.0)
    single = Load("embed", jpeg, concurrency=IN_FLIGHT, seconds=seconds)
    batched = Load("embed", jpeg, concurrency=BATCHES_IN_FLIGHT, batch=INGEST_BATCH["pictures"], seconds=seconds)
    runs = []
    for _ in range(extent.runs):
        client.create_collection("pictures", model="base")
        ingested = load.run(Load("ingest_pictures", jpeg, collection="pictures", count=count), served)
        client.delete_collection("pictures")
        runs.append(ingested)
        for name, sent in (("embed", single), ("embed_batched", batched)):
            done = load.run(sent, served)
            runs[-1] |= {f"{name}_{figure}": done[figure] for figure in ("per_s", "load_cores", "server_cores")}
    target = at_least(
        0.85,
        f"Images ingested per second / Embed throughput with {IN_FLIGHT} calls in flight",
        [run["per_s"] / run["embed_per_s"] for run in runs],
    )
    beside = {
        "embed_per_s": f"one picture a call, {IN_FLIGHT} calls in flight",
        "embed_batched_per_s": f"{INGEST_BATCH['pictures']} pictures a call, {BATCHES_IN_FLIGHT} calls in flight",
    }
    return {"count": count, "beside": beside, **medians(runs), "runs": runs}, target


def _vectors(folder: Path, served: Served, client: Client, extent: Extent) -> tuple[dict[str, object], Target]:
    count = extent.pick(100_000, 20_000)
    items, _ = items_and_queries(count, 0, DIMENSION)
    file = folder / "vectors.npy"
    np.save(file, items)
    runs = []
    for _ in range(extent.runs):
        client.create_collection("vectors", dimension=DIMENSION)
        ours = load.run(Load("ingest_vectors", file, collection="vectors"), served)
        client.delete_collection("vectors")
        start = time.perf_counter()
        built(items)
        runs.append({**ours, "hnswlib_per_s": round(count / (time.perf_counter() - start), 1)})
    target = at_least(
        0.85,
        f"{count:,} x {DIMENSION} vectors ingested and indexed per second / hnswlib alone",
        [run["per_s"] / run["hnswlib_per_s"] for run in runs],
    )
    return {"count": count, "dimension": DIMENSION, **medians(runs), "runs": runs}, target


def built(items: np.ndarray, *, build_width: int | None = None) -> hnswlib.Index:
    """Returns hnswlib's graph of vectors of length 1, made as the server makes its own.

    Args:
        items: [n, dimension] float32.
        build_width: in place of the server's.
    """
    graph = CollectionOptions().graph
    index = hnswlib.Index(space="ip", dim=items.shape[1])
    index.init_index(len(items), M=graph.links, ef_construction=build_width or graph.build_width)
    index.add_items(items, num_threads=graph.threads)
    return index
