"""What the long forms leave: a row for each promise, and the document's table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from benchmarks.torture.promise import Outcome, Promise, Scale
from benchmarks.torture.registry import PROMISES, SERVING, STORAGE

from benchmarks.torture import __main__ as command
from benchmarks.torture import report


def _holding(scale: Scale) -> Outcome:
    return Outcome(scale.of(200), [], {"kills": scale.of(200), "seconds": scale.seconds(60.0), "best": 0.5})


def _breaking(_: Scale) -> Outcome:
    raise RuntimeError("no | server")


@pytest.fixture
def promises(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "well": Promise(1, "well", "0 of 200 break", 10.0, _holding),
        "ill": Promise(2, "ill", "never", 30.0, _breaking),
    }
    monkeypatch.setattr(command, "PROMISES", made)
    monkeypatch.setenv("TWINSIGHT_COMMIT", "abc")


def test_each_promise_is_known_by_its_name_and_number_and_says_how_long_it_takes() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in PROMISES)
    assert len(PROMISES) == len((*STORAGE, *SERVING)), "a name is taken twice"
    assert all(promise.minutes > 0 and promise.bar for promise in PROMISES.values())


@pytest.mark.usefixtures("promises")
def test_what_can_not_be_tried_is_a_failure_and_the_others_are_tried(tmp_path: Path) -> None:
    out = tmp_path / "results" / "torture.json"
    assert command.main(["--out", str(out), "--scale", "0.05"]) == 1
    results = json.loads(out.read_text("utf-8"))
    assert (results["well"]["holds"], results["well"]["cases"], results["well"]["scale"]) == (True, 10, 0.05)
    assert results["well"]["figures"] == {"kills": 10, "seconds": 3.0, "best": 0.5}
    assert not results["ill"]["holds"]
    assert results["ill"]["first_failures"] == ["it could not be tried: RuntimeError: no | server"]
    assert results["ill"]["environment"]["commit"]


@pytest.mark.usefixtures("promises")
def test_what_is_not_tried_keeps_its_row(tmp_path: Path) -> None:
    out = tmp_path / "torture.json"
    command.main(["--out", str(out), "--scale", "0.05", "--only", "well"])
    before = json.loads(out.read_text("utf-8"))["well"]
    assert command.main(["--out", str(out), "--only", "ill"]) == 1
    results = json.loads(out.read_text("utf-8"))
    assert results["well"] == before
    assert results["ill"]["scale"] == 1.0


@pytest.mark.usefixtures("promises")
def test_a_time_for_all_is_shared(tmp_path: Path) -> None:
    out = tmp_path / "torture.json"
    command.main(["--out", str(out), "--minutes", "8"])
    assert {one["scale"] for one in json.loads(out.read_text("utf-8")).values()} == {0.2}
    assert command.main(["--out", str(out), "--minutes", "800", "--only", "well"]) == 0
    assert json.loads(out.read_text("utf-8"))["well"]["scale"] == 1.0


@pytest.mark.usefixtures("promises")
def test_the_table_shows_what_holds_and_what_is_broken(tmp_path: Path) -> None:
    out, document = tmp_path / "torture.json", tmp_path / "reliability.md"
    command.main(["--out", str(out), "--scale", "0.05"])
    document.write_text("before\n<!-- torture: begin -->\nold\n<!-- torture: end -->\nafter\n", "utf-8")
    report.write(out, document)
    text = document.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| 1 | `well` | 10 | 5% | 0.0 | kills 10, seconds 3.0, best 0.5 | holds |" in text
    assert "| **broken**: it could not be tried: RuntimeError: no \\| server |" in text
    assert "\nold\n" not in text
