"""A collection against a dictionary: whatever is done to it, in whatever order, it answers as the dictionary would."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.filters import AnyOf, Equals, Filter, Range
from twinsight_core.index.base import Metric, prepared, scores
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import Checkpoint, CollectionSpec, NewItem, NewMetadata, SearchOptions
from twinsight_core.metadata import Metadata
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.store import FILE_NAME, Store

DIMENSION = 6
# A graph, rebuilds and snapshots from so few items on that short histories meet them.
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40, threads=2),
    policy=IndexPolicy(graph_from=40, patience=5, snapshot_share=0.05),
    ef=4,
)
NAMES = st.integers(0, 150).map(lambda number: f"i{number}")
GROUPS = st.integers(0, 3)
FILTERS: list[tuple[Filter, list[int]]] = [
    (Equals("group", 1), [1]),
    (Range("group", gte=2.0), [2, 3]),
    (AnyOf((Equals("group", 0), Equals("group", 3))), [0, 3]),
]


@pytest.fixture(autouse=True)
def few_items_are_many() -> Iterator[None]:
    """Lets searches walk the graph where comparing with all would be faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinsight_core.search.search._ROWS_PER_WIDTH", 1)
        patch.setattr("twinsight_core.search.search._SCATTERED_PER_WIDTH", 1)
        yield


class AgainstADictionary(RuleBasedStateMachine):
    written = Bundle("written")

    @initialize(metric=st.sampled_from(list(Metric)), seed=st.integers(0, 5))
    def open(self, metric: Metric, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.folder = Path(tempfile.mkdtemp()) / "things"
        self.folder.mkdir()
        Store.create(self.folder / FILE_NAME, CollectionSpec("things", DIMENSION, metric))
        self.metric = metric
        self.collection = Collection(self.folder, OPTIONS)
        self.model: dict[str, tuple[np.ndarray, int]] = {}  # in the order of writing
        self.batches: dict[str, int] = {}

    def teardown(self) -> None:
        self.collection.close()
        shutil.rmtree(self.folder.parent)

    @rule(target=written, names=st.lists(NAMES, min_size=1, max_size=40), group=GROUPS, copies=st.booleans())
    def upsert(self, names: list[str], group: int, copies: bool) -> object:
        vectors = self.rng.normal(size=(1 if copies else len(names), DIMENSION)).astype(np.float32)
        items = [NewItem(name, vectors[i % len(vectors)], {"group": group}) for i, name in enumerate(names)]
        self.collection.upsert(items)
        self._remember(items, group)
        return multiple(*names)

    @rule(batch=st.integers(1, 4), ingest=st.sampled_from(["x", "y"]), name=NAMES)
    def ingest(self, batch: int, ingest: str, name: str) -> None:
        items = [NewItem(name, self.rng.normal(size=DIMENSION).astype(np.float32), {"group": 0})]
        self.collection.upsert(items, checkpoint=Checkpoint(ingest, batch))
        if batch > self.batches.get(ingest, 0):
            self.batches[ingest] = batch
            self._remember(items, 0)
        assert self.collection.last_batch(ingest) == self.batches[ingest]

    def _remember(self, items: list[NewItem], group: int) -> None:
        for item in items:
            self.model.pop(item.id, None)
            self.model[item.id] = (item.vector, group)

    @rule(names=st.lists(written | NAMES, max_size=20), group=GROUPS)
    def describe(self, names: list[str], group: int) -> None:
        expected = [name in self.model for name in names]
        assert self.collection.upsert([NewMetadata(name, {"group": group}) for name in names]) == expected
        for name in names:
            if name in self.model:
                self.model[name] = (self.model.pop(name)[0], group)

    @rule(names=st.lists(written | NAMES, max_size=30))
    def delete(self, names: list[str]) -> None:
        expected = [self.model.pop(name, None) is not None for name in names]
        assert self.collection.delete(names) == expected

    @rule(which=st.sampled_from(FILTERS))
    def delete_where(self, which: tuple[Filter, list[int]]) -> None:
        doomed = [name for name, (_, group) in self.model.items() if group in which[1]]
        assert self.collection.delete_where(which[0]) == len(doomed)
        for name in doomed:
            del self.model[name]

    @rule(snapshot=st.booleans(), indexed=st.booleans())
    def reopen(self, snapshot: bool, indexed: bool) -> None:
        if indexed:
            assert self.collection.wait_indexed(30)
        self.collection.close(snapshot=snapshot)
        self.collection = Collection(self.folder, OPTIONS)

    @rule()
    def index(self) -> None:
        assert self.collection.wait_indexed(30)

    @rule(names=st.lists(written | NAMES, max_size=8))
    def get(self, names: list[str]) -> None:
        for name, item in zip(names, self.collection.get(names, include_vectors=True), strict=True):
            if name in self.model:
                vector, group = self.model[name]
                assert item is not None
                assert item.vector is not None
                assert (item.id, item.vector.tobytes(), item.metadata) == (name, vector.tobytes(), {"group": group})
            else:
                assert item is None

    @rule(k=st.integers(1, 30), which=st.none() | st.sampled_from(FILTERS), queries=st.integers(1, 5))
    def search(self, k: int, which: tuple[Filter, list[int]] | None, queries: int) -> None:
        names = [name for name, (_, group) in self.model.items() if which is None or group in which[1]]
        asked = prepared(self.rng.normal(size=(queries, DIMENSION)).astype(np.float32), self.metric)
        filter_ = None if which is None else which[0]
        exact = self.collection.search(asked, SearchOptions(k, filter_, exact=True))
        walked = self.collection.search(asked, SearchOptions(k, filter_, include_metadata=True))
        for query, true, found in zip(asked, exact, walked, strict=True):
            truth = self._scores(query, names)
            order = sorted(names, key=lambda name: -truth[name])[:k]  # stable: ties in the order of writing
            assert [(match.id, match.score) for match in true] == [(name, truth[name]) for name in order]
            # A narrow walk may miss a neighbour, but all else about its answer holds.
            assert len(found) == len(order)
            assert [match.score for match in found] == [truth[match.id] for match in found]
            assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)
            assert len({match.id for match in found}) == len(found)
            groups: list[Metadata | None] = [{"group": self.model[match.id][1]} for match in found]
            assert [match.metadata for match in found] == groups

    @invariant()
    def the_counts_agree(self) -> None:
        status = self.collection.status()
        assert status.item_count == len(self.model)
        assert 0 <= status.indexed_count <= len(self.model)

    @rule(limit=st.integers(1, 50))
    def page(self, limit: int) -> None:
        seen: list[str] = []
        after: str | None = ""
        while after is not None:
            items, after = self.collection.page(after=after, limit=limit, filter=None, include_vectors=False)
            seen += [item.id for item in items]
        assert seen == sorted(self.model)

    def _scores(self, query: np.ndarray, names: list[str]) -> dict[str, float]:
        if not names:
            return {}
        vectors = prepared(np.stack([self.model[name][0] for name in names]), self.metric)
        return dict(zip(names, scores(query[None], vectors[None], self.metric)[0].tolist(), strict=True))


TestAgainstADictionary = AgainstADictionary.TestCase
TestAgainstADictionary.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
