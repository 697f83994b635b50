"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from twinsight_core.errors import StartupError
from twinsight_core.items import CollectionState

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192)


@dataclass(frozen=True)
class CollectionCounts:
    """How much is stored.

    Attributes:
        in_state: collections by state.
        items: items in all collections that can be read.
        unserved: collections whose model is not served.
    """

    in_state: Mapping[CollectionState, int]
    items: int
    unserved: int


_WORKED_ON = frozenset({"OK", "DEADLINE_EXCEEDED", "CANCELLED"})
"""Codes of calls whose time tells how fast the server is: of others, most are refused at once."""


class Metrics:
    """The server's instruments in a registry of their own, so that several servers fit in one process."""

    def __init__(self) -> None:
        # They are a series more for each, of which Prometheus makes nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self.registry = CollectorRegistry()
        one = self.registry
        ProcessCollector(registry=one)
        Info("twinsight_build", "The release that serves.", registry=one).info({"version": version("twinsight")})
        calls = Counter("twinsight_calls", "Calls that ended.", ["method", "code"], registry=one)
        failed = Counter("twinsight_failed", "Calls that failed as a whole, refused or not.", ["reason"], registry=one)
        call_seconds = Histogram(
            "twinsight_call_seconds",
            "Time in the server of a call that was answered, or given up by its caller.",
            ["method"],
            buckets=_SECONDS,
            registry=one,
        )
        stage_seconds = Histogram(
            "twinsight_stage_seconds",
            "Time of a stage of a call that was answered, or given up by its caller.",
            ["stage"],
            buckets=_SECONDS,
            registry=one,
        )
        items = Counter("twinsight_items", "Items answered, by outcome.", ["method", "outcome"], registry=one)
        # The library takes longer to find the one of some labels than to count.
        self._calls, self._call_seconds = cache(calls.labels), cache(call_seconds.labels)
        self._stage_seconds, self._items = cache(stage_seconds.labels), cache(items.labels)
        self._failed = cache(failed.labels)
        self._in_flight = Gauge("twinsight_calls_in_flight", "Calls and messages of streams in work.", registry=one)
        self._streams = Gauge("twinsight_open_streams", "Streams that are open, in work or not.", registry=one)
        self.refused = Counter("twinsight_refused", "Calls refused for load.", ["reason"], registry=one)
        self.queued = Gauge("twinsight_queued_images", "Pictures that calls have in work.", ["model"], registry=one)
        self.batch_size = Histogram(
            "twinsight_batch_size",
            "Pictures in a computed batch; health's test picture is left out.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=one,
        )
        self.batch_wait = Gauge(
            "twinsight_batch_wait_seconds",
            "Longest wait of a picture for others to fill its batch, as it is now.",
            ["model"],
            registry=one,
        )
        self.dropped = Counter(
            "twinsight_dropped_images",
            "Pictures dropped before compute: their caller was gone.",
            ["model"],
            registry=one,
        )
        self.healthy = Gauge("twinsight_healthy", "1 while the last test inference was right.", registry=one)
        self._compilations = Gauge(
            "twinsight_compilations_after_serving", "Programs compiled since the server began to serve.", registry=one
        )
        self._http: WSGIServer | None = None

    def ended(
        self, method: str, code: str, reason: str, *, stages: Mapping[str, float], outcomes: Mapping[str, int]
    ) -> None:
        """Counts a call; times are of those that were worked on: refusals take none, and would hide how long it takes.

        Args:
            method: its name.
            code: the name of its status.
            reason: why it failed; empty where it was answered.
            stages: seconds of each, and `total`.
            outcomes: how many items were answered with what.
        """
        self._calls(method, code).inc()
        for outcome, count in outcomes.items():
            self._items(method, outcome).inc(count)
        if reason:
            self._failed(reason).inc()
        if code not in _WORKED_ON:
            return
        for stage, seconds in stages.items():
            (self._call_seconds(method) if stage == "total" else self._stage_seconds(stage)).observe(seconds)

    def watch_calls(self, in_flight: Callable[[], float], streams: Callable[[], float]) -> None:
        """Reads how many calls are in work, and streams open, when the metrics are asked for."""
        self._in_flight.set_function(in_flight)
        self._streams.set_function(streams)

    def watch(
        self,
        *,
        compilations: Callable[[], float],
        collections: Callable[[], CollectionCounts],
        certificate_end_s: Callable[[], float] | None = None,
    ) -> None:
        """Reads these when the metrics are asked for; `certificate_end_s` is since 1970, and None without TLS."""
        self._compilations.set_function(compilations)
        if certificate_end_s is not None:
            Gauge(
                "twinsight_certificate_not_after_seconds",
                "When the TLS certificate expires, in seconds since 1970.",
                registry=self.registry,
            ).set_function(certificate_end_s)
        self.registry.register(_Collections(collections))

    def serve(self, listen: str) -> str:
        """Serves the metrics over HTTP in a thread.

        Args:
            listen: HOST:PORT.

        Returns:
            HOST:PORT as bound.

        Raises:
            StartupError: the address is malformed or taken.
        """
        host, _, port = listen.rpartition(":")
        if not host:
            raise StartupError(f"`metrics_listen` (={listen}) must be HOST:PORT.", reason="CONFIG_INVALID")
        try:
            self._http, _ = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        except (OSError, OverflowError, ValueError) as error:
            raise StartupError(
                f"Can't serve metrics on `{listen}`: {error}.", reason="METRICS_ADDRESS_UNAVAILABLE"
            ) from error
        return f"{host}:{self._http.server_port}"

    def close(self) -> None:
        """Stops the HTTP server, if there is one."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None


class _Collections(Collector):
    """Tells of the collections, counted once."""

    def __init__(self, count: Callable[[], CollectionCounts]) -> None:
        self._count = count

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return self._told(CollectionCounts({}, items=0, unserved=0))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return self._told(self._count())

    def _told(self, now: CollectionCounts) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "twinsight_collection_items", "Items in all collections that can be read.", value=now.items
        )
        yield GaugeMetricFamily(
            "twinsight_damaged_collections",
            "Collections that can't be read; the others serve.",
            value=now.in_state.get(CollectionState.DAMAGED, 0),
        )
        by_state = GaugeMetricFamily("twinsight_collections", "Collections by state.", labels=["state"])
        for state in CollectionState:
            by_state.add_metric([state], now.in_state.get(state, 0))
        yield by_state
        yield GaugeMetricFamily(
            "twinsight_unserved_collections", "Collections whose model is not served: no pictures.", value=now.unserved
        )
