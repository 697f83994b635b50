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
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

from PIL import Image
from voting import Found, Sighting, agreed

from twinsight_client import AlreadyExists, Client, ImageInput, NewItem, field

BATCH = 32
SIDE_PX = 512
"""More than models look at, and a twelfth of the pixels of a film frame."""


class Unreadable(Exception):
    """A file is no video, or a damaged one."""


def frames(file: Path, *, every_s: float) -> Iterator[tuple[float, Image.Image]]:
    """Yields frames of a video, about `every_s` seconds apart, upright, with their times in seconds from its beginning.

    Raises:
        Unreadable: it is no video, or is damaged from some place on.
    """
    av: Any = importlib.import_module("av")
    first_s, due_s = None, 0.0
    try:
        with av.open(str(file)) as video:
            if not video.streams.video:
                raise Unreadable(f"{file}: it has no pictures.")
            for frame in video.decode(video=0):
                if frame.time is None:
                    continue
                first_s = frame.time if first_s is None else first_s  # a recording may begin at any time
                time_s = frame.time - first_s
                if time_s >= due_s:
                    image: Image.Image = frame.to_image()
                    image.thumbnail((SIDE_PX, SIDE_PX))
                    yield time_s, image.rotate(frame.rotation, expand=True)  # phones write frames as the sensor lies
                    due_s = time_s + every_s
    except av.FFmpegError as error:
        raise Unreadable(f"{file}: {error}") from error


def name_of(file: Path) -> str:
    """Returns the name that a film's frames have; raises Unreadable if it is not Unicode, and so can't be stored."""
    name = str(file.resolve())
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise Unreadable(f"{str(file)!a}: its name is not Unicode.") from error
    return name


def index(client: Client, collection: str, film: str, shown: Iterable[tuple[float, Image.Image]]) -> int:
    """Writes the frames of a film to a collection, in place of those that it had; returns their number."""
    left = iter(shown)
    first = list(islice(left, 1))  # a film that can't be read keeps the frames that it had
    client.delete_items(collection, where=field("film") == film)
    name = hashlib.sha256(film.encode()).hexdigest()[:16]  # paths may be longer than ids
    items = (
        NewItem(f"{name}@{time_s:.4f}", image, {"film": film, "time_s": time_s}) for time_s, image in chain(first, left)
    )
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
                Sighting(str(match.metadata["film"]), float(str(match.metadata["time_s"])), time_s, match.probability)
                for match in matches
                # The model's own probability that two pictures have the same original; a vote needs no certainty.
                if match.probability is not None and match.probability >= 0.5
            ]
    return agreed(sightings, frames=len(times))


def main() -> int:
    """Runs the command line; returns the exit status: 1 if a file can't be read, the others are processed."""
    parser = argparse.ArgumentParser(description="Find the films that a clip was taken from.")
    parser.add_argument("command", choices=["index", "find"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--target", default="127.0.0.1:50051", help="HOST:PORT of the server")
    parser.add_argument("--collection", default="films")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two frames, 0: all")
    chosen = parser.parse_args()
    if not 0 <= chosen.every < float("inf"):
        parser.error(f"argument --every: {chosen.every} must be a number of seconds, at least 0.")
    status = 0
    with Client(chosen.target) as client:
        if chosen.command == "index":
            with suppress(AlreadyExists):
                client.create_collection(chosen.collection, model="base")
        for file in chosen.files:
            shown = frames(file, every_s=chosen.every)
            try:
                film = name_of(file)
                if chosen.command == "index":
                    print(f"{file}: {index(client, chosen.collection, film, shown)} frames")
                    continue
                for one in find(client, chosen.collection, shown):
                    print(f"{file}: {one.film} from {one.start_s:.0f} s, {one.agreeing} of {one.frames} frames")
            except Unreadable as error:
                print(error, file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
