"""How rows come into a graph: in additions that searches may wait for, audited together."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import HnswIndex
from twinsight_core.items import CollectionSpec, NewItem, SearchOptions
from twinsight_core.search import indexer
from twinsight_core.search.generation import Coverage, Generation
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.search.search import search
from twinsight_core.storage.store import FILE_NAME, Store


@pytest.mark.parametrize("busy", [False, True])
def test_searches_between_two_additions_find_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool
) -> None:
    monkeypatch.setattr(indexer, "_IDLE_HOLD_S", 0.02)
    monkeypatch.setattr(indexer.Indexer, "_is_busy", lambda _indexer: busy)
    vectors = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    additions: list[tuple[int, int]] = []
    audited_at_once: list[bool] = []  # for each addition, whether the next audit was of its rows alone
    found: list[bool] = []
    extend, audited = Generation.extend, Generation.audited

    def extending(generation: Generation, graph: HnswIndex, coverage: Coverage, end: int) -> Coverage:
        grown = extend(generation, graph, coverage, end)
        if generation.graph is not None:
            additions.append((coverage.end, end))
            rows = np.array([coverage.end, end - 1, len(generation.rows.view) - 1])
            answer = search(generation, generation.rows.view.read(rows), SearchOptions(1), ef=32)
            found.extend(int(one.rows[0]) == row for one, row in zip(answer.found, rows.tolist(), strict=True))
        return grown

    def auditing(
        generation: Generation, graph: HnswIndex, coverage: Coverage, start: int, end: int, *, width: int
    ) -> Coverage:
        if len(audited_at_once) < len(additions):
            alone = len(additions) - len(audited_at_once) == 1 and additions[-1] == (start, end)
            audited_at_once.extend([alone] * (len(additions) - len(audited_at_once)))
        return audited(generation, graph, coverage, start, end, width=width)

    monkeypatch.setattr(Generation, "extend", extending)
    monkeypatch.setattr(Generation, "audited", auditing)
    Store.create(tmp_path / FILE_NAME, CollectionSpec("a", 8, Metric.EUCLIDEAN))
    policy = IndexPolicy(graph_from=400, tail_share=100.0, patience=10_000)
    with closing(Collection(tmp_path, CollectionOptions(policy=policy))) as collection:
        for start in range(0, len(vectors), 500):
            some = enumerate(vectors[start : start + 500], start)
            collection.upsert([NewItem(f"{number}", one) for number, one in some])
            assert collection.wait_indexed(30)
    assert found
    assert all(found)
    # Each row is added and audited once; while searches come in, after each addition.
    assert sorted(row for one in additions for row in range(*one)) == list(range(additions[0][0], 3000))
    assert len(audited_at_once) == len(additions)
    assert all(audited_at_once) == busy
