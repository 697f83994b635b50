"""`twinsight bench` as a user has it: its report, its JSON, its errors and exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.rpc import status_pb2

from twinsight_client import Client, NewItem, Tls
from twinsight_client.bench.due import Window
from twinsight_client.bench.loop import Tick
from twinsight_client.bench.records import Record, Recorder, Records
from twinsight_client.bench.report import Report
from twinsight_client.cli import main
from twinsight_client.cli.bench_output import Meter
from twinsight_client.cli.settings import Settings

from .conftest import WireServer

pytestmark = pytest.mark.client

Bench = Callable[..., Result]
SHORT = ("--duration", "0.2", "--warmup", "0")


@pytest.fixture
def bench(wire: WireServer) -> Bench:
    """Runs `twinsight bench` for a moment against the server, with the given arguments."""

    def run(*arguments: object) -> Result:
        words = ["bench", *(str(one) for one in arguments), "--target", wire.address, *SHORT]
        return CliRunner().invoke(main, words)

    return run


def said(result: Result) -> dict[str, str]:
    """The report's first lines: names and values."""
    lines = result.stdout.split("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition("  ") for line in lines)}


def test_a_report_tells_what_was_sent_and_what_became_of_it(bench: Bench, wire: WireServer) -> None:
    wire.trailing = (("twinsight-decode-ms", "1.5"), ("twinsight-total-ms", "2"))
    result = bench("embed")
    assert result.exit_code == 0, result.output
    found = said(result)
    assert found["server"] == wire.address
    assert found["call"] == "embed, 1 picture per call"
    assert found["model"] == "fake"
    assert found["sent"].startswith("8 generated JPEGs of 500x375, ")
    assert found["loop"] == "closed, 1 in flight"
    assert found["measured"] == "0.2 s, after 0 s of warm-up"
    assert (found["refused"], found["failed"]) == ("0", "0")
    assert found["calls"] == found["answered"] == str(wire.methods().count("Embed") - 1)
    assert 0 < int(found["client CPU"].removesuffix("% of one core")) < 400  # the server runs in this process too
    table = [line.split() for line in result.stdout.split("\n\n")[1].splitlines()]
    assert table[0] == ["ms", "p50", "p90", "p95", "p99", "max"]
    assert [line[:-5] for line in table[1:]] == [
        ["latency", "from", "sending"],
        ["decode"],
        ["other", "server", "time"],
        ["network", "and", "client"],
    ]
    assert table[2][-5:] == ["1.50"] * 5


def test_the_json_report_has_the_documented_fields(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    result = bench("compare", "--rate", 100, "--batch", 2, "--json", file)
    assert result.exit_code == 0, result.output
    assert said(result)["call"] == "compare, 2 pairs per call"
    report = json.loads(file.read_text())
    assert set(report) == {one.name for one in fields(Report)}
    documented = Report.__doc__ or ""
    assert all(f"{name}: " in documented for name in report)
    assert report["call"] == "compare"
    assert report["load"] == {
        "loop": "open",
        "concurrency": 64,
        "rate": 100,
        "batch": 2,
        "warmup_s": 0,
        "duration_s": 0.2,
        "timeout_s": 60,
    }
    assert report["calls"]["due"] == report["calls"]["answered"] == 20
    assert set(report["calls"]) == {
        "due", "answered", "refused", "failed", "unanswered", "not_started", "late",
    }  # fmt: skip
    assert report["items"] == {"kind": "pairs", "answered": 40, "failed": 0, "errors": {}}
    assert report["latency_from"] == "due time"
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]
    assert 0 < report["calls_per_s"] <= 100
    assert set(report["client"]) == {"twinsight", "grpcio", "python"}
    assert report["model_digest"].startswith("sha256:")
    assert report["started"].endswith("+00:00")


@pytest.mark.parametrize("arguments", [("embed", "--json"), ("--json", "embed"), ("embed", "--json", "-")])
def test_json_without_a_file_is_printed_instead_of_tables(bench: Bench, arguments: tuple[str, ...]) -> None:
    result = bench(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["call"] == "embed"


def test_a_collection_is_searched_by_vectors_of_its_dimension_or_by_pictures(
    bench: Bench, wire: WireServer, album: Path
) -> None:
    with Client(wire.address) as client:
        client.create_collection("photos", model="fake")
        client.upsert("photos", [NewItem("a", (album / "a.jpg").read_bytes(), {"year": 2001})]).values()
    by_vector = bench("search", "--filter", '{"year": 2001}', "--top-k", 3)
    assert by_vector.exit_code == 0, by_vector.output
    assert said(by_vector)["sent"] == "random vectors of 16 components"
    assert said(by_vector)["collection"] == "photos, 1 items"
    assert said(by_vector)["model"] == "fake"
    by_image = bench("search", "--by", "image", "--images", album, "--batch", 4, "--json")
    assert by_image.exit_code == 3  # one of the album's is broken
    report = json.loads(by_image.stdout)
    assert report["sent"].startswith(f"4 pictures under {album}, ")
    assert report["items"]["answered"] == 3 * report["items"]["failed"]
    assert (report["collection"], report["collection_items"]) == ("photos", 1)


def test_failed_pictures_are_told_of_and_have_an_exit_code(bench: Bench, album: Path) -> None:
    result = bench("embed", "--images", album, "--batch", 4)
    assert result.exit_code == 3
    calls = said(result)["answered"]
    assert said(result)["failed pictures"] == f"{calls} (INVALID_ARGUMENT {calls})"
    assert "IMAGE_UNREADABLE: The image is not a whole JPEG, PNG or WebP file.\n" in result.stderr


def test_refused_calls_are_no_failure(
    bench: Bench, wire: WireServer, new_status: Callable[..., status_pb2.Status]
) -> None:
    full = new_status("RESOURCE_EXHAUSTED", "The queue is full.", reason="QUEUE_FULL", retry_after_s=1)
    opened = wire.memory.answer
    asked = iter(range(1_000_000))

    def answer(request: object) -> object:
        if next(asked) == 5:
            wire.refusals.extend([full] * 3)
        return opened(request)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    wire.memory.answer = answer  # type: ignore[method-assign,assignment]  # pyright: ignore[reportAttributeAccessIssue]
    result = bench("embed")
    assert result.exit_code == 0, result.output
    assert (said(result)["refused"], said(result)["failed"]) == ("3 (QUEUE_FULL 3)", "0")
    assert "QUEUE_FULL: The queue is full.\n" in result.stderr


@pytest.mark.parametrize("call", ["embed", "compare", "search"])
def test_a_server_that_can_not_be_reached_is_one_line(dead_address: str, call: str) -> None:
    result = CliRunner().invoke(main, ["bench", call, "--target", dead_address])
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith(f"Error: No server answers at {dead_address} (")
    assert result.stderr.endswith("). Start one with: twinsight serve\n")
    assert result.stderr.count("\n") == 1


def test_a_server_that_does_not_serve_is_one_line(bench: Bench, wire: WireServer) -> None:
    wire.memory.is_serving = False
    result = bench("embed")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == (
        f"Error: The server at {wire.address} is `not_serving`. "
        "Wait for it with: twinsight health --wait 60 [NOT_SERVING]\n"
    )
    assert wire.methods() == ["Check"]


def test_what_is_wrong_with_all_calls_is_told_before_the_load(bench: Bench, wire: WireServer, tmp_path: Path) -> None:
    missing = bench("search", "--collection", "none")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert missing.stderr == "Error: Collection `none` does not exist; available: none. [COLLECTION_NOT_FOUND]\n"
    unknown = bench("embed", "--model", "big")
    assert unknown.exit_code == 1
    assert unknown.stderr.startswith("Error: Model `big` does not exist")
    empty = bench("embed", "--images", tmp_path)
    assert (empty.exit_code, empty.stderr) == (1, f"Error: No pictures under {tmp_path}. [FOLDER_EMPTY]\n")
    assert wire.methods().count("Embed") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "--images", "."), "--images requires --by image."),
        (("search", "--filter", "{"), "The filter is not JSON"),
        (("embed", "--json", "no/such/folder/report.json"), "no/such/folder is not a folder."),
        (("embed", "--rate", "0"), "0.0 is not in the range x>0."),
        (("embed", "--concurrency", "0"), "0 is not in the range 1<=x<=500."),
    ],
)
def test_a_wrong_command_line_is_told_before_anything_is_asked(
    bench: Bench, wire: WireServer, arguments: tuple[str, ...], message: str
) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert wire.calls == []


def test_a_report_that_can_not_be_written_is_told_before_anything_is_asked(
    bench: Bench, wire: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by the folder's mode, which the superuser does not heed.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path or mode != os.W_OK)
    result = bench("embed", "--json", tmp_path / "report.json")
    assert (result.exit_code, "Permission denied" in result.stderr) == (1, True)
    assert wire.calls == []


def test_what_was_measured_is_shown_also_where_its_file_can_not_be_written_in_the_end(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_report: object, file: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    monkeypatch.setattr(import_module("twinsight_client.cli.bench"), "write_report_file", full)
    result = bench("embed", "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert os.strerror(errno.ENOSPC) in result.stderr
    assert said(result)["call"] == "embed, 1 picture per call"


def test_the_deadline_of_measured_calls_is_settable(bench: Bench, wire: WireServer) -> None:
    assert bench("embed", "--timeout", 5).exit_code == 0
    seen = [call.time_remaining_s for call in wire.calls if call.method == "Embed"]
    assert seen == pytest.approx([5] * len(seen), abs=1)


def test_tls_options_are_those_of_the_other_commands(tmp_path: Path) -> None:
    assert Settings().channel_tls() is None
    assert Settings(tls=True).channel_tls() == Tls()
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "c.pem", "k.pem"))
    settings = Settings(tls_ca=ca, tls_cert=certificate, tls_key=key, tls_server_name="there")
    assert settings.channel_tls() == Tls(ca=ca, certificate=certificate, key=key, server_name="there")
    certificate.write_text("")
    alone = CliRunner().invoke(main, ["bench", "embed", "--tls-cert", str(certificate)])
    assert (alone.exit_code, "--tls-cert and --tls-key must be given together." in alone.stderr) == (2, True)


def test_the_open_loop_is_explained_in_the_help() -> None:
    text = " ".join(CliRunner().invoke(main, ["bench", "--help"]).stdout.split())
    assert "their latency counts from when they were due" in text
    assert "without coordinated omission" in text
    for call in ("embed", "compare", "search"):
        shown = " ".join(CliRunner().invoke(main, ["bench", call, "--help"]).stdout.split())
        assert "latency counts from when they are due" in shown
        assert "Examples:" in shown


def test_a_meter_tells_the_last_half_second_and_all_that_went_wrong() -> None:
    def rows(*outcomes: int) -> Records:
        recorder = Recorder()
        for number, outcome in enumerate(outcomes):
            recorder.add(Record(number, 1.0, 1.0, 1.25, outcome))
        return recorder.since(0)

    window = Window(0.0, 1.0, 4.0)
    with Meter("embed", shown=True) as meter:
        assert meter.line(Tick(1.0, window, 2, rows(0, 0, -1, 14), 0.5)) == (
            "4.0 calls/s  p50 250.0 ms  p99 250.0 ms  1 refused  1 failed"
        )
        assert meter.line(Tick(4.5, window, 2, rows(), 0.5)) == (
            "0.0 calls/s  1 refused  1 failed  waiting for 2 responses"
        )
        meter.show(Tick(1.0, window, 2, rows(0), 0.5))  # no terminal: nothing is drawn


# A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from twinsight_client.cli import main
main()
"""


def test_ctrl_c_ends_early_and_still_reports(wire: WireServer) -> None:
    command = [sys.executable, "-c", MAIN, "bench", "embed", "--target", wire.address, "--warmup", "0"]
    process = subprocess.Popen(
        [*command, "--duration", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        for _ in range(30):
            wire.arrived.get(timeout=60)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.endswith("Interrupted.\n")
    assert "Note: Interrupted after " in stderr
    assert "latency from sending" in stdout
