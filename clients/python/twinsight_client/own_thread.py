"""Plain iterators for asyncio, each consumed in a thread of its own.

The event loop's threads are few and shared: sources that block in them, such as a loop over `queue.get`, would stop
every other call, and one that blocks for ever would keep `asyncio.run` from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def in_own_thread(source: Iterator[T]) -> AsyncIterator[T]:
    """Yields what `source` yields, drawn one by one as it is asked for; raises what it raises.

    The thread sees the caller's context variables. It ends with the iterator; with the program if `source` blocks, or
    if the loop was closed before its `shutdown_asyncgens`, which `asyncio.run` calls.
    """
    loop = asyncio.get_running_loop()
    asked = SimpleQueue[asyncio.Future[tuple[T] | None] | None]()

    def draw() -> None:
        while (answer := asked.get()) is not None:
            drawn, failure = None, None
            try:
                drawn = (next(source),)
            except StopIteration:
                pass
            except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
                failure = error
            try:
                loop.call_soon_threadsafe(_tell, answer, drawn, failure)
            except RuntimeError:  # the loop is closed: nobody awaits it
                return

    Thread(target=copy_context().run, args=(draw,), name="twinsight-source", daemon=True).start()
    try:
        while True:
            answer: asyncio.Future[tuple[T] | None] = loop.create_future()
            asked.put(answer)
            drawn = await answer
            if drawn is None:
                return
            yield drawn[0]
    finally:
        asked.put(None)


def _tell(answer: asyncio.Future[tuple[T] | None], drawn: tuple[T] | None, failure: BaseException | None) -> None:
    if answer.done():  # cancelled
        return
    if failure is None:
        answer.set_result(drawn)
    else:
        answer.set_exception(failure)
