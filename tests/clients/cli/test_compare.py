"""`twinsight compare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from twinsight_client.cli.batches import MAX_FILE_BYTES
from twinsight_client.results import Comparison, ModelResults
from twinsight_client.testing import FakeClient

pytestmark = pytest.mark.client

Twinsight = Callable[..., Result]


def test_compare_tells_how_alike_two_pictures_are(twinsight: Twinsight, album: Path) -> None:
    result = twinsight("compare", album / "a.jpg", album / "a.jpg")
    assert result.exit_code == 0
    said = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert {name.strip(): value.strip() for name, value in said.items()} == {
        "cosine similarity": "1.0000",
        "euclidean distance": "0.0000",
        "probability": "100.0%",
        "same": "yes",
        "threshold": "0.5000",
        "false match rate": "0.00%",
        "false non-match rate": "0.00%",
        "model": "fake",
    }
    strict = twinsight("compare", album / "a.jpg", album / "a.jpg", "--target-fmr", "0.05").stdout
    assert [line.split()[-1] for line in strict.splitlines() if line.startswith(("thr", "target"))] == [
        "0.7000",
        "0.01",
    ]
    other = json.loads(twinsight("compare", album / "a.jpg", album / "2024/b.jpg", "--json").stdout)
    assert other["comparison"]["same"] is False
    assert other["model"]["name"] == "fake"


def test_compare_says_that_a_model_has_no_calibration(
    twinsight: Twinsight, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated = FakeClient.compare

    def compare(self: FakeClient, *pairs: Any, **options: Any) -> ModelResults[Comparison]:
        results = calibrated(self, *pairs, **options)
        bare = [Comparison(one.cosine_similarity, one.euclidean_distance) for one in results.values()]
        return ModelResults(bare, model=results.model, call=results.call)

    monkeypatch.setattr(FakeClient, "compare", compare)
    said = twinsight("compare", album / "a.jpg", album / "a.jpg").stdout
    assert "unknown: the model has no calibration (twinsight calibrate)" in said
    assert [line.split("  ")[0] for line in said.splitlines()] == [
        "cosine similarity",
        "euclidean distance",
        "probability",
        "model",
    ]


@pytest.mark.parametrize("left_is_broken", [True, False])
def test_compare_names_the_picture_that_is_bad(twinsight: Twinsight, album: Path, left_is_broken: bool) -> None:
    files = [album / "a.jpg", album / "2024/broken.png"]
    result = twinsight("compare", *(reversed(files) if left_is_broken else files))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {files[1]}: The image is not a whole JPEG, PNG or WebP file. [IMAGE_UNREADABLE]\n"
    )


def test_compare_names_the_picture_that_no_message_carries(twinsight: Twinsight, album: Path) -> None:
    most = MAX_FILE_BYTES // 2
    huge = album / "huge.png"
    with huge.open("wb") as file:
        file.truncate(most + 1)
    result = twinsight("compare", album / "a.jpg", huge)
    assert result.exit_code == 1
    assert (
        result.stderr == f"Error: {huge}: The file ({most + 1} bytes) is larger than {most} bytes. [FILE_TOO_LARGE]\n"
    )
