"""What the comparison makes of what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.peers.bars import Bar, compare
from benchmarks.peers.orders import Do
from benchmarks.peers.peer import Peer, Plan, Stand, spread
from benchmarks.peers.processes import PeerFailed
from benchmarks.peers.searching import exact, recall
from benchmarks.peers.turns import measure


def stand(name: str, *runs: float, failed: str = "") -> Stand:
    return Stand(
        Peer(name=name, what="", client=""), {}, Path(), failed=failed, runs=[{"p50_ms": value} for value in runs]
    )


def test_a_bar_divides_run_by_run_and_takes_the_median() -> None:
    found = compare([Bar("faster", "ours", "theirs", "p50_ms")], [stand("ours", 1, 4, 9), stand("theirs", 2, 2, 2)])
    assert found == {"faster": {"of": "ours p50_ms / theirs p50_ms", "runs": [0.5, 2.0, 4.5], "median": 2.0}}


def test_a_bar_may_be_a_difference() -> None:
    bar = Bar("beyond", "ours", "theirs", "p50_ms", difference=True)
    assert compare([bar], [stand("ours", 3), stand("theirs", 1)])["beyond"]["median"] == 2


def test_a_bar_without_its_peer_says_so() -> None:
    stands = [stand("ours", 3), stand("theirs", failed="no such package")]
    assert compare([Bar("faster", "ours", "theirs", "p50_ms")], stands)["faster"] == {"missing": "theirs failed"}


def test_a_failed_peer_is_recorded_with_its_reason() -> None:
    one = stand("theirs")
    with one.failing():
        raise PeerFailed("It can't be installed.")
    assert one.result()["failed"] == "It can't be installed."


def test_callers_are_spread_over_processes() -> None:
    assert [(one["processes"], one["threads"]) for one in spread(16)] == [(1, 16), (2, 8), (4, 4)]


class _Recorded(Stand):
    """Writes down whose turn it is; the one named `bad` fails in its second turn."""

    order: list[str]

    def turn(self, do: Do, plan: Plan) -> None:
        del do, plan
        if self.peer.name == "bad" and self.order.count("bad"):
            raise PeerFailed("gone")
        self.order.append(self.peer.name)


def test_peers_take_turns_from_another_first_one_each_time_and_one_that_fails_is_left_out() -> None:
    order: list[str] = []
    stands = []
    for name in ("a", "bad", "c"):
        one = _Recorded(Peer(name=name, what="", client="", measures=("times",)), {}, Path())
        one.order = order
        stands.append(one)
    measure(stands, Plan(runs=1, turns=3))
    assert order == ["a", "bad", "c", "c", "a", "c", "a"]
    assert [len(one.runs) for one in stands] == [1, 0, 1]
    assert stands[1].failed == "gone"


def test_recall_is_the_share_of_true_neighbours_found() -> None:
    assert recall([[1, 2, 3, 9], [4, 5, 6, 7]], np.array([[1, 2, 3, 4], [7, 6, 5, 4]])) == pytest.approx(0.875)


def test_exact_finds_the_largest_inner_products() -> None:
    items = np.eye(20, dtype=np.float32)[:, :12]
    query = np.arange(12, 0, -1, dtype=np.float32)[None]
    assert set(exact(items, query)[0].tolist()) == set(range(10))
