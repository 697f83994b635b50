"""The example that finds films by a clip: its vote, and its two commands against a server in memory."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twinsight_client.testing import FakeClient

pytestmark = pytest.mark.client

VIDEOS = Path(__file__).parents[2] / "clients/python/examples/videos"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(VIDEOS))
    return runpy.run_path(str(VIDEOS / "__main__.py"))


def scenes(seed: int, seconds: int, *, phase_s: float = 0.0) -> Iterator[tuple[float, Image.Image]]:
    """Frames of a film, each of another scene."""
    pixels = np.random.default_rng(seed).integers(0, 256, (seconds, 6, 8, 3), np.uint8)
    return ((second + phase_s, Image.fromarray(one).resize((32, 24))) for second, one in enumerate(pixels))


def test_a_clip_is_found_where_it_was_cut_out(example: dict[str, Any]) -> None:
    client = FakeClient()
    client.create_collection("films", model="fake")
    assert [example["index"](client, "films", f"film{n}", scenes(n, 50)) for n in range(3)] == [50, 50, 50]
    cut_out = [(time_s - 17.4, image) for time_s, image in list(scenes(1, 50))[18:40]]
    best, *_ = example["find"](client, "films", cut_out)
    assert (best.film, best.agreeing, best.frames) == ("film1", 22, 22)
    assert best.start_s == pytest.approx(17.4)


def test_a_film_that_is_indexed_again_has_its_new_frames_alone(example: dict[str, Any]) -> None:
    client = FakeClient()
    client.create_collection("films", model="fake")
    example["index"](client, "films", "film", scenes(1, 30))
    example["index"](client, "films", "other", scenes(2, 7))
    assert example["index"](client, "films", "film", scenes(3, 5)) == 5
    assert client.get_collection("films").item_count == 12
    assert not [one for one in example["find"](client, "films", scenes(1, 30)) if one.film == "film"]


def test_a_film_that_can_not_be_read_keeps_its_frames(example: dict[str, Any]) -> None:
    def unreadable() -> Iterator[tuple[float, Image.Image]]:
        raise example["Unreadable"]("no video")
        yield

    client = FakeClient()
    client.create_collection("films", model="fake")
    example["index"](client, "films", "film", scenes(1, 5))
    with pytest.raises(example["Unreadable"]):
        example["index"](client, "films", "film", unreadable())
    assert client.get_collection("films").item_count == 5


def test_frames_that_follow_one_another_quickly_are_all_kept(example: dict[str, Any]) -> None:
    client = FakeClient()
    client.create_collection("films", model="fake")
    quick = [(time_s / 240, image) for time_s, image in scenes(1, 240)]
    assert example["index"](client, "films", "film", quick) == client.get_collection("films").item_count == 240


def test_frames_that_do_not_agree_find_nothing(example: dict[str, Any]) -> None:
    agreed, sighting = example["agreed"], example["Sighting"]
    still = [sighting("still", film_s, 0.0) for film_s in range(60)]  # one frame that looks like a whole film
    assert agreed(still, frames=20) == []
    scattered = [sighting("other", 3.7 * n * n % 97, float(n)) for n in range(20)]
    assert agreed(scattered, frames=20) == []
    apart = [sighting("film", 100.0 + n + 0.8 * (n % 2), float(n)) for n in range(6)]
    ((film, start_s, agreeing, frames),) = agreed([*still, *scattered, *apart], frames=20)
    assert (film, agreeing, frames) == ("film", 6, 20)
    assert 100.0 <= start_s <= 100.8
    assert agreed([sighting("film", 5.0, 0.0)], frames=1) == [("film", 5.0, 1, 1)]
    alike = [(3.0, 0.5), (11.0, 0.9), (34.0, 0.6), (35.0, 0.7)]
    assert agreed([sighting("film", at_s, 0.0, p) for at_s, p in alike], frames=1) == [("film", 11.0, 1, 1)]
