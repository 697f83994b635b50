"""Vectors to fill collections with, and when a collection's graph holds them all."""

from __future__ import annotations

import time

import numpy as np

from twinsight_client import Client, CollectionState, NewItem

PER_CLUSTER = 100
BATCH = 1000
INDEXED_WITHIN_S = 3600
LOOKS_EVERY_S = 0.05


def clustered(count: int, dimension: int, *, clusters: int, seed: int) -> np.ndarray:
    """Returns [count, dimension] float32 vectors of length 1 around random centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dimension))
    points = centres[rng.integers(0, clusters, count)] + 0.7 * rng.normal(size=(count, dimension))
    unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit.astype(np.float32)


def normal(count: int, dimension: int, *, seed: int) -> np.ndarray:
    """Returns [count, dimension] float32 vectors of length 1 in random directions: the hardest to search."""
    points = np.random.default_rng(seed).standard_normal((count, dimension), np.float32)
    unit: np.ndarray = points / np.linalg.norm(points, axis=1, keepdims=True)
    return unit


def items_and_queries(count: int, queries: int, dimension: int, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns clustered vectors to write, and others of the same clusters to search for."""
    clusters = max(count // PER_CLUSTER, 1)
    vectors = clustered(count + queries, dimension, clusters=clusters, seed=seed)
    return vectors[:count], vectors[count:]


def fill(client: Client, collection: str, vectors: np.ndarray) -> None:
    """Makes a collection of vectors, and returns when its graph holds them all; few are kept without a graph."""
    client.create_collection(collection, dimension=vectors.shape[1])
    items = (NewItem(f"{n}", one) for n, one in enumerate(vectors))
    for done in client.ingest(collection, items, batch_size=BATCH):
        done.values()
    wait_indexed(client, collection)


def wait_indexed(client: Client, collection: str) -> int:
    """Returns how many items a collection's graph holds, once that is all of them, or none are to be.

    Raises:
        RuntimeError: that took longer than `INDEXED_WITHIN_S`.
    """
    end = time.perf_counter() + INDEXED_WITHIN_S
    while time.perf_counter() < end:
        found = client.get_collection(collection)
        if found.state is CollectionState.READY and found.indexed_count in {0, found.item_count}:
            return found.indexed_count
        time.sleep(LOOKS_EVERY_S)
    raise RuntimeError(f"The items were not indexed within {INDEXED_WITHIN_S} s.")
