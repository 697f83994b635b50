"""Hostile pictures among good traffic are refused, and good calls answered as without them."""

from __future__ import annotations

import os

from benchmarks.serving import Served
from benchmarks.torture.hostile_traffic import traffic

from twinsight_server.app import Server


def test_good_calls_are_answered_rightly_beside_hostile_pictures(server: Server) -> None:
    shown = traffic(Served(server.address, 0.0, os.getpid()), 0, 20)
    assert shown.flaws == []
    assert shown.outcomes["INVALID_ARGUMENT"] > 3
    assert len(shown.beside_ms) == 380
    assert len(shown.alone_ms) == 380


def test_a_flood_of_hostile_pictures_leaves_good_calls_right(server: Server) -> None:
    shown = traffic(Served(server.address, 0.0, os.getpid()), 100, 20, share=0.8)
    assert shown.flaws == []
    assert sum(shown.outcomes.values()) > 20  # the slowest went there twice
    assert len(shown.beside_ms) == len(shown.alone_ms) == 5
