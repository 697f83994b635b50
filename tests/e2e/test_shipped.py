"""The models that ship, each served and asked for what it is for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw

from e2e.conftest import Reflected, from_bytes, running
from twinsight_server.config import ServerConfig


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Reflected]:
    """A server as it comes, but for the size of its batches."""
    data_dir = tmp_path_factory.mktemp("data")
    with running(ServerConfig(listen="127.0.0.1:0", data_dir=data_dir, cache_dir=cache_dir, batch_size=1)) as made:
        client = Reflected(made.address)
        yield client
        client.close()


def as_png(picture: Pillow.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_all_are_offered_with_their_cards(api: Reflected) -> None:
    models = {one.name: one for one in api.call("ModelService", "ListModels").models}
    assert sorted(models) == ["base", "cells", "garments", "glyph"]
    assert [name for name, one in models.items() if one.is_default] == ["base"]
    assert list(models["cells"].labels) == ["Platelets", "RBC", "WBC"]
    assert len(models["garments"].labels) == 10
    for one in models.values():
        assert all((one.licence, one.training_data, one.description)), one.name


def test_glyph_finds_the_drawing_of_the_same_character(api: Reflected) -> None:
    def drawn(corners: list[tuple[int, int]], shift: float) -> bytes:
        picture = Pillow.new("L", (105, 105), 255)
        ImageDraw.Draw(picture).line([(x + shift, y - shift / 2) for x, y in corners], fill=0, width=3)
        return as_png(picture)

    characters = [
        [(20, 20), (80, 20), (50, 85)],
        [(20, 80), (50, 20), (80, 80), (35, 55), (65, 55)],
        [(30, 20), (30, 85), (75, 85)],
        [(20, 30), (80, 30), (20, 80), (80, 80)],
    ]
    images = [{"encoded": drawn(one, shift)} for shift in (0, 6) for one in characters]
    results = api.call("InferenceService", "Embed", model="glyph", images=images).results
    vectors = np.stack([from_bytes(result.embedding.vector) for result in results])
    assert (vectors[4:] @ vectors[:4].T).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_garments_says_how_probable_each_kind_is(api: Reflected, photos: dict[str, bytes]) -> None:
    (result,) = api.call("InferenceService", "Classify", images=[{"encoded": photos["coffee"]}], top_k=10).results
    probabilities = [label.probability for label in result.classification.labels]
    assert len(probabilities) == 10
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)


def test_cells_finds_a_cell_where_it_is_and_nothing_on_empty_ground(api: Reflected) -> None:
    ground = Pillow.new("RGB", (640, 480), (222, 205, 196))
    cell = ground.copy()
    # A white blood cell as the stain shows it: large, pale violet, with a dark nucleus.
    ImageDraw.Draw(cell).ellipse((240, 160, 420, 330), fill=(188, 160, 196))
    ImageDraw.Draw(cell).ellipse((265, 185, 395, 305), fill=(104, 62, 142))
    images = [{"encoded": as_png(one)} for one in (cell, ground)]
    found, nothing = api.call("InferenceService", "Detect", images=images).results
    assert not nothing.detections.detections
    best = found.detections.detections[0]
    assert best.label == "WBC"
    centre = ((best.box.x_min + best.box.x_max) / 2, (best.box.y_min + best.box.y_max) / 2)
    assert centre == pytest.approx((330 / 640, 245 / 480), abs=0.08)
