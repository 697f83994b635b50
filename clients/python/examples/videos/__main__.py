"""Finds which films a clip comes from, and at what time: a search by frames, then a vote.

    pip install av
    python clients/python/examples/videos index film.mp4 other.mp4
    python clients/python/examples/videos find clip.mp4

1. `index` writes one frame per second of each film to a collection, with the film and the time as fields.
2. `find` searches for the frames of a clip. A single frame says little: many look alike, most of all within a film.
3. So each match votes for a film and a time at which the clip would begin in it. The frames of the right film agree.

PyAV (`av`) reads the files: https://pyav.basswood-io.com. twinsight does not depend on it: it takes only pictures.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from voting import Found, Sighting, agreed

from twinsight_client import AlreadyExists, Client, ImageInput, NewItem

BATCH = 32
SIDE_PX = 512
"""More than models look at, and a twelfth of the pixels of a film frame."""


def frames(file: Path, *, every_s: float) -> Iterator[tuple[float, Image.Image]]:
    """Yields frames of a video, about `every_s` seconds apart, with their times in seconds."""
    av: Any = importlib.import_module("av")
    due_s = 0.0
    with av.open(str(file)) as video:
        for frame in video.decode(video=0):
            if frame.time is not None and frame.time >= due_s:
                image: Image.Image = frame.to_image()
                image.thumbnail((SIDE_PX, SIDE_PX))
                yield frame.time, image
                due_s = frame.time + every_s


def index(client: Client, collection: str, film: str, shown: Iterable[tuple[float, Image.Image]]) -> int:
    """Writes the frames of a film to a collection; returns their number."""
    items = (NewItem(f"{film}@{time_s:.2f}", image, {"film": film, "time_s": time_s}) for time_s, image in shown)
    return sum(len(batch.values()) for batch in client.ingest(collection, items))


def find(client: Client, collection: str, shown: Iterable[tuple[float, Image.Image]]) -> list[Found]:
    """Returns the films that a clip's frames agree on, most frames first."""
    times: list[float] = []
    sightings: list[Sighting] = []
    left = iter(shown)
    while batch := list(islice(left, BATCH)):
        times += [time_s for time_s, _ in batch]
        found = client.search(collection, [ImageInput(image) for _, image in batch], top_k=20).values()
        for (time_s, _), matches in zip(batch, found, strict=True):
            sightings += [
                Sighting(str(match.metadata["film"]), float(str(match.metadata["time_s"])), time_s)
                for match in matches
                # The model's own probability that two pictures have the same original; a vote needs no certainty.
                if (match.probability or 0.0) >= 0.5
            ]
    return agreed(sightings, frames=len(times))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Find the films that a clip was taken from.")
    parser.add_argument("command", choices=["index", "find"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--target", default="127.0.0.1:50051", help="HOST:PORT of the server")
    parser.add_argument("--collection", default="films")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two frames")
    chosen = parser.parse_args()
    with Client(chosen.target) as client:
        if chosen.command == "index":
            with suppress(AlreadyExists):
                client.create_collection(chosen.collection, model="base")
        for file in chosen.files:
            shown = frames(file, every_s=chosen.every)
            if chosen.command == "index":
                print(f"{file}: {index(client, chosen.collection, file.name, shown)} frames")
                continue
            for one in find(client, chosen.collection, shown):
                print(f"{file}: {one.film} from {one.start_s:.0f} s, {one.agreeing} of {one.frames} frames")


if __name__ == "__main__":
    main()
