"""When a collection's graph is built, rebuilt, audited and saved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IndexPolicy:
    """When the graph is built, rebuilt and saved.

    Attributes:
        graph_from: items from which a graph is kept; below, comparing with all of them is as fast, and exact.
        dead_share: share of dead rows or points above which a new generation is built.
        tail_share: size of the tail, as a share of the graph, above which a new graph is built instead while searches
            come in. Without any the graph grows: a bulk load would build it anew at every doubling, twice the work.
        snapshot_share: changes since the last snapshot, as a share of the graph, above which one is written.
        patience: dead rows, rows of the tail, or changes that are never worth a new generation or snapshot.
        audit_width: width of the walk that must find a point for its own vector. Narrower than searches', so that they
            find it too.
        audit_rest: time between two audits of the whole graph, as a multiple of the time that one takes.
        purge_rest: time from a build to the next that only a purge, or lost hubs, ask for, as a multiple of the time
            that it took.
    """

    graph_from: int = 2048
    dead_share: float = 0.2
    tail_share: float = 1.0
    snapshot_share: float = 0.1
    patience: int = 1000
    audit_width: int = 32
    audit_rest: float = 20.0
    purge_rest: float = 20.0
