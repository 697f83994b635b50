"""twinsight's main task on real photographs, with a real server and the public client.

1. A server is started in its own process, on a free port, with an empty data folder.
2. Photographs are indexed: originals, and others to distinguish them from.
3. Edited copies of the originals are searched for; each must find its original first.
4. Pairs are compared: a copy and its original must be the same, different pictures must not.
5. A broken picture among good ones must fail alone.

The demo ends with `demo: ok`, or says what was wrong and exits with 1.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edits import EDITS, edited
from photos import MOST_ORIGINALS, own_photos, packaged_photos
from rich.console import Console
from rich.table import Table

from twinsight_client import Client, Comparison, ItemError, Match, NewItem
from twinsight_client.cli.batches import cut
from twinsight_client.cli.sheet import Tile, contact_sheet

COLLECTION = "demo"
EQUAL = 1e-3
"""Pictures with scores this close are the same to the model, for example two copies of one file in a folder."""

out = Console(width=110, highlight=False)


@dataclass(frozen=True)
class Answer:
    """The matches of one edited copy."""

    original: str
    edit: str
    copy: Path
    matches: list[Match]
    took_ms: float

    @property
    def right(self) -> bool:
        """Whether the original came first or tied with the first."""
        scores = {match.id: match.score for match in self.matches}
        return scores.get(self.original, -1.0) >= self.matches[0].score - EQUAL


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Runs `twinsight serve` on a free port; yields its address."""
    twinsight = Path(sys.executable).parent / "twinsight"
    command = [str(twinsight), "serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder), "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("serving on "):
                raise SystemExit("demo: the server did not start; its message is above.")
            yield line.split()[-1]
        finally:
            process.terminate()


def index(client: Client, photos: Mapping[str, Path]) -> list[str]:
    """Indexes the photographs in a new collection; returns the names of those that could be read."""
    client.create_collection(COLLECTION, model=client.get_model().name)
    written: list[str] = []
    names = iter(photos)
    # `ingest` splits the pictures into messages by size: 32 of a camera's exceed the limit of one message.
    for results in client.ingest(COLLECTION, (NewItem(name, path) for name, path in photos.items()), batch_size=32):
        for result in results:
            name = next(names)
            if isinstance(result, ItemError):
                out.print(f"  skipped: {name}: {result.message}")
            else:
                written.append(name)
    return written


def search(client: Client, photos: Mapping[str, Path], originals: list[str], folder: Path) -> list[Answer]:
    """Searches for an edited copy of each original, for each edit."""
    answers = []
    for number, name in enumerate(originals):
        for edit in EDITS:
            copy = folder / f"{number:02d}-{edit.split()[0]}.jpg"
            copy.write_bytes(edited(photos[name].read_bytes(), edit))
            start = time.perf_counter()
            (matches,) = client.search(COLLECTION, [copy], top_k=3).values()
            answers.append(Answer(name, edit, copy, matches, (time.perf_counter() - start) * 1e3))
    return answers


def show_search(answers: list[Answer]) -> None:
    """Prints one line per original: the score of each edit, and the best match that is not the original."""
    table = Table(title="Edited copies, searched for: score of the original (first unless marked ✗)")
    table.add_column("original")
    for edit in EDITS:
        table.add_column(edit, justify="right")
    table.add_column("next best", justify="right")
    for name in dict.fromkeys(answer.original for answer in answers):
        own = [answer for answer in answers if answer.original == name]
        cells = [_score(answer) for answer in own]
        others = [match.score for answer in own for match in answer.matches if match.id != name]
        table.add_row(name, *cells, f"{max(others):.2f}" if others else "-")
    out.print(table)


def _score(answer: Answer) -> str:
    found = next((match for match in answer.matches if match.id == answer.original), None)
    return f"{'' if answer.right else '✗ '}{found.score:.2f}" if found else "✗"


def compare(client: Client, photos: Mapping[str, Path], answers: list[Answer]) -> list[str]:
    """Compares copies with their originals and originals with each other; returns the wrong decisions."""
    originals = list(dict.fromkeys(answer.original for answer in answers))
    gentle = [answer for answer in answers if answer.edit.startswith("JPEG")]
    like = [(answer.original, "copy", photos[answer.original], answer.copy) for answer in gentle]
    unlike = [
        (one, other, photos[one], photos[other])
        for one, other in zip(originals, originals[1:] + originals[:1], strict=True)
        if one != other
    ]
    pairs = [(left, right) for _, _, left, right in like + unlike]
    batches = cut(pairs, size_of=lambda pair: sum(file.stat().st_size for file in pair), most=16)
    comparisons = [one for batch in batches for one in client.compare(batch).values()]
    table = Table(title="Pairs, compared")
    for title in ("left", "right", "cosine", "distance", "probability", "same"):
        table.add_column(title, justify="left" if title in {"left", "right"} else "right")
    wrong = []
    for number, ((left, right, _, _), one) in enumerate(zip(like + unlike, comparisons, strict=True)):
        table.add_row(left, right, *_numbers(one))
        if one.same is not (number < len(like)):
            wrong.append(f"{left} and {right} were judged {'the same' if one.same else 'different'}")
    out.print(table)
    return wrong


def _numbers(one: Comparison) -> tuple[str, str, str, str]:
    probability = "-" if one.probability is None else f"{one.probability:.3f}"
    return f"{one.cosine_similarity:.3f}", f"{one.euclidean_distance:.3f}", probability, "yes" if one.same else "no"


def embed_with_a_broken_one(client: Client, photos: Mapping[str, Path], originals: list[str]) -> list[str]:
    """Embeds three pictures, the middle one truncated; returns what was wrong."""
    whole = photos[originals[0]].read_bytes()
    results = client.embed([whole, whole[: len(whole) // 2], whole])
    kinds = [result.code if isinstance(result, ItemError) else "OK" for result in results]
    for result in results.errors():
        out.print(f"A truncated picture between two good ones: {result.code} {result.reason} at {result.field}.")
    return [] if kinds == ["OK", "INVALID_ARGUMENT", "OK"] else [f"a broken picture gave {kinds}"]


def write_sheet(path: Path, answers: list[Answer], photos: Mapping[str, Path]) -> None:
    """Writes a contact sheet: for each original, the hardest of its copies and its matches."""
    tiles = []
    for name in dict.fromkeys(answer.original for answer in answers):
        hardest = min((a for a in answers if a.original == name), key=lambda a: a.matches[0].score)
        tiles.append(Tile(hardest.copy, (f"{name}: {hardest.edit}",), is_query=True))
        tiles += [
            Tile(photos[match.id], (match.id, f"score {match.score:.3f}", f"probability {match.probability or 0:.3f}"))
            for match in hardest.matches
        ]
    contact_sheet(tiles, columns=4).save(path)


def run(photos: Mapping[str, Path], folder: Path) -> list[str]:
    """Runs all steps; returns what went wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as data, server(Path(data)) as address, Client(address) as client:
        out.print(f"Server on {address}, serving after {time.perf_counter() - start:.1f} s.")
        model = client.get_model()
        out.print(
            f"Model `{model.name}`: {model.dimension} components, input {model.input_height}x{model.input_width}."
        )
        start = time.perf_counter()
        written = index(client, photos)
        took = time.perf_counter() - start
        out.print(f"Indexed {len(written)} pictures in {took:.1f} s ({len(written) / took:.0f} per second).")
        originals = written[:MOST_ORIGINALS]
        if len(originals) < 2:
            return ["the demo needs at least two pictures that can be read"]
        answers = search(client, photos, originals, folder)
        show_search(answers)
        times = [answer.took_ms for answer in answers]
        median, slowest = statistics.median(times), max(times)
        out.print(f"{len(answers)} searches by picture: median {median:.1f} ms, slowest {slowest:.1f} ms.")
        wrong = [f"{a.original} ({a.edit}) found {a.matches[0].id} first" for a in answers if not a.right]
        wrong += compare(client, photos, answers)
        wrong += embed_with_a_broken_one(client, photos, originals)
        write_sheet(folder / "sheet.png", answers, photos)
        out.print(f"Contact sheet: {folder / 'sheet.png'}")
    return wrong


def main() -> int:
    """Runs the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of pictures; default: those of installed packages")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for the copies and the sheet")
    options = parser.parse_args()
    if options.photos and not options.photos.is_dir():
        parser.error(f"{options.photos} is not a folder.")
    wrong = run(own_photos(options.photos) if options.photos else packaged_photos(), options.out)
    for one in wrong:
        out.print(f"demo: wrong: {one}")
    out.print("demo: failed" if wrong else "demo: ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
