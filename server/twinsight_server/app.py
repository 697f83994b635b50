"""Builds a server from its settings, warms it up, serves and drains.

1. `Server(config)` reads the model packages and the keys, locks the data folder and binds the port.
2. `start` answers health (NOT_SERVING) and rejects calls while it opens the collections, compiles the models and runs a
   test image through each. Then it accepts calls, and health says SERVING. From here on nothing compiles.
3. `stop` turns health off, rejects new calls a moment later, gives those in flight `drain_s`, and closes the
   collections.

The first two raise StartupError before any call is accepted.
"""

from __future__ import annotations

import gc
import math
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from twinsight.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from twinsight_core.collections.catalog import Catalog, Refused
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import StartupError
from twinsight_core.executors.kept_files import forget_unused
from twinsight_core.host.allocation import give_back_freed, no_garbage_collection
from twinsight_core.host.compilation import CompilationCounter, keep_compiled_code
from twinsight_core.host.cores import keeping_to, one_core, usable_cores
from twinsight_core.host.open_files import limit, open_files, raise_limit
from twinsight_core.items import CollectionSpec, CollectionState
from twinsight_core.sealing.keyring import read_keyring
from twinsight_server.access.control import AccessControl
from twinsight_server.access.tls import Certificates
from twinsight_server.calls.door import Door
from twinsight_server.calls.gate import Gate
from twinsight_server.calls.malformed import MalformedMessages
from twinsight_server.calls.shedding import LoadShedding
from twinsight_server.calls.threads import CallThreads
from twinsight_server.config import ServerConfig, host_and_port, is_loopback
from twinsight_server.health.canary import Canary
from twinsight_server.health.prompt import PromptHealth
from twinsight_server.inference.models import Models, read_packages
from twinsight_server.inference.pipeline import Pipeline
from twinsight_server.metrics import CollectionCounts, Metrics
from twinsight_server.services.collections import CollectionService
from twinsight_server.services.inference import InferenceService
from twinsight_server.services.models import ModelService
from twinsight_server.services.reflection import GuardedReflection

log = structlog.stdlib.get_logger("twinsight.app")

_SPARE_THREADS = 64
"""Threads beyond those for `max_calls` and `max_streams`: they reject calls whose message exceeds a limit. Reflection
streams, and calls whose message has not arrived, hold one too; when none is left, calls are rejected unread."""

_LEAST_PING_MS = 9_000
"""Between pings of one connection: a little under the documented ten seconds, to allow for clocks and networks."""
_MOST_WAITING = 64
"""Streams and health calls that may wait for a thread; gRPC itself rejects any more, without a reason."""

_MOST_METADATA_BYTES = 16 * 1024
"""Of a call, names and 32 bytes for each entry included: a JWT may take most of it."""

_NOTICE_S = 0.1
"""Between health's NOT_SERVING and the first rejection: clients that watch health send their next call elsewhere, and
calls already on their way are accepted."""

_LAST_WORDS_S = 0.1
"""For calls that arrive just as the last one ends: they get the reason DRAINING."""

_NAMED = 5
"""How many models or collections a log line names at most."""

_SAVING_S = 5.0
"""For saving graphs and finishing purges, if draining left less: the next start makes up for what is not done."""

_CLOSING_S = 1.0
"""For gRPC to finish the calls that it cancels. It never does for some streams of malformed messages, nor for a call
that overruns its time; neither may keep the collections from being closed."""

_DESCRIPTORS = tuple(
    descriptor.services_by_name[name]
    for descriptor, name in (
        (inference_service_pb2.DESCRIPTOR, "InferenceService"),
        (collection_service_pb2.DESCRIPTOR, "CollectionService"),
        (model_service_pb2.DESCRIPTOR, "ModelService"),
    )
)
SERVICES = tuple(service.full_name for service in _DESCRIPTORS)
UNARY_METHODS = tuple(
    f"/{service.full_name}/{method.name}"
    for service in _DESCRIPTORS
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
)


class Server:
    """One server in this process.

    Attributes:
        port: the port it is bound to.
        metrics_address: HOST:PORT of the metrics; empty if disabled.
        models: the models it serves.
        gate: accepts and rejects calls.
        canary: tests the models for the health service.
        metrics: its metrics.
        compilations: counts compilations since it began to serve.
    """

    def __init__(self, config: ServerConfig) -> None:
        """Reads the packages and keys, locks the data folder and binds the port; `start` does the rest.

        Raises:
            StartupError: a package, the data folder, a keyring, a file of keys, an address or a certificate can't be
                used.
        """
        self._config = config
        self._begun = time.monotonic()
        self._drains_until = math.inf
        warnings.filterwarnings("ignore", "Corrupt EXIF", UserWarning)
        if not raise_limit():
            log.warning("the limit of open files could not be raised", limit=limit())
        keep_compiled_code(config.cache / "xla")
        packages = read_packages(config)
        with ExitStack() as opened:
            self.metrics = Metrics()
            opened.callback(self.metrics.close)
            self.compilations = CompilationCounter()
            keyring = None if config.keyring is None else read_keyring(config.keyring)
            if keyring is not None and (config.vectors_on_disk or config.vector_copy != "float32"):
                # Before the collections are opened, which may take more memory than there is.
                log.warning(
                    "ignoring vectors_on_disk and vector_copy for encrypted collections: their vectors stay in memory, "
                    "because files of them would be unencrypted",
                    vectors_on_disk=config.vectors_on_disk,
                    vector_copy=config.vector_copy,
                )
            options = CollectionOptions(
                keyring=keyring,
                allow_plain=config.allow_plain_collections,
                vectors_on_disk=config.vectors_on_disk,
                vector_copy=config.vector_copy,
            )
            self._catalog = Catalog(config.data_dir, options=options, load=False)
            opened.callback(self._close_catalog)
            self.models = Models(packages, config, self.metrics)
            opened.callback(self.models.close)
            self._pipeline = Pipeline(decoders=config.decoders, limits=config.image_limits)
            opened.callback(self._pipeline.close)
            self._access = AccessControl.of(config)
            opened.callback(self._access.close)
            self.gate = Gate(
                self.metrics, max_calls=config.max_calls, max_streams=config.max_streams, access=self._access
            )
            self.canary = Canary(self.models.all(), SERVICES, self.metrics)
            self._cores = one_core() if config.one_core else usable_cores()
            self._grpc = self._services()
            certificates = _certificates(config)
            self.port = _bind(self._grpc, config, certificates)
            self.metrics_address = self.metrics.serve(config.metrics_listen) if config.metrics_listen else ""
            self._opened = opened.pop_all()
        self.metrics.watch(
            compilations=lambda: self.compilations.count,
            collections=self._collection_counts,
            certificate_end_s=None if certificates is None else certificates.end_s,
        )

    @property
    def address(self) -> str:
        """HOST:PORT as bound."""
        return f"{self._config.listen.rpartition(':')[0]}:{self.port}"

    def start(self, stopped: threading.Event | None = None) -> bool:
        """Opens the collections, warms up the models and serves; returns once health says SERVING.

        The first two run in parallel: reading rows keeps the interpreter busy, compiling uses the other cores.

        Args:
            stopped: setting it during the start ends it after the current model and collection; `stop` must follow.

        Returns:
            Whether the server serves: False if it was stopped first.

        Raises:
            StartupError: a model fails its first inference, or the collections can't be opened.
        """
        stopped = stopped or threading.Event()
        with keeping_to(self._cores):
            self._grpc.start()  # starts a thread, which starts all others that answer calls
        failed = threading.Event()
        with no_garbage_collection(), ThreadPoolExecutor(1, thread_name_prefix="warm-up") as threads:
            warming = threads.submit(self.models.warm_up, lambda: stopped.is_set() or failed.is_set())
            try:
                # In this thread: another has an arena of its own, which the rows would leave fragmented for good.
                self._catalog.load(stopped.is_set)
            except BaseException:
                failed.set()
                raise
            warming.result()
        _warn_of_open_files()
        _warn_of_unserved(self._unserved(self._catalog.list()))
        if not stopped.is_set():
            self.canary.learn()
        if stopped.is_set():
            return False
        gc.freeze()  # everything allocated so far stays, so the collector need not scan it again
        give_back_freed()
        self.compilations.reset()
        self.gate.open()
        self.canary.start(self._config.canary_s)
        config = self._config
        for kept in ("exported", "xla"):
            forget_unused(config.cache / kept)
        if not (is_loopback(config.listen) or config.asks_for_tokens or config.tls_client_ca):
            log.warning("no authentication: anyone who can reach the server may call it", listen=config.listen)
        log.info(
            "serving",
            version=version("twinsight"),
            address=self.address,
            metrics=self.metrics_address,
            seconds=round(time.monotonic() - self._begun, 3),
        )
        return True

    def stop(self) -> bool:
        """Drains and closes; calls in flight have `drain_s` to finish. Returns whether their threads finished too."""
        log.info("draining", seconds=self._config.drain_s)
        self._drains_until = time.monotonic() + self._config.drain_s
        with ExitStack() as then:  # last first, and whatever those before have raised
            then.callback(gc.unfreeze)
            then.callback(self.canary.join)
            then.callback(self._opened.close)
            then.callback(self._drain)
            then.callback(self.gate.close)
            self.canary.stop()
            time.sleep(min(_NOTICE_S, self._config.drain_s))
        all_ended = self._threads.wait_idle(_LAST_WORDS_S)
        if not all_ended:
            log.error("calls hang and their threads can't be stopped")
        log.info("stopped")
        return all_ended

    def _drain(self) -> None:
        """Waits for the calls in flight, and cancels those that take too long."""
        self._grpc.stop(self._config.drain_s)
        self.gate.wait_drained(self._drains_until - time.monotonic())
        # Health watchers and reflection streams would stay open until the end.
        ended = self._grpc.stop(max(0.0, min(_LAST_WORDS_S, self._drains_until - time.monotonic())))
        if not ended.wait(_LAST_WORDS_S + _CLOSING_S):
            log.warning("calls did not end", seconds=self._config.drain_s)

    def _close_catalog(self) -> None:
        self._catalog.close(until=max(self._drains_until, time.monotonic() + _SAVING_S))

    def _services(self) -> grpc.Server:
        config = self._config
        count = config.max_calls + config.max_streams + _SPARE_THREADS
        threads = self._threads = CallThreads(count, cores=self._cores)
        server = grpc.server(
            threads,
            maximum_concurrent_rpcs=count + _MOST_WAITING,
            interceptors=[
                PromptHealth(),
                LoadShedding(self.gate, threads, UNARY_METHODS),
                MalformedMessages(self.gate),
                Door(self._access.guard, self.gate),
            ],
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                # Keeps the spare threads for other connections, whatever one connection leaves open. Its further calls
                # wait on the client's side; a client that does not wait gets UNAVAILABLE, and the call is not read.
                ("grpc.max_concurrent_streams", config.max_calls + config.max_streams),
                # By default gRPC rejects calls by chance between 8 KiB and this.
                ("grpc.max_metadata_size", _MOST_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", _MOST_METADATA_BYTES),
                # Two servers would silently share a port.
                ("grpc.so_reuseport", 0),
                # A peer that vanished silently would keep its streams open for ever.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                # Phones and load balancers ping every ten seconds or more; by default gRPC closes a connection that
                # pings more often than every five minutes, along with its calls in flight.
                ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        gate, models, pipeline = self.gate, self.models, self._pipeline
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceService(
                gate, models, pipeline, max_images=config.max_images, max_message_bytes=config.max_message_bytes
            ),
            server,
        )
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(
            CollectionService(gate, self._catalog, models, pipeline, config), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(gate, models), server)
        health_pb2_grpc.add_HealthServicer_to_server(self.canary.service, server)
        if config.reflection:
            health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
                GuardedReflection(gate, (*SERVICES, health_name, reflection.SERVICE_NAME)), server
            )
        return server

    def _collection_counts(self) -> CollectionCounts:
        """Counts the collections; those that could not be opened count as damaged."""
        in_state: Counter[CollectionState] = Counter()
        items = 0
        listed = self._catalog.list()
        for _, one in listed:
            state = CollectionState.DAMAGED
            if isinstance(one, Collection):
                status = one.status()
                state = status.state
                items += status.item_count if state is not CollectionState.DAMAGED else 0
            in_state[state] += 1
        return CollectionCounts(in_state, items, unserved=len(self._unserved(listed)))

    def _unserved(self, listed: Iterable[tuple[str, Collection | Refused]]) -> list[CollectionSpec]:
        """Returns the open collections that are bound to a model that is not served."""
        served = {"", *(model.digest for model in self.models.all())}
        specs = (one.spec for _, one in listed if isinstance(one, Collection))
        return [spec for spec in specs if spec.model_digest not in served]


def _warn_of_open_files() -> None:
    """Warns if the collections leave fewer files than are reserved for connections."""
    files = open_files()
    if files is not None and files.are_short:
        log.warning(
            "few open files are left for connections, so no collection can be created: delete some, or raise the limit "
            "(ulimit -n)",
            open=files.in_use,
            limit=files.limit,
            kept=files.reserve,
        )


def _warn_of_unserved(specs: Sequence[CollectionSpec]) -> None:
    """Warns, in one line, of collections whose model is not served, as after a model upgrade."""
    if specs:
        log.warning(
            "model not served for some collections; image writes and image searches will be rejected",
            count=len(specs),
            models=sorted({f"{spec.model_name} {spec.model_digest}" for spec in specs})[:_NAMED],
            first=[spec.id for spec in specs[:_NAMED]],
        )


def _bind(server: grpc.Server, config: ServerConfig, certificates: Certificates | None) -> int:
    host_and_port(config.listen, setting="listen")
    try:
        if certificates is None:
            return server.add_insecure_port(config.listen)
        return server.add_secure_port(config.listen, certificates.credentials())
    except RuntimeError as error:
        raise StartupError(
            f"Can't serve on `{config.listen}`: the address is in use, or is not an address of this machine.",
            reason="ADDRESS_UNAVAILABLE",
        ) from error


def _certificates(config: ServerConfig) -> Certificates | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)
