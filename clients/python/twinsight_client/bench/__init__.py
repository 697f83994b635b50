"""A load generator for a running server, and its report: the engine of `twinsight bench`.

1. `calls` builds the request messages once, as bytes that are sent again and again.
2. `loop` opens one connection per call in flight, sends one call to check that it is answered at all, then sends until
   the time is over: in a closed loop, or at the times that `due` fixed in advance.
3. `connection` sends one call, once, and returns its outcome (`outcomes`).
4. `records` keeps the times of every call; `report` turns them into counts and exact percentiles at the end.

It runs asyncio on one thread. With 8 to 64 calls in flight to an empty grpcio server, that took 75 to 100 microseconds
of CPU per call; threads with one channel each took 118 to 138. So the client becomes the bottleneck later.
"""
