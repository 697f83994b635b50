"""A peer as the run handles it: prepared with its best settings, then measured in turns with the others."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import summary
from benchmarks.peers.environments import python_of
from benchmarks.peers.orders import Do, Order, Setting, Settings
from benchmarks.peers.processes import PeerFailed, Worker, ask_all, end_orphans

STARTED_WITHIN_S = 240.0
ENOUGH_BETTER = 1.03
"""How much faster settings must be than those listed before them to be taken: speeds vary by more from turn to turn."""
WARM_UP_S = 0.5
SHAPE = ("processes", "threads")
"""Settings of a client that say how many processes call, and with how many threads each."""


def spread(callers: int, *, most: int = 4) -> list[Settings]:
    """Returns the ways to have `callers` calls in flight from 1, 2, ... `most` processes."""
    shapes = [2**n for n in range(most.bit_length())]
    return [{"processes": processes, "threads": callers // processes} for processes in shapes]


@dataclass(frozen=True)
class Peer:
    """What is measured, and how.

    Attributes:
        name: in the results.
        what: said of it in the results.
        client: module of its subject.
        server: module of its server; empty: it runs in the client's process.
        environment: of both; empty: the project's.
        servers: settings of the server to choose from.
        clients: settings of the client to choose from, the shape among them.
        measures: "times": one call after another; "load": `clients` at once; "batches": many queries in one call.
        packages: whose versions are recorded.
        polls: whether the server works while it waits: it is paused while others are measured.
    """

    name: str
    what: str
    client: str
    server: str = ""
    environment: str = ""
    servers: Sequence[Settings] = ({},)
    clients: Sequence[Settings] = ({},)
    measures: tuple[Do, ...] = ("times", "load")
    packages: tuple[str, ...] = ()
    polls: bool = False


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        runs: figures are medians over so many.
        turns: of each peer in a run, for calls one after another.
        calls: one after another in a turn.
        load_turns: of each peer in a run, under load.
        load_s: seconds of such a turn.
        choose_s: seconds for which each setting is tried.
        batch_size: queries in one call.
    """

    runs: int = 5
    turns: int = 4
    calls: int = 50
    load_turns: int = 2
    load_s: float = 2.0
    choose_s: float = 2.0
    batch_size: int = 64


@dataclass
class Stand:
    """A peer while it is measured.

    Attributes:
        peer: what it is.
        common: settings that every peer gets: where pictures, network and vectors lie.
        folder: its own.
        failed: why it could not be measured; empty: it could.
        runs: the figures of each run.
        facts: versions, and what server, store and subject told.
        chosen: the settings that it is measured with.
        tried: what was tried, with the calls a second.
    """

    peer: Peer
    common: Settings
    folder: Path
    failed: str = ""
    runs: list[dict[str, float]] = field(default_factory=list)
    facts: Settings = field(default_factory=dict)
    chosen: dict[str, Settings] = field(default_factory=dict)
    tried: list[dict[str, Setting]] = field(default_factory=list)
    tuned: Settings = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _server_stack: ExitStack = field(default_factory=ExitStack)
    _loaders: list[Worker] = field(default_factory=list)
    _address: Settings = field(default_factory=dict)
    _times: dict[Do, list[float]] = field(default_factory=dict)
    _count: int = 0
    _loaded_s: float = 0.0

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Records a failure of what is done within, and ends the peer's processes."""
        try:
            yield
        except PeerFailed as error:
            self.failed = str(error)
            print(f"  {self.peer.name} failed: {self.failed}", flush=True)
            self.close()

    def close(self) -> None:
        """Ends the peer's processes; safe to call again."""
        self._loaders.clear()
        self._stack.close()
        self._server_stack.close()
        end_orphans()

    def start(self) -> None:
        """Starts the process of the calls one after another, and asks for versions."""
        self.folder.mkdir(parents=True)
        self._python = python_of(self.peer.environment)
        self._caller = self._worker(self.peer.client, self._stack)
        packages: Settings = dict.fromkeys(self.peer.packages, "")
        self.facts |= self._caller.ask(Order("versions", settings=packages)).facts

    def serve(self, settings: Settings) -> None:
        """Starts the server, in place of one that runs."""
        self._server_stack.close()
        self.chosen["server"] = settings
        if self.peer.server:
            worker = self._server = self._worker(self.peer.server, self._server_stack)
            order = Order("serve", settings=self._with(settings))
            self._address = worker.ask(order, timeout_s=STARTED_WITHIN_S).facts

    def fill(self, settings: Settings, *, timeout_s: float) -> None:
        """Puts the vectors into the server."""
        order = Order("fill", settings=self._with({**settings, "timeout_s": timeout_s}))
        self.facts |= self._caller.ask(order, timeout_s=timeout_s + 60).facts

    def values(self, settings: Settings, count: int) -> list[list[float]]:
        """Returns the vector or the ids of each of `count` calls."""
        with self._awake():
            self._open_caller(settings)
            return self._caller.ask(Order("values", count=count), timeout_s=600).values

    def choose(self, plan: Plan, tune: Callable[[Stand], None] | None = None) -> None:
        """Starts the peer with the settings under which it answers most calls a second, and opens its clients.

        Args:
            plan: says for how long each is tried.
            tune: fills the server that was started and sets `tuned`; only for a peer with one setting of its server.
        """
        best = 0.0
        chosen: tuple[Settings, Settings] | None = None
        only = len(self.peer.servers) == 1
        for server in self.peer.servers:
            self.serve(server)
            if tune is not None:
                tune(self)
            for client in self.peer.clients:
                rate = self._rate(client, plan) if "load" in self.peer.measures else 0.0
                self.tried.append({**server, **client, "per_s": round(rate, 1)})
                if chosen is None or rate > best * ENOUGH_BETTER:
                    best, chosen = rate, (server, client)
        if chosen is None:
            raise PeerFailed("There is no setting to choose from.")
        server, client = chosen
        if not only:
            self.serve(server)
        self.chosen["client"] = client
        if "load" in self.peer.measures:
            self._open_load(client)
        self._choose_caller(plan)
        if self.peer.polls:
            self._server.pause()

    def turn(self, do: Do, plan: Plan) -> None:
        """Measures for one turn."""
        with self._awake():
            self._turn(do, plan)
        time.sleep(0.05)  # a thread pool that waits actively calms down before it is the next one's turn

    def _turn(self, do: Do, plan: Plan) -> None:
        if do == "load":
            order = Order("load", at=time.monotonic() + WARM_UP_S, seconds=plan.load_s)
            for answer in ask_all(self._loaders, order, timeout_s=plan.load_s + 60):
                self._count += answer.count
                self._times.setdefault("load", []).extend(answer.times_ms)
            self._loaded_s += plan.load_s
        else:
            order = Order(do, count=plan.calls, warm_up=3, size=plan.batch_size)
            self._times.setdefault(do, []).extend(self._caller.ask(order).times_ms)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Lets a server that is paused work meanwhile."""
        if not self.peer.polls:
            yield
            return
        self._server.resume()
        try:
            yield
        finally:
            self._server.pause()

    def end_run(self, plan: Plan) -> None:
        """Makes figures of the turns since the last run's."""
        run: dict[str, float] = {}
        for do, times in self._times.items():
            if times:
                prefix = {"times": "", "load": "load_", "batches": "batch_"}[do]
                run |= {f"{prefix}{name}_ms": value for name, value in summary(times).items() if name != "p95"}
        if self._loaded_s:
            run["per_s"] = round(self._count / self._loaded_s, 1)
        if "batches" in self._times:
            run["batch_per_s"] = round(plan.batch_size / run["batch_p50_ms"] * 1e3, 1)
        self.runs.append(run)
        self._times.clear()
        self._count, self._loaded_s = 0, 0.0

    def result(self) -> dict[str, object]:
        """Returns what is recorded of the peer."""
        found: dict[str, object] = {"what": self.peer.what, "facts": self.facts, "settings": self.chosen}
        if self.failed:
            found["failed"] = self.failed
        if len(self.tried) > 1:
            found["tried"] = self.tried
        if self.runs:
            median = {name: round(statistics.median(run[name] for run in self.runs), 3) for name in self.runs[0]}
            found |= {"runs": self.runs, "median": median}
        return found

    def _with(self, settings: Settings) -> Settings:
        return {**self.common, "folder": str(self.folder), **self._address, **self.tuned, **settings}

    def _worker(self, module: str, stack: ExitStack) -> Worker:
        return stack.enter_context(Worker(self._python, f"benchmarks.peers.{module}", self.folder / f"{module}.log"))

    def _open_load(self, client: Settings) -> None:
        processes = int(client.get("processes", 1))
        while len(self._loaders) < processes:
            self._loaders.append(self._worker(self.peer.client, self._stack))
        while len(self._loaders) > processes:
            self._loaders.pop().close()
        order = Order("open", settings=self._with(client), count=int(client.get("threads", 1)))
        ask_all(self._loaders, order, timeout_s=STARTED_WITHIN_S)

    def _rate(self, client: Settings, plan: Plan) -> float:
        self._open_load(client)
        order = Order("load", at=time.monotonic() + WARM_UP_S, seconds=plan.choose_s)
        answers = ask_all(self._loaders, order, timeout_s=plan.choose_s + 60)
        return sum(answer.count for answer in answers) / plan.choose_s

    def _choose_caller(self, plan: Plan) -> None:
        """Opens the client of the calls one after another, with the settings under which one is fastest."""
        callers: list[Settings] = []
        for client in self.peer.clients:
            caller = {name: value for name, value in client.items() if name not in SHAPE}
            if caller not in callers:
                callers.append(caller)
        if "times" not in self.peer.measures:
            return
        best, chosen = 0.0, callers[0]
        for caller in callers if len(callers) > 1 else ():
            self._open_caller(caller)
            order = Order("times", count=plan.calls, warm_up=plan.calls // 2)
            median = statistics.median(self._caller.ask(order).times_ms)
            if not best or median < best:
                best, chosen = median, caller
        self._open_caller(chosen)
        self.chosen["caller"] = chosen

    def _open_caller(self, settings: Settings) -> None:
        order = Order("open", settings=self._with(settings), count=1)
        self.facts |= self._caller.ask(order, timeout_s=STARTED_WITHIN_S).facts
