import io

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.training.edits import EDITS, edited_copy


def photograph() -> bytes:
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(encoded: bytes) -> np.ndarray:
    with Pillow.open(io.BytesIO(encoded)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_changes_the_picture_the_same_way_each_time(kind: str) -> None:
    first = edited_copy(photograph(), "cat/1.png", kind=kind)
    assert first == edited_copy(photograph(), "cat/1.png", kind=kind)
    before, after = pixels(photograph()), pixels(first)
    assert before.shape != after.shape or np.abs(before - after).mean() > 0.5


def test_files_are_cropped_in_different_places() -> None:
    assert edited_copy(photograph(), "cat/1.png", kind="crop") != edited_copy(photograph(), "cat/2.png", kind="crop")


def test_edits_do_what_their_names_say() -> None:
    before = pixels(photograph())
    mirrored = pixels(edited_copy(photograph(), "1", kind="mirror"))
    assert np.abs(mirrored - before[:, ::-1]).mean() < 3
    assert pixels(edited_copy(photograph(), "1", kind="turn")).shape == (64, 48, 3)
    grey = pixels(edited_copy(photograph(), "1", kind="grey"))
    assert np.abs(grey[..., 0] - grey[..., 2]).max() <= 2
    cropped = pixels(edited_copy(photograph(), "1", kind="crop"))
    assert 0.55 < cropped[..., 0].size / before[..., 0].size < 0.9
