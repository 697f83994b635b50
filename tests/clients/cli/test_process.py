"""The command line as a process of its own: what it prints, its exit code, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from twinsight_client import Client

from ..conftest import WireServer

pytestmark = pytest.mark.client

# A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from twinsight_client.cli import main
main()
"""
COMMAND = (sys.executable, "-c", MAIN, "--target")


def test_the_installed_command_talks_to_a_real_server(wire: WireServer, album: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, wire.address, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    indexed = run("index", str(album))
    assert indexed.returncode == 3, indexed.stderr
    assert indexed.stderr.startswith("skipped 2024/broken.png: ")
    found = run("search", str(album / "a.jpg"), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["matches"][0]["id"] == "a.jpg"
    refused = run("search", str(album / "a.jpg"), "--collection", "none")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "Error: Collection `none` does not exist; available: `photos`. [COLLECTION_NOT_FOUND]\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_an_empty_one(wire: WireServer, album: Path, tmp_path: Path, closed: str) -> None:
    out = tmp_path / "v.npz"
    line = f'"$@" embed {album / "a.jpg"} --out {out} {closed}'
    command = ["bash", "-c", line, "bash", *COMMAND, wire.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert bool(done.stdout) is (">&-" not in closed.split())
    assert "Traceback" not in done.stderr
    assert out.stat().st_size


@contextmanager
def interrupted(wire: WireServer, album: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `twinsight index`, a picture at a time, and sends Ctrl-C while the server holds the first."""
    with Client(wire.address) as client:
        client.create_collection("photos", model="fake")
    wire.held = "UpsertItems"
    command = [*COMMAND, wire.address, "index", str(album), "--jobs", "1", "--batch-size", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while wire.arrived.get(timeout=60) != "UpsertItems":
            pass
        process.send_signal(signal.SIGINT)
        yield process


def test_ctrl_c_lets_batches_under_way_arrive_and_the_next_run_goes_on(wire: WireServer, album: Path) -> None:
    with interrupted(wire, album) as process:
        wire.may_answer.set()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.endswith("Not finished: run the same command again to continue.\nInterrupted.\n")
    assert "found       4" in stdout
    with Client(wire.address) as client:
        written = client.get_collection("photos").item_count
    assert f"written     {written}\n" in stdout


def test_a_second_ctrl_c_gives_batches_under_way_up_and_the_report_is_kept(wire: WireServer, album: Path) -> None:
    with interrupted(wire, album, "--json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "Waiting for batches in flight (1); press Ctrl-C again to abandon them.\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
        assert not wire.may_answer.is_set()
    assert (process.returncode, stderr) == (130, "Interrupted.\n")
    report = json.loads(stdout)
    assert (report["found"], report["written"], report["finished"]) == (4, 0, False)
    assert report["seconds"] > 0


@pytest.mark.parametrize(("answer", "code", "said"), [(None, 130, "Interrupted."), ("n\n", 1, "Aborted!")])
def test_ctrl_c_at_a_prompt_is_an_interruption_and_no_is_none(
    wire: WireServer, answer: str | None, code: int, said: str
) -> None:
    with Client(wire.address) as client:
        client.create_collection("photos", model="fake")
    process = subprocess.Popen(
        [*COMMAND, wire.address, "collections", "delete", "photos"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        asked = "Delete collection photos with 0 items? [y/N]:"
        assert process.stderr.read(len(asked)) == asked
        if answer is None:
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(answer, timeout=60)
    assert (process.returncode, stderr.strip()) == (code, said)
    with Client(wire.address) as client:
        assert client.get_collection("photos").id == "photos"
