"""What Prometheus reads."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from twinsight_core.errors import StartupError
from twinsight_core.items import CollectionState
from twinsight_server.metrics import CollectionCounts, Metrics


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics()
    states = {CollectionState.READY: 5, CollectionState.REBUILDING: 1, CollectionState.DAMAGED: 2}
    made.watch(compilations=lambda: 0, collections=lambda: CollectionCounts(states, items=7, unserved=3))
    yield made
    made.close()


def test_it_tells_of_the_process_the_release_and_the_collections(metrics: Metrics) -> None:
    metrics.refused.labels("CALLS_FULL").inc()
    address = metrics.serve("127.0.0.1:0")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    assert f'twinsight_build_info{{version="{version("twinsight")}"}} 1.0' in lines
    assert "twinsight_collection_items 7.0" in lines
    assert "twinsight_damaged_collections 2.0" in lines
    assert "twinsight_unserved_collections 3.0" in lines
    assert [line for line in lines if line.startswith("twinsight_collections{")] == [
        'twinsight_collections{state="ready"} 5.0',
        'twinsight_collections{state="rebuilding"} 1.0',
        'twinsight_collections{state="damaged"} 2.0',
    ]
    assert 'twinsight_refused_total{reason="CALLS_FULL"} 1.0' in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert not any("_created" in line for line in lines)


def test_it_listens_where_it_is_told_to_and_nowhere_else(metrics: Metrics) -> None:
    for listen in (":9464", "127.0.0.1:x", "127.0.0.1:65536"):
        with pytest.raises(StartupError, match=rf"^`metrics_listen` \(={listen}\) must be HOST:PORT\.$"):
            metrics.serve(listen)
    assert metrics.serve("[::1]:0").startswith("[::1]:")
