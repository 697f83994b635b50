"""Files sealed piece by piece, with their plain contents only in memory.

The graph's library reads and writes paths. It gets the path of a file in memory (`memory_files`), so that nothing plain
touches a disk. That takes as much memory as the content, for as long as writing or reading takes.

A sealed file consists of sealed pieces of 4 MiB, one after another. The associated data of each has its number and
the number of pieces, so that a file that was truncated, or whose pieces were swapped, can't be opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinsight_core.errors import DataLoss
from twinsight_core.host.memory_files import memory_file
from twinsight_core.sealing.cipher import OVERHEAD, Cipher

PIECE = 4 << 20


@contextmanager
def sealed_file(file: Path, cipher: Cipher, place: bytes) -> Iterator[Path]:
    """Yields a path in memory to write to, and seals its content into a new file when the block ends.

    Raises:
        OSError: the file can't be written.
    """
    with memory_file() as (plain, path):
        yield path
        count = _pieces(path.stat().st_size, PIECE)
        with file.open("wb") as out:
            for number in range(count):
                out.write(cipher.sealed(plain.read(PIECE), _place(place, number, count)))


@contextmanager
def opened_file(file: Path, cipher: Cipher, place: bytes) -> Iterator[Path]:
    """Yields a path in memory with the content of a sealed file.

    Raises:
        DataLoss: the file is not what was sealed for this place.
        OSError: it can't be read.
    """
    with file.open("rb") as sealed, memory_file() as (plain, path):
        count = _pieces(file.stat().st_size, PIECE + OVERHEAD)
        for number in range(count):
            content = cipher.opened(sealed.read(PIECE + OVERHEAD), _place(place, number, count))
            if content is None:
                raise DataLoss(f"`{file.name}` is not what was sealed there.", reason="COLLECTION_DAMAGED")
            plain.write(content)
        plain.flush()
        yield path


def _pieces(size: int, piece: int) -> int:
    return max(1, -(-size // piece))


def _place(place: bytes, number: int, count: int) -> bytes:
    return b"piece %d of %d " % (number, count) + place
