"""Folders for `twinsight classify`, `detect` and `embed`; labels that are sure enough, and labels as a table."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from twinsight_client.cli import batches
from twinsight_client.cli.label_table import COLUMNS
from twinsight_client.errors import Unavailable
from twinsight_client.results import ItemError, ModelReference, ModelResults
from twinsight_client.testing import FakeClient

from .conftest import Twinsight

pytestmark = pytest.mark.client

COMMANDS = pytest.mark.parametrize("command", ["classify", "detect", "embed"])
PICTURES = ["a.jpg", "2024/b.jpg", "2024/broken.png", "2024/summer/c.JPG"]


def rows_of(out: Path) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@COMMANDS
def test_folders_stand_for_the_pictures_under_them_and_refuse_nothing_beside_them(
    twinsight: Twinsight, album: Path, tmp_path: Path, command: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "film.gif").write_bytes(b"GIF89a")
    (empty / "linked").symlink_to(album)
    result = twinsight(command, album, empty, tmp_path / "gone", album / "a.jpg", "--json")
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        f"No JPEG, PNG or WebP files under {empty}.",
        f"ignored under {empty}: 1 .gif, 1 linked folder",
        f"skipped {album / '2024/broken.png'}: The image is not a whole JPEG, PNG or WebP file. [IMAGE_UNREADABLE]",
        f"skipped {tmp_path / 'gone'}: No such file or directory [FILE_UNREADABLE]",
    ]
    files = [one["file"] for one in json.loads(result.stdout)["results"]]
    assert files == [str(one) for one in (*(album / one for one in PICTURES), tmp_path / "gone", album / "a.jpg")]
    alone = twinsight(command, empty, "--json")
    assert (alone.exit_code, json.loads(alone.stdout)["results"]) == (0, [])


@COMMANDS
def test_what_of_a_folder_can_not_be_looked_at_is_listed(
    twinsight: Twinsight, album: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.scandir

    def fail(path: str) -> object:
        if os.fspath(path) == str(album / "2024"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", fail)
    result = twinsight(command, album, "--json")
    assert (result.exit_code, result.stderr) == (
        3,
        f"skipped {album / '2024'}: Permission denied [FOLDER_UNREADABLE]\n",
    )
    first, second = json.loads(result.stdout)["results"]
    assert (first["file"], second["file"]) == (str(album / "a.jpg"), str(album / "2024"))
    assert (second["error"]["index"], second["error"]["reason"]) == (1, "FOLDER_UNREADABLE")


def test_copies_are_not_drawn_into_a_folder_that_is_searched(twinsight: Twinsight, album: Path, tmp_path: Path) -> None:
    refused = twinsight("detect", album, "--out", album / "found")
    assert (refused.exit_code, "would take the copies for pictures" in refused.stderr) == (2, True)
    drawn = twinsight("detect", album / "2024/summer", "--min-score", 0, "--out", tmp_path / "found")
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "found/c.png").is_file() or (tmp_path / "found/c.JPG").is_file()


def test_labels_that_are_less_probable_are_left_out(twinsight: Twinsight, album: Path) -> None:
    files = [album / "a.jpg", album / "2024/b.jpg"]
    with FakeClient() as client:
        answers = client.classify(files).values()
    (surest, *_), (other, *_) = answers
    assert surest.probability != other.probability
    least = max(surest.probability, other.probability)
    bearing, bare = sorted(files, key=lambda file: answers[files.index(file)][0].probability, reverse=True)
    result = twinsight("classify", *files, "--min-probability", least)
    assert (result.exit_code, result.stderr) == (0, f"no label for {bare}\n")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["file", str(bearing)]
    document = json.loads(twinsight("classify", *files, "--min-probability", least, "--json").stdout)
    found: Mapping[str, list[object]] = {one["file"]: one["labels"] for one in document["results"]}
    assert [len(found[str(file)]) for file in (bearing, bare)] == [1, 0]
    assert twinsight("classify", *files, "--min-probability", 1.5).exit_code == 2


def test_labels_go_to_a_file_a_row_each(twinsight: Twinsight, album: Path, tmp_path: Path) -> None:
    odd = album / os.fsdecode(b'caf\xe9, "x".jpg')
    (album / "a.jpg").rename(odd)
    out = tmp_path / "labels.csv"
    result = twinsight("classify", album, tmp_path / "gone.jpg", "--csv", out)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-1] == f"Labels: {out} (3 pictures)"
    rows = rows_of(out)
    assert tuple(rows[0]) == COLUMNS
    of_odd = [row for row in rows if row["file"] == str(odd)]
    assert [row["rank"] for row in of_odd] == ["1", "2", "3"]
    shown = json.loads(twinsight("classify", odd, "--json").stdout)["results"][0]["labels"]
    assert [(row["label"], float(row["probability"])) for row in of_odd] == [
        (one["label"], one["probability"]) for one in shown
    ]
    errors = {Path(row["file"]).name: row["error"] for row in rows if row["error"]}
    assert errors == {"broken.png": "IMAGE_UNREADABLE", "gone.jpg": "FILE_UNREADABLE"}
    none = twinsight("classify", odd, "--min-probability", 1, "--csv", out, "--json")
    assert json.loads(none.stdout)["results"][0]["labels"] == []
    assert rows_of(out) == [{"file": str(odd), "rank": "", "label": "", "probability": "", "error": ""}]


def test_answers_are_told_as_they_come_and_each_once(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_SIZE", 1)
    files = [album / "gone.jpg", *(album / one for one in ("a.jpg", "2024/b.jpg", "2024/summer/c.JPG"))]
    asked, told = 0, []

    def ask(_files: object) -> ModelResults[str]:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Unavailable("Gone.", reason="DRAINING")
        return ModelResults([f"answer {asked}"], model=ModelReference("m", "sha256:1"))

    def take(answers: Mapping[int, str | ItemError]) -> None:
        told.append({place: one.reason if isinstance(one, ItemError) else one for place, one in answers.items()})

    answered = batches.ask_in_batches(files, ask, arrived=take)
    assert told == [{0: "FILE_UNREADABLE", 1: "answer 1"}, {2: "answer 2"}, {3: "DRAINING"}]
    assert len(answered.answers) == 4
