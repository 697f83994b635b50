"""`twinsight search` and its contact sheet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image, ImageFont

from twinsight_client.cli.sheet import MARGIN_PX, THUMB_PX, Tile, contact_sheet

pytestmark = pytest.mark.client

Twinsight = Callable[..., Result]


@pytest.fixture
def indexed(twinsight: Twinsight, album: Path) -> Path:
    assert twinsight("index", album).exit_code == 3
    return album


def test_matches_are_a_table_with_the_closest_first(twinsight: Twinsight, indexed: Path) -> None:
    result = twinsight("search", indexed / "a.jpg")
    assert result.exit_code == 0
    header, first, *rest = result.stdout.splitlines()
    assert header.split() == ["#", "score", "probability", "id"]
    assert first.split() == ["1", "1.0000", "100.0%", "a.jpg"]
    assert len(rest) == 2


def test_json_is_one_document_and_nothing_else(twinsight: Twinsight, indexed: Path) -> None:
    result = twinsight("--json", "search", indexed / "a.jpg", "-k", 1)
    document = json.loads(result.stdout)
    (match,) = document["matches"]
    assert (match["id"], match["metadata"]["file"], match["vector"]) == ("a.jpg", "a.jpg", None)
    assert match["score"] == pytest.approx(1)
    assert set(document) == {"collection", "query", "matches", "request_id", "times"}
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["--filter", '{"folder": "2024"}'], {"2024/b.jpg", "2024/summer/c.JPG"}),
        (["--filter", '{"folder": "summer"}'], {"2024/summer/c.JPG"}),
        (["--min-score", "0.999", "--exact"], {"a.jpg"}),
        (["--region", "0,0,1,1", "--top-k", "3"], {"a.jpg", "2024/b.jpg", "2024/summer/c.JPG"}),
    ],
)
def test_options_narrow_what_is_found(twinsight: Twinsight, indexed: Path, arguments: list[str], ids: set[str]) -> None:
    result = twinsight("search", indexed / "a.jpg", "--json", *arguments)
    assert {match["id"] for match in json.loads(result.stdout)["matches"]} == ids


@pytest.mark.usefixtures("indexed")
def test_a_stored_item_can_be_the_query(twinsight: Twinsight, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = twinsight("search", "--item", "2024/b.jpg", "--json", "--sheet", sheet)
    assert json.loads(result.stdout)["matches"][0]["id"] == "2024/b.jpg"
    assert result.stderr == f"Sheet: {sheet}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give either an IMAGE or an --item."),
        (["--exclude-self", __file__], "--exclude-self requires --item."),
        (["nowhere.jpg"], "File 'nowhere.jpg' does not exist."),
        (["--item", "x", "--filter", "{"], "Invalid value for --filter: The filter is not JSON"),
        (["--item", "x", "--region", "0,0,1"], "0,0,1 is not X_MIN,Y_MIN,X_MAX,Y_MAX."),
        (["--item", "x", "--region", "0.5,0,0.5,1"], "must be fractions from 0 to 1, each minimum below its maximum."),
        (["--item", "x", "--region", "0,0,1,1"], "--region is a part of IMAGE"),
        (["--item", "x", "--top-k", "0"], "0 is not in the range 1<=x<=2147483647."),
        (["--item", "x", "--top-k", "1000000000000"], "1000000000000 is not in the range 1<=x<=2147483647."),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(twinsight: Twinsight, arguments: list[str], said: str) -> None:
    result = twinsight("search", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_an_unreadable_query_is_one_line_on_standard_error(twinsight: Twinsight, indexed: Path) -> None:
    result = twinsight("search", indexed / "2024" / "broken.png")
    assert result.exit_code == 1
    assert result.stderr == "Error: The image is not a whole JPEG, PNG or WebP file. [IMAGE_UNREADABLE]\n"
    assert result.stdout == ""


def test_the_sheet_shows_query_and_matches_and_tells_of_pictures_it_lacks(
    twinsight: Twinsight, indexed: Path, tmp_path: Path
) -> None:
    query = tmp_path / "query.jpg"
    query.write_bytes((indexed / "a.jpg").read_bytes())
    sheet = tmp_path / "sheet.png"
    assert twinsight("search", query, "--sheet", sheet).stderr == f"Sheet: {sheet}\n"
    with Image.open(sheet) as picture:
        assert picture.width == 4 * (THUMB_PX + MARGIN_PX) + MARGIN_PX

    away = tmp_path / "away"
    indexed.rename(away)
    lacking = twinsight("search", query, "--sheet", sheet)
    assert lacking.stderr == f"Sheet: {sheet} (3 pictures not found; see --root)\n"
    assert twinsight("search", query, "--sheet", sheet, "--root", away).stderr == f"Sheet: {sheet}\n"
    wrong = twinsight("search", query, "--sheet", tmp_path / "sheet.doc")
    assert wrong.exit_code == 2
    assert "sheet.doc must end in .png or .jpg." in wrong.stderr


@pytest.mark.parametrize("sheet", ["query.jpg", "album/2024/b.jpg"])
def test_the_sheet_is_written_over_none_of_its_pictures(
    twinsight: Twinsight, indexed: Path, tmp_path: Path, sheet: str
) -> None:
    (tmp_path / "query.jpg").write_bytes((indexed / "a.jpg").read_bytes())
    before = (tmp_path / sheet).read_bytes()
    result = twinsight("search", tmp_path / "query.jpg", "--sheet", tmp_path / sheet)
    assert (result.exit_code, "is one of the pictures, which is not overwritten." in result.stderr) == (2, True)
    assert (tmp_path / sheet).read_bytes() == before


def test_tiles_lie_row_by_row_with_their_pictures_in_the_middle(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (0, 0, 255)).save(tmp_path / "wide.png")
    tiles = [Tile(tmp_path / "wide.png", ("one",), is_query=True, region=(0, 0, 0.5, 1)), Tile(None, ("two", "x" * 99))]
    sheet = contact_sheet([*tiles, *tiles], columns=3)
    cell = THUMB_PX + MARGIN_PX
    assert sheet.size == (3 * cell + MARGIN_PX, 2 * (cell + 4 + 2 * 16) + MARGIN_PX)
    middle, right = MARGIN_PX + THUMB_PX // 2, MARGIN_PX + THUMB_PX * 3 // 4
    assert sheet.getpixel((right, middle)) == (0, 0, 255)
    assert sheet.getpixel((right, MARGIN_PX + 10)) == (255, 255, 255)  # the picture is half as high as its tile
    assert sheet.getpixel((right + cell, middle)) == (208, 208, 208)  # no picture: grey
    assert sheet.getpixel((MARGIN_PX + 1, middle)) == (200, 40, 40)  # the region's frame
    assert sheet.getpixel((middle, MARGIN_PX - 3)) == (200, 40, 40)  # the query's frame


def test_a_part_thinner_than_a_pixel_of_the_thumbnail_is_framed(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (0, 0, 255)).save(tmp_path / "wide.png")
    thin = contact_sheet([Tile(tmp_path / "wide.png", ("one",), region=(0.5, 0, 0.501, 1))])
    assert thin.getpixel((MARGIN_PX + THUMB_PX // 2, MARGIN_PX + THUMB_PX // 2)) == (200, 40, 40)


@pytest.mark.parametrize("size", [(40, 30), (40, 60)])
def test_a_picture_of_too_many_pixels_is_a_grey_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns from here on and refuses from twice as many
    Image.new("RGB", size, (0, 0, 255)).save(tmp_path / "huge.png")
    Image.new("RGB", (40, 25), (0, 0, 255)).save(tmp_path / "fits.png")
    sheet = contact_sheet([Tile(tmp_path / "huge.png", ()), Tile(tmp_path / "fits.png", ())])
    middle = MARGIN_PX + THUMB_PX // 2
    assert sheet.getpixel((middle, middle)) == (208, 208, 208)
    assert sheet.getpixel((middle + THUMB_PX + MARGIN_PX, MARGIN_PX + 100)) == (0, 0, 255)


def test_a_fault_in_drawing_is_not_taken_for_a_wrong_ending(
    twinsight: Twinsight, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(size: float) -> ImageFont.FreeTypeFont:
        raise ValueError(f"no font of {size} px")

    monkeypatch.setattr(ImageFont, "load_default", fail)
    result = twinsight("search", indexed / "a.jpg", "--sheet", tmp_path / "sheet.png")
    assert isinstance(result.exception, ValueError)
    assert "must end in" not in result.output


def test_a_label_is_drawn_on_one_line_whatever_the_name() -> None:
    plain, odd = (contact_sheet([Tile(None, (line,))]) for line in ("a\\nb\\udce9", "a\nb\udce9"))
    assert odd.tobytes() == plain.tobytes()
