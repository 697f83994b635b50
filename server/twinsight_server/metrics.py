"""The server's Prometheus metrics."""

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
from twinsight_server.access.audit import About
from twinsight_server.config import host_and_port

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192)


@dataclass(frozen=True)
class CollectionCounts:
    """How much is stored.

    Attributes:
        in_state: collections by state.
        items: items in all readable collections.
        unserved: collections whose model is not served.
    """

    in_state: Mapping[CollectionState, int]
    items: int
    unserved: int


_WORKED_ON = frozenset({"OK", "DEADLINE_EXCEEDED", "CANCELLED"})
"""Codes of calls whose times are recorded: most other calls are rejected at once, which says nothing about speed."""


class Metrics:
    """The server's metrics, in their own registry so that several servers can share a process."""

    def __init__(self) -> None:
        # They add a series per metric that Prometheus does not use.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self.registry = CollectorRegistry()
        one = self.registry
        ProcessCollector(registry=one)
        Info("twinsight_build", "Version of the server.", registry=one).info({"version": version("twinsight")})
        calls = Counter("twinsight_calls", "Finished calls.", ["method", "code"], registry=one)
        failed = Counter(
            "twinsight_failed",
            "Calls, and messages of streams, that failed as a whole or were rejected.",
            ["reason"],
            registry=one,
        )
        call_seconds = Histogram(
            "twinsight_call_seconds",
            "Time in the server of calls that succeeded, were cancelled or exceeded their deadline.",
            ["method"],
            buckets=_SECONDS,
            registry=one,
        )
        stage_seconds = Histogram(
            "twinsight_stage_seconds",
            "Time per stage of calls and stream messages that succeeded, were cancelled or exceeded their deadline.",
            ["stage"],
            buckets=_SECONDS,
            registry=one,
        )
        messages = Counter(
            "twinsight_messages",
            "Messages of streams that were answered or rejected.",
            ["method", "code"],
            registry=one,
        )
        message_seconds = Histogram(
            "twinsight_message_seconds",
            "Time in the server of messages of streams, from their arrival on, like that of calls.",
            ["method"],
            buckets=_SECONDS,
            registry=one,
        )
        items = Counter("twinsight_items", "Results returned, by outcome.", ["method", "outcome"], registry=one)
        # The library takes longer to look up a labelled child than to count.
        self._calls, self._call_seconds = cache(calls.labels), cache(call_seconds.labels)
        self._messages, self._message_seconds = cache(messages.labels), cache(message_seconds.labels)
        self._stage_seconds, self._items = cache(stage_seconds.labels), cache(items.labels)
        self._failed = cache(failed.labels)
        self._in_flight = Gauge("twinsight_calls_in_flight", "Calls and stream messages being processed.", registry=one)
        self._streams = Gauge("twinsight_open_streams", "Open streams, busy or idle.", registry=one)
        self.refused = Counter("twinsight_refused", "Calls rejected because of load.", ["reason"], registry=one)
        self.queued = Gauge(
            "twinsight_queued_images", "Images being decoded, queued or computed.", ["model"], registry=one
        )
        self.batch_size = Histogram(
            "twinsight_batch_size",
            "Images per computed batch, without health's test image.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=one,
        )
        self.batch_wait = Gauge(
            "twinsight_batch_wait_seconds",
            "How long an image may currently wait for its batch to fill.",
            ["model"],
            registry=one,
        )
        self.dropped = Counter(
            "twinsight_dropped_images",
            "Images dropped before inference because the caller had gone or its deadline had passed.",
            ["model"],
            registry=one,
        )
        self.healthy = Gauge("twinsight_healthy", "1 if the last test inference was correct.", registry=one)
        self._compilations = Gauge(
            "twinsight_compilations_after_serving", "Programs compiled since serving began.", registry=one
        )
        self._http: WSGIServer | None = None

    def ended(
        self, about: About, code: str, reason: str, *, stages: Mapping[str, float], outcomes: Mapping[str, int]
    ) -> None:
        """Counts a call, or a message of a stream; of a whole stream no results and stages: its messages were counted.

        Records times only of what was processed, because quick rejections would distort them.

        Args:
            about: what ended.
            code: the name of its status.
            reason: why it failed; empty if it succeeded.
            stages: seconds of each, and `total`.
            outcomes: number of results by status name.
        """
        method, is_message, is_stream = about.method, about.event == "message", about.event == "stream"
        (self._messages if is_message else self._calls)(method, code).inc()
        if reason:
            self._failed(reason).inc()
        if not is_stream:
            for outcome, count in outcomes.items():
                self._items(method, outcome).inc(count)
        if code not in _WORKED_ON:
            return
        for stage, seconds in stages.items():
            if stage == "total":
                (self._message_seconds if is_message else self._call_seconds)(method).observe(seconds)
            elif not is_stream:
                self._stage_seconds(stage).observe(seconds)

    def watch_calls(self, in_flight: Callable[[], float], streams: Callable[[], float]) -> None:
        """Sets the functions that return the numbers of calls in flight and of open streams, called at each scrape."""
        self._in_flight.set_function(in_flight)
        self._streams.set_function(streams)

    def watch(
        self,
        *,
        compilations: Callable[[], float],
        collections: Callable[[], CollectionCounts],
        certificate_end_s: Callable[[], float] | None = None,
    ) -> None:
        """Sets functions called at each scrape; `certificate_end_s` returns seconds since 1970, None: no TLS."""
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
            StartupError: the address is malformed or in use.
        """
        host, port = host_and_port(listen, setting="metrics_listen")
        try:
            self._http, _ = start_http_server(port, addr=host.strip("[]"), registry=self.registry)
        except (OSError, OverflowError, ValueError) as error:
            raise StartupError(
                f"Can't serve metrics on `{listen}`: {error}.", reason="METRICS_ADDRESS_UNAVAILABLE"
            ) from error
        return f"{host}:{self._http.server_port}"

    def close(self) -> None:
        """Stops the HTTP server, if it runs."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None


class _Collections(Collector):
    """Collects all collection metrics from one count."""

    def __init__(self, count: Callable[[], CollectionCounts]) -> None:
        self._count = count

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return self._families(CollectionCounts({}, items=0, unserved=0))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        return self._families(self._count())

    def _families(self, now: CollectionCounts) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("twinsight_collection_items", "Items in all readable collections.", value=now.items)
        yield GaugeMetricFamily(
            "twinsight_damaged_collections",
            "Collections that can't be read; the others are served.",
            value=now.in_state.get(CollectionState.DAMAGED, 0),
        )
        by_state = GaugeMetricFamily("twinsight_collections", "Collections by state.", labels=["state"])
        for state in CollectionState:
            by_state.add_metric([state], now.in_state.get(state, 0))
        yield by_state
        yield GaugeMetricFamily(
            "twinsight_unserved_collections",
            "Collections whose model is not served; they reject images.",
            value=now.unserved,
        )
