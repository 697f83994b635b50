"""The demo's own code, against a server in memory."""

from __future__ import annotations

import io
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.message import Message
from PIL import Image

from twinsight_client import streams
from twinsight_client.cli import batches
from twinsight_client.testing import FakeClient

pytestmark = pytest.mark.client

DEMO = Path(__file__).parents[2] / "clients/python/examples/demo"
MOST_BYTES = 6_000
"""What three of the pictures do not fit."""


def test_whole_pictures_are_sent_in_messages_that_are_not_too_large(
    picture: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(DEMO))
    demo = runpy.run_path(str(DEMO / "__main__.py"))
    for module in (streams, batches):
        monkeypatch.setattr(module, "BATCH_BYTES", MOST_BYTES)
    photos = {f"{number}.jpg": tmp_path / f"{number}.jpg" for number in range(8)}
    for number, path in enumerate(photos.values()):
        path.write_bytes(b"not a picture" if number == 3 else picture(number).ljust(2_500, b"\0"))
    client = FakeClient()
    answer, sizes = client.server.answer, []

    def weigh(request: Message) -> Message:
        sizes.append(request.ByteSize())
        return answer(request)

    monkeypatch.setattr(client.server, "answer", weigh)
    assert demo["index"](client, photos) == [name for name in photos if name != "3.jpg"]
    answers = demo["search"](client, photos, ["0.jpg", "1.jpg", "2.jpg"], tmp_path)
    demo["compare"](client, photos, answers)
    assert 2_500 < max(sizes) < MOST_BYTES + 500


def test_copies_of_a_sideways_phone_photo_are_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DEMO))
    edited = runpy.run_path(str(DEMO / "edits.py"))["edited"]
    turned = Image.Exif()
    turned[0x0112] = 6
    encoded = io.BytesIO()
    Image.new("RGB", (60, 40)).save(encoded, "JPEG", exif=turned)
    with Image.open(io.BytesIO(edited(encoded.getvalue(), "blur"))) as copy:
        assert copy.size == (40, 60)
