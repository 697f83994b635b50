"""`twinsight detect --out` where copies can't be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from twinsight_client.testing import FakeClient

from .conftest import Twinsight

pytestmark = pytest.mark.client


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The second is a PNG, one column too wide for the format that its name tells of."""
    paths = [tmp_path / "a.png", tmp_path / "wide.webp", tmp_path / "z.jpg"]
    for path, size in zip(paths, [(40, 30), (16_384, 2), (40, 30)], strict=True):
        Image.new("RGB", size, (90, 90, 90)).save(path, format="PNG")
    return paths


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_a_copy_that_its_format_has_no_room_for_is_listed_and_all_answers_are_given(
    twinsight: Twinsight, files: list[Path], tmp_path: Path, as_json: bool
) -> None:
    out = tmp_path / "out"
    result = twinsight("detect", *files, "--min-score", 0, "--out", out, *(["--json"] if as_json else []))
    assert result.exit_code == 3, result.output
    first, second, third = result.stderr.splitlines()
    assert (first, third) == (f"Picture: {out / 'a.png'}", f"Picture: {out / 'z.jpg'}")
    assert second.startswith(f"not drawn {files[1]}: {out / 'wide.webp'}: ")
    assert "16383 pixels" in second
    assert sorted(one.name for one in out.iterdir()) == ["a.png", "z.jpg"]
    if as_json:
        results = json.loads(result.stdout)["results"]
        assert [len(one["detections"]) for one in results] == [3, 3, 3]
        assert [one.get("drawn") for one in results] == [str(out / "a.png"), None, str(out / "z.jpg")]
    else:
        assert [line.split()[0] for line in result.stdout.splitlines()[1::3]] == [str(file) for file in files]


def test_copies_that_a_full_disk_has_no_room_for_are_listed(
    twinsight: Twinsight, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_picture: Image.Image, _target: Path, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", fail)
    out = tmp_path / "out"
    result = twinsight("detect", *files, "--out", out, "--json")
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        f"not drawn {file}: {out / file.name}: {os.strerror(errno.ENOSPC)}" for file in files
    ]
    assert ["detections" in one for one in json.loads(result.stdout)["results"]] == [True] * 3


def test_a_copy_with_a_folder_in_its_place_is_listed(twinsight: Twinsight, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out/a.png").mkdir(parents=True)
    result = twinsight("detect", files[0], files[2], "--out", tmp_path / "out")
    assert (result.exit_code, (tmp_path / "out/z.jpg").is_file()) == (3, True)
    assert result.stderr.splitlines()[0] == (
        f"not drawn {files[0]}: {tmp_path / 'out/a.png'}: {os.strerror(errno.EISDIR)}"
    )


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_answers_are_given_where_ctrl_c_ends_the_drawing(
    twinsight: Twinsight, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def interrupt(_picture: Image.Image, _target: Path, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    given = twinsight("detect", *files, *(["--json"] if as_json else []))
    ended = twinsight("detect", *files, "--out", tmp_path / "out", *(["--json"] if as_json else []))
    assert (ended.exit_code, ended.stdout) == (130, given.stdout)
    assert ended.stderr.splitlines()[-1] == "Interrupted."


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that asks the server anything."""

    def fail(_client: FakeClient) -> None:
        pytest.fail("The server was asked.")

    monkeypatch.setattr(FakeClient, "health", fail)


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("out", ["taken", "taken/below/it", "taken/found.png", "gone-link", "gone-link/found.png"])
def test_what_is_no_folder_where_one_is_needed_is_told_before_the_server_is_asked(
    twinsight: Twinsight, files: list[Path], tmp_path: Path, out: str
) -> None:
    (tmp_path / "taken").write_bytes(b"mine")
    (tmp_path / "gone-link").symlink_to(tmp_path / "gone")
    result = twinsight("detect", files[0], "--out", tmp_path / out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path / Path(out).parts[0]} is not a folder." in result.stderr
    assert (tmp_path / "taken").read_bytes() == b"mine"


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize(
    ("out", "locked"),
    [
        ("shut", "shut"),
        ("shut/new/folder", "shut"),
        ("shut/found.png", "shut"),
        ("open/found.png", "open/found.png"),
    ],
)
def test_a_place_that_may_not_be_written_to_is_told_before_the_server_is_asked(
    twinsight: Twinsight, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, locked: str
) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open/found.png").write_bytes(b"mine")
    # Not by its mode, which the superuser does not heed.
    may, place = os.access, tmp_path / locked
    monkeypatch.setattr(
        os, "access", lambda path, mode: not (Path(path) == place and mode & os.W_OK) and may(path, mode)
    )
    result = twinsight("detect", files[0], "--out", tmp_path / out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{place} is not writable." in result.stderr


def test_one_copy_is_written_over_an_earlier_one_or_into_new_folders(
    twinsight: Twinsight, files: list[Path], tmp_path: Path
) -> None:
    for out in (tmp_path / "found.png", tmp_path / "found.png", tmp_path / "new/folder/found.png"):
        assert twinsight("detect", files[0], "--out", out).exit_code == 0
        with Image.open(out) as drawn:
            assert drawn.size == (40, 30)
