"""`twinsight classify`, `detect` and `embed` where the server goes away midway, or Ctrl-C comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf.message import Message
from google.rpc import status_pb2

from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight_client.cli import batches, main
from twinsight_client.errors import FailedPrecondition, Unavailable
from twinsight_client.results import ItemError, ModelReference, ModelResults
from twinsight_client.testing import MemoryServer

from ..conftest import WireServer
from .conftest import Twinsight

pytestmark = pytest.mark.client

INFERENCE = (inference_pb.ClassifyRequest, inference_pb.DetectRequest, inference_pb.EmbedRequest)
COMMANDS = pytest.mark.parametrize("command", ["classify", "detect", "embed"])


@pytest.fixture
def files(album: Path) -> list[Path]:
    return [album / "a.jpg", album / "gone.jpg", album / "2024/b.jpg", album / "2024/summer/c.JPG"]


@pytest.fixture
def fail_from(memory: MemoryServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Makes the calls about pictures fail from a given one on, each of which is about one picture."""
    monkeypatch.setattr(batches, "BATCH_SIZE", 1)
    answer = memory.answer

    def fail(first: int, error: BaseException) -> None:
        asked = 0

        def answer_or_fail(request: Message) -> Message:
            nonlocal asked
            asked += isinstance(request, INFERENCE)
            if asked >= first and isinstance(request, INFERENCE):
                raise error
            return answer(request)

        monkeypatch.setattr(memory, "answer", answer_or_fail)

    return fail


@COMMANDS
def test_what_was_answered_is_printed_and_the_rest_are_errors(
    twinsight: Twinsight, files: list[Path], fail_from: Callable[[int, BaseException], None], command: str
) -> None:
    fail_from(3, Unavailable("Draining.", reason="DRAINING"))
    result = twinsight(command, *files, "--json")
    assert result.exit_code == 4
    assert result.stderr.splitlines() == [
        f"skipped {files[1]}: No such file or directory [FILE_UNREADABLE]",
        "Not finished: 1 of 4 files have no result.",
        "Error: Draining. [DRAINING]",
    ]
    document = json.loads(result.stdout)
    assert document["model"]["name"].startswith("fake")
    assert [one["file"] for one in document["results"]] == [str(file) for file in files]
    assert [one.get("error", {}).get("reason") for one in document["results"]] == [
        None,
        "FILE_UNREADABLE",
        None,
        "DRAINING",
    ]
    assert document["results"][3]["error"]["index"] == 3


@COMMANDS
def test_ctrl_c_leaves_what_was_answered(
    twinsight: Twinsight, files: list[Path], fail_from: Callable[[int, BaseException], None], command: str
) -> None:
    fail_from(2, KeyboardInterrupt())
    result = twinsight(command, *files, "--json")
    assert (result.exit_code, result.stderr.splitlines()[1:]) == (
        130,
        ["Not finished: 2 of 4 files have no result.", "Interrupted."],
    )
    reasons = [one.get("error", {}).get("reason") for one in json.loads(result.stdout)["results"]]
    assert reasons == [None, "FILE_UNREADABLE", "INTERRUPTED", "INTERRUPTED"]


def test_an_archive_has_the_vectors_that_were_answered(
    twinsight: Twinsight, files: list[Path], fail_from: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    fail_from(3, Unavailable("Draining.", reason="DRAINING"))
    out = tmp_path / "vectors.npz"
    assert twinsight("embed", *files, "--out", out).exit_code == 4
    with np.load(out) as archive:
        assert archive["files"].tolist() == [str(files[0]), str(files[2])]
        assert archive["vectors"].shape == (2, 16)


def test_a_table_has_what_was_answered_and_an_older_one_stays_where_nothing_was(
    twinsight: Twinsight, files: list[Path], fail_from: Callable[[int, BaseException], None], tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    fail_from(2, Unavailable("Draining.", reason="DRAINING"))
    assert twinsight("classify", *files, "--top-k", 1, "--csv", out).exit_code == 4
    whole = out.read_text()
    errors = [line.split(",")[4] for line in whole.splitlines()]
    assert errors == ["error", "", "FILE_UNREADABLE", "DRAINING", "DRAINING"]
    assert twinsight("classify", *files, "--csv", out).exit_code == 4
    assert out.read_text() == whole


@COMMANDS
def test_where_nothing_was_answered_the_error_is_all_there_is(
    twinsight: Twinsight, files: list[Path], fail_from: Callable[[int, BaseException], None], command: str
) -> None:
    fail_from(1, Unavailable("Draining.", reason="DRAINING"))
    result = twinsight(command, *files, "--json")
    assert (result.exit_code, result.stdout, result.stderr) == (4, "", "Error: Draining. [DRAINING]\n")


@COMMANDS
def test_a_server_that_starts_again_is_waited_for(
    wire: WireServer, files: list[Path], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, refused = wire.memory.answer, 0

    def answer_later(request: Message) -> Message:
        nonlocal refused
        if isinstance(request, INFERENCE) and refused < 4:
            refused += 1
            raise Unavailable("Starting.")
        return answer(request)

    monkeypatch.setattr(wire.memory, "answer", answer_later)
    result = CliRunner().invoke(main, ["--target", wire.address, command, str(files[0])])
    assert (result.exit_code, refused) == (0, 4), result.output


@COMMANDS
def test_a_server_that_is_not_there_is_told_of_at_once(
    wire: WireServer, files: list[Path], command: str, new_status: Callable[..., status_pb2.Status]
) -> None:
    wire.refusals.append(new_status("UNAVAILABLE", "Nobody."))
    result = CliRunner().invoke(main, ["--target", wire.address, command, str(files[0])])
    assert (result.exit_code, wire.methods()) == (4, ["Check"]), result.output


def test_answers_of_two_models_are_not_mixed(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_SIZE", 1)
    digests = iter(("sha256:1", "sha256:2"))

    def ask(files: Sequence[bytes]) -> ModelResults[str]:
        return ModelResults(["cat"] * len(files), model=ModelReference("m", next(digests)))

    answered = batches.ask_in_batches([album / "a.jpg", album / "2024/b.jpg"], ask)
    assert [answer for _, answer in answered.successes()] == ["cat"]
    assert answered.model.digest == "sha256:1"
    said = "The server changed from model `m` (sha256:1) to `m` (sha256:2) during the run."
    assert answered.answers[1][1] == ItemError(1, "FAILED_PRECONDITION", "MODEL_MISMATCH", said)
    with pytest.raises(FailedPrecondition):
        answered.raise_ended()
