"""`twinsight classify`, `twinsight detect` and its drawings."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from twinsight_client.channel import ChannelOptions
from twinsight_client.cli import batches, main
from twinsight_client.cli.batches import MAX_FILE_BYTES
from twinsight_client.cli.drawing import Undrawable, colour_of, draw_detections
from twinsight_client.errors import ResourceExhausted
from twinsight_client.results import Box, Detection, ItemError, ModelReference, ModelResults
from twinsight_client.streams import BATCH_BYTES

from ..conftest import WireServer

pytestmark = pytest.mark.client

Twinsight = Callable[..., Result]
WHOLE = Detection(Box(0.0, 0.0, 1.0, 1.0), "cat", 0.75)


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    Image.new("RGB", (200, 100), (90, 90, 90)).save(path)
    return path


def test_classify_tells_the_most_probable_labels_first(twinsight: Twinsight, album: Path) -> None:
    result = twinsight("classify", album / "a.jpg", "--top-k", 2)
    assert result.exit_code == 0
    header, *rows = [line.split() for line in result.stdout.splitlines()]
    assert header == ["file", "label", "probability"]
    assert [row[0] for row in rows] == [str(album / "a.jpg")] * 2
    shares = [float(row[2].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    document = json.loads(twinsight("classify", album / "a.jpg", "--json").stdout)
    assert document["model"]["name"] == "fake-classifier"
    assert {one["label"] for one in document["results"][0]["labels"]} == {"bird", "cat", "dog"}


@pytest.mark.parametrize("command", ["classify", "detect", "embed"])
def test_a_picture_that_can_not_be_decoded_is_listed_and_the_others_are_answered(
    twinsight: Twinsight, album: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_SIZE", 2)
    broken = album / "2024/broken.png"
    files = [album / "a.jpg", album / "2024/b.jpg", album / "2024/summer/c.JPG", broken]
    result = twinsight(command, *files, "--json")
    assert result.exit_code == 3
    assert result.stderr == (f"skipped {broken}: The image is not a whole JPEG, PNG or WebP file. [IMAGE_UNREADABLE]\n")
    answers = json.loads(result.stdout)["results"]
    assert [one["file"] for one in answers] == [str(file) for file in files]
    assert ["error" in one for one in answers] == [False, False, False, True]
    assert answers[3]["error"]["index"] == 3


@pytest.mark.parametrize("command", ["classify", "detect", "embed"])
def test_a_file_that_no_message_carries_is_listed_and_the_others_are_answered(
    twinsight: Twinsight, album: Path, command: str
) -> None:
    huge = album / "huge.png"
    with huge.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: no byte of it is on the disk
    files = [album / "a.jpg", huge, album / "2024/broken.png", album / "2024/b.jpg"]
    result = twinsight(command, *files, "--json")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == (
        f"skipped {huge}: The file ({MAX_FILE_BYTES + 1} bytes) is larger than {MAX_FILE_BYTES} bytes. [FILE_TOO_LARGE]"
    )
    answers = json.loads(result.stdout)["results"]
    assert [one["file"] for one in answers] == [str(file) for file in files]
    assert [one.get("error", {}).get("index") for one in answers] == [None, 1, 2, None]
    alone = twinsight(command, huge)
    assert (alone.exit_code, "[FILE_TOO_LARGE]" in alone.stderr) == (3, True)


@pytest.mark.parametrize("command", ["classify", "detect", "embed"])
def test_files_that_are_not_there_or_may_not_be_read_are_listed_and_the_others_are_answered(
    twinsight: Twinsight, album: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = album / "2024/b.jpg"
    # Not by its mode, which the superuser does not heed.
    may_be_read = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and may_be_read(path, mode))
    files = [album / "gone.jpg", album / "a.jpg", locked]
    result = twinsight(command, *files, "--json")
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        f"skipped {files[0]}: No such file or directory [FILE_UNREADABLE]",
        f"skipped {files[2]}: Permission denied [FILE_UNREADABLE]",
    ]
    answers = json.loads(result.stdout)["results"]
    assert [one.get("error", {}).get("index") for one in answers] == [0, None, 2]


@pytest.mark.parametrize("command", ["classify", "detect", "embed"])
def test_a_file_whose_reading_fails_is_listed_and_the_others_are_answered(
    twinsight: Twinsight, album: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worn, read = album / "2024/b.jpg", Path.read_bytes

    def fail(path: Path) -> bytes:
        if path == worn:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    result = twinsight(command, album / "a.jpg", worn, album / "2024/summer/c.JPG", "--json")
    assert result.exit_code == 3
    assert result.stderr == f"skipped {worn}: {os.strerror(errno.EIO)} [FILE_UNREADABLE]\n"
    answers = json.loads(result.stdout)["results"]
    assert [one.get("error", {}).get("index") for one in answers] == [None, 1, None]
    assert twinsight(command, worn).exit_code == 3


def test_batches_end_at_a_number_of_files_or_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_BYTES", 10)
    assert list(batches.cut([4, 6, 1, 99, 1, 1, 1, 1], size_of=int, most=3)) == [[4, 6], [1], [99], [1, 1, 1], [1]]
    assert list(batches.cut([], size_of=int, most=3)) == []
    # What travels together is far under a message's 64 MiB, and so is the largest file that travels alone.
    assert max(BATCH_BYTES, MAX_FILE_BYTES) < ChannelOptions().max_send_bytes


@pytest.fixture
def wired(wire: WireServer) -> Twinsight:
    """Runs `twinsight` against a real gRPC server, whose messages are at most 4 MiB."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["--target", wire.address, *(str(one) for one in arguments)])

    return run


@pytest.mark.parametrize("command", ["classify", "detect", "embed"])
def test_a_server_that_never_answers_is_given_up_after_the_timeout(
    wired: Twinsight, wire: WireServer, album: Path, command: str
) -> None:
    wire.held = command.capitalize()
    result = wired(command, album / "a.jpg", "--timeout", 0.3)
    assert (result.exit_code, "did not respond in time" in result.stderr) == (4, True)


@pytest.mark.parametrize("command", ["classify", "detect", "embed"])
def test_a_server_with_smaller_messages_is_sent_smaller_ones(wired: Twinsight, tmp_path: Path, command: str) -> None:
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for number, file in enumerate(files):
        pixels = np.random.default_rng(number).integers(0, 256, (900, 900, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, compress_level=0)
    assert 2 * 1024 * 1024 < files[0].stat().st_size < 4 * 1024 * 1024
    result = wired(command, *files, "--json")
    assert result.exit_code == 0, result.stderr
    assert ["error" in one for one in json.loads(result.stdout)["results"]] == [False, False]


def test_batches_that_the_server_finds_too_large_are_halved(album: Path) -> None:
    asked: list[int] = []

    names = {(album / name).read_bytes(): name for name in ("a.jpg", "2024/b.jpg", "2024/summer/c.JPG")}

    def ask(files: Sequence[bytes]) -> ModelResults[str]:
        asked.append(len(files))
        if len(files) > 1 or names[files[0]] == "2024/b.jpg":
            raise ResourceExhausted("Received message larger than max.")
        return ModelResults([names[files[0]]], model=ModelReference("fake", "sha256:1"))

    answered = batches.ask_in_batches([album / name for name in names.values()], ask)
    assert asked == [3, 1, 2, 1, 1]
    assert answered.model.name == "fake"
    assert [answer for _, answer in answered.successes()] == ["a.jpg", "2024/summer/c.JPG"]
    assert answered.answers[1][1] == ItemError(
        1, "RESOURCE_EXHAUSTED", "FILE_TOO_LARGE", "Received message larger than max."
    )


@pytest.mark.parametrize(
    "refusal",
    [
        ResourceExhausted("Full.", retry_after_s=1.0, reason="OVERLOADED"),
        ResourceExhausted("Concurrent RPC limit exceeded!"),
    ],
)
def test_load_turned_away_is_not_taken_for_a_message_that_is_too_large(album: Path, refusal: ResourceExhausted) -> None:
    def refuse(_files: Sequence[bytes]) -> ModelResults[str]:
        raise refusal

    with pytest.raises(ResourceExhausted) as raised:
        batches.ask_in_batches([album / "a.jpg", album / "2024/b.jpg"], refuse)
    assert raised.value is refusal


def test_files_are_cut_into_calls_by_their_size(
    twinsight: Twinsight, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_BYTES", 1)
    files = [album / "a.jpg", album / "2024/b.jpg", album / "a.jpg"]
    answers = json.loads(twinsight("classify", *files, "--json").stdout)["results"]
    assert answers[0] == answers[2] != answers[1]


def test_detect_tells_what_is_where(twinsight: Twinsight, album: Path) -> None:
    result = twinsight("detect", album / "a.jpg", "--min-score", 0)
    assert result.exit_code == 0
    header, *rows = [line.split() for line in result.stdout.splitlines()]
    assert header == ["file", "label", "score", "x", "min", "y", "min", "x", "max", "y", "max"]
    assert len(rows) == 3
    assert all(0 <= float(edge) <= 1 for row in rows for edge in row[3:])
    (answer,) = json.loads(twinsight("detect", album / "a.jpg", "--min-score", 0, "--json").stdout)["results"]
    assert set(answer["detections"][0]) == {"box", "label", "score"}
    assert set(answer["detections"][0]["box"]) == {"x_min", "y_min", "x_max", "y_max"}
    (one,) = json.loads(twinsight("detect", album / "a.jpg", "--max-detections", 1, "--json").stdout)["results"]
    assert len(one["detections"]) <= 1
    nothing = twinsight("detect", album / "a.jpg", "--min-score", 1)
    assert (nothing.exit_code, nothing.stderr) == (0, f"nothing found in {album / 'a.jpg'}\n")


def test_detect_draws_on_a_copy_and_leaves_the_picture_alone(twinsight: Twinsight, grey: Path, tmp_path: Path) -> None:
    before = grey.read_bytes()
    out = tmp_path / "found.png"
    result = twinsight("detect", grey, "--min-score", 0, "--out", out)
    assert (result.exit_code, result.stderr) == (0, f"Picture: {out}\n")
    with Image.open(out) as drawn:
        assert drawn.size == (200, 100)
        assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 1
    assert grey.read_bytes() == before
    itself = twinsight("detect", grey, "--out", grey)
    assert (itself.exit_code, "is the picture itself" in itself.stderr) == (2, True)
    assert grey.read_bytes() == before


def test_detect_draws_several_into_a_folder_without_writing_over_any(
    twinsight: Twinsight, album: Path, tmp_path: Path
) -> None:
    files = [album / "a.jpg", album / "2024/b.jpg", album / "2024/broken.png"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.jpg").write_bytes((album / "2024/b.jpg").read_bytes())
    before = (album / "a.jpg").read_bytes()
    result = twinsight("detect", *files, tmp_path / "other/a.jpg", "--out", album, "--json")
    assert result.exit_code == 3
    drawn = [one.get("drawn") for one in json.loads(result.stdout)["results"]]
    assert drawn == [str(album / "a-2.jpg"), str(album / "b.jpg"), None, str(album / "a-3.jpg")]
    assert all(Path(one).is_file() for one in drawn if one)
    assert (album / "a.jpg").read_bytes() == before
    new = twinsight("detect", *files[:2], "--out", tmp_path / "new" / "folder")
    assert new.exit_code == 0
    assert {one.name for one in (tmp_path / "new" / "folder").iterdir()} == {"a.jpg", "b.jpg"}
    file = twinsight("detect", *files[:2], "--out", tmp_path / "one.png")
    assert (file.exit_code, "must be a folder: there are several pictures" in file.stderr) == (2, True)


def test_a_copy_under_another_name_than_its_pictures_is_written_over_nothing(
    twinsight: Twinsight, grey: Path, tmp_path: Path
) -> None:
    whole = grey.read_bytes()
    names = ("grey-2.png", "a", "a.png", "a-2.png", "b.gif.png")
    for name in names:
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "b.gif").write_bytes(whole)
    files = [tmp_path / one for one in ("grey.png", "a", "a-2.png", "b.gif")]
    result = twinsight("detect", *files, "--min-score", 0, "--out", tmp_path, "--json")
    drawn = [Path(one["drawn"]).name for one in json.loads(result.stdout)["results"]]
    assert drawn == ["grey-3.png", "a-3.png", "a-2-2.png", "b.gif-2.png"]
    assert all((tmp_path / name).read_bytes() == whole for name in (*names, "grey.png", "b.gif"))
    both = twinsight("detect", tmp_path / "a", tmp_path / "a.png", "--out", tmp_path / "found", "--json")
    assert len({one["drawn"] for one in json.loads(both.stdout)["results"]}) == 2


def test_a_copy_of_a_picture_whose_name_says_no_format_is_a_png(
    twinsight: Twinsight, grey: Path, tmp_path: Path
) -> None:
    odd = grey.rename(tmp_path / "picture")
    assert twinsight("detect", odd, "--out", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "picture.png") as drawn:
        assert drawn.format == "PNG"


def test_a_box_is_drawn_in_its_labels_colour_along_its_edges(grey: Path) -> None:
    # Left half of 200 x 100: the line is 2 pixels wide, the label stands inside at the top.
    drawn = np.asarray(draw_detections(grey, [Detection(Box(0.0, 0.0, 0.5, 1.0), "cat", 0.5)]))
    colour = list(colour_of("cat"))
    assert drawn[50, :2].tolist() == [colour] * 2
    assert drawn[50, 98:100].tolist() == [colour] * 2
    assert drawn[98:, 50].tolist() == [colour] * 2
    assert drawn[50, 2].tolist() == drawn[50, 100].tolist() == drawn[97, 50].tolist() == [90, 90, 90]
    assert [255, 255, 255] in drawn[:30, :90].reshape(-1, 3).tolist()


def test_the_surest_is_drawn_on_top(grey: Path) -> None:
    others = [Detection(WHOLE.box, label, 0.5) for label in ("dog", "bird", "zebra")]
    drawn = np.asarray(draw_detections(grey, [WHOLE, *others]))
    assert drawn[50, 0].tolist() == list(colour_of("cat"))


def test_boxes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    picture, exif = Image.new("RGB", (60, 40), "grey"), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert draw_detections(tmp_path / "turned.jpg", [WHOLE]).size == (40, 60)


def test_a_label_at_the_right_edge_is_moved_into_the_picture(grey: Path) -> None:
    drawn = np.asarray(draw_detections(grey, [Detection(Box(0.95, 0.5, 1.0, 1.0), "cat", 0.5)]))
    # Above the box, which is 10 pixels wide: the ground of the label, which is wider.
    assert drawn[45, 160:].tolist().count(list(colour_of("cat"))) > 10


def test_a_tiny_box_is_still_a_dot(grey: Path) -> None:
    drawn = draw_detections(grey, [Detection(Box(0.5, 0.5, 0.5001, 0.5001), "cat", 0.5)])
    assert drawn.getpixel((100, 50)) == colour_of("cat")


def test_what_pillow_can_not_read_is_told(tmp_path: Path) -> None:
    broken = io.BytesIO()
    Image.new("RGB", (8, 8)).save(broken, "PNG")
    (tmp_path / "half.png").write_bytes(broken.getvalue()[:40])
    with pytest.raises(Undrawable):
        draw_detections(tmp_path / "half.png", [])
