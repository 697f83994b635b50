"""A load of calls on a server that runs somewhere, and what became of them: the engine of `twinsight bench`.

1. `calls` builds the request messages once, as bytes that are sent again and again.
2. `loop` opens one connection for each call in flight, sends one call to see that it is answered at all, then sends
   until the time is over: in a closed loop, or at the times that `due` fixed beforehand.
3. `connection` sends one call, once, and says what became of it (`outcomes`).
4. `records` keeps the times of every call; `report` makes counts and exact percentiles of them at the end.

It is asyncio on one thread: with 8 to 64 calls in flight at an empty grpcio server that took 75 to 100 microseconds of
CPU a call, threads with a channel each 118 to 138. So the client becomes the bottleneck later.
"""
