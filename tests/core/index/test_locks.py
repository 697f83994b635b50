import threading
from collections.abc import Callable
from functools import partial

from twinsight_core.index.locks import ReadWriteLock

WAIT_S = 20.0


def _thread(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def _waiting(lock: ReadWriteLock, *, writers: int, readers: int) -> None:
    """Returns once so many wait for the lock."""
    with lock._changed:
        while lock._waiting_writers < writers or lock._waiting_readers < readers:
            lock._changed.wait(0.01)


def test_readers_hold_it_together() -> None:
    lock = ReadWriteLock()
    together = threading.Barrier(3, timeout=WAIT_S)

    def read() -> None:
        with lock.read():
            together.wait()

    threads = [_thread(read) for _ in range(3)]
    for thread in threads:
        thread.join(WAIT_S)
    assert not together.broken


def test_a_writer_holds_it_alone() -> None:
    lock = ReadWriteLock()
    inside: list[str] = []
    peak: list[int] = []

    def change(name: str) -> None:
        for _ in range(300):
            with lock.write():
                inside.append(name)
                peak.append(len(inside))
                inside.remove(name)

    def look() -> None:
        for _ in range(300):
            with lock.read():
                peak.append(1 + len(inside))

    threads = [_thread(partial(change, name)) for name in "ab"] + [_thread(look) for _ in range(2)]
    for thread in threads:
        thread.join(WAIT_S)
    assert len(peak) == 1200
    assert max(peak) == 1


def test_a_waiting_writer_goes_before_later_readers_and_they_before_the_next_writer() -> None:
    lock = ReadWriteLock()
    order: list[str] = []

    def write(name: str) -> None:
        with lock.write():
            order.append(name)

    def read() -> None:
        with lock.read():
            order.append("reader")

    lock.acquire_read()
    first = _thread(lambda: write("first writer"))
    _waiting(lock, writers=1, readers=0)
    reader = _thread(read)
    _waiting(lock, writers=1, readers=1)
    assert order == []
    lock.release_read()
    for thread in (first, reader):
        thread.join(WAIT_S)
    assert order == ["first writer", "reader"]

    order.clear()
    lock.acquire_write()
    reader, second = _thread(read), _thread(lambda: write("second writer"))
    _waiting(lock, writers=1, readers=1)
    lock.release_write()
    for thread in (reader, second):
        thread.join(WAIT_S)
    assert order == ["reader", "second writer"]


def test_an_error_inside_gives_the_lock_back() -> None:
    lock = ReadWriteLock()
    for hold in (lock.read, lock.write):
        try:
            with hold():
                raise KeyError
        except KeyError:
            pass
    with lock.write():
        pass
