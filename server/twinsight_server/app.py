"""A server from its settings: built, warmed up, served, drained.

1. `Server(config)` reads the model packages, opens the collections and takes the port. Whatever is wrong with them is
   told here, before anything is served.
2. `start` answers health (NOT_SERVING) and refuses calls while the models compile and answer a test picture; then calls
   are let in and health says SERVING. From here nothing compiles.
3. `stop` turns health off, refuses new calls a moment later, gives those in flight `drain_s`, and closes the
   collections.
"""

from __future__ import annotations

import gc
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
from twinsight_server.config import ServerConfig, is_loopback
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
"""Threads beyond the calls and streams worked on: one of these refuses what is over a limit that the message tells of.
Reflection streams, and calls whose message has not arrived, hold one too; without any, calls are turned away."""

_LEAST_PING_MS = 9_000
"""Between pings of one connection: a little under the ten seconds that are told, for clocks and networks."""
_MOST_WAITING = 64
"""Streams, and calls after health, that may wait for a thread; of more gRPC itself refuses, and tells no reason."""

_NOTICE_S = 0.1
"""Between health's NOT_SERVING and the first refusal: who watches it sends the next call elsewhere, and calls that are
on their way are let in."""

_LAST_WORDS_S = 0.1
"""For calls that came in just as the last one ended: they are told that the server drains."""

_NAMED = 5
"""Of many models or collections so many are named in a line."""

_CLOSING_S = 1.0
"""For gRPC to be done with the calls that it cancels. With some streams of bytes that are no message it never is, nor
with a call that goes on beyond its time: neither may keep the collections from being closed."""

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
        port: as bound.
        metrics_address: HOST:PORT of the metrics; empty where there are none.
        models: what it serves.
        gate: where calls come in.
        canary: what health follows.
        metrics: what it counts.
        compilations: counts those since it serves.
    """

    def __init__(self, config: ServerConfig) -> None:
        """Prepares everything that can fail.

        Raises:
            StartupError: a package, the data folder, a keyring, an address or a certificate can't be used.
        """
        self._config = config
        self._begun = time.monotonic()
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
                # Before the collections are opened: they may take more memory than there is.
                log.warning(
                    "encrypted collections keep their vectors in memory: files of them would lie plainly on the disk, "
                    "so vectors_on_disk and vector_copy are not followed, and memory is as without them",
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
            opened.callback(self._catalog.close)
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
        """Opens the collections, warms the models up and serves; returns once health says SERVING.

        Both are done at the same time: reading rows keeps the interpreter busy, compiling the cores beside it.

        Args:
            stopped: when it is set meanwhile, the warm-up ends after the model that it is at; `stop` must follow.

        Returns:
            Whether the server serves: False where it was stopped before.

        Raises:
            StartupError: a model fails its first inference, or the collections can't be opened.
        """
        stopped = stopped or threading.Event()
        with keeping_to(self._cores):
            self._grpc.start()  # starts a thread, in which all others that answer calls are started
        failed = threading.Event()
        with no_garbage_collection(), ThreadPoolExecutor(1, thread_name_prefix="warm-up") as threads:
            warming = threads.submit(self.models.warm_up, lambda: stopped.is_set() or failed.is_set())
            try:
                # Here: in a thread of its own the rows would lie in an arena of the allocator's that has gaps for good.
                self._catalog.load()
            except BaseException:
                failed.set()
                raise
            warming.result()
        _tell_open_files()
        _tell_unserved(self._unserved(self._catalog.list()))
        if not stopped.is_set():
            self.canary.learn()
        if stopped.is_set():
            return False
        gc.freeze()  # what is there stays, and need not be looked through again
        give_back_freed()
        self.compilations.reset()
        self.gate.open()
        self.canary.start(self._config.canary_s)
        config = self._config
        for kept in ("exported", "xla"):
            forget_unused(config.cache / kept)
        if not (is_loopback(config.listen) or config.asks_for_tokens or config.tls_client_ca):
            log.warning("whoever reaches the server may call it: it asks for no token", listen=config.listen)
        log.info(
            "serving",
            version=version("twinsight"),
            address=self.address,
            metrics=self.metrics_address,
            seconds=round(time.monotonic() - self._begun, 3),
        )
        return True

    def stop(self) -> bool:
        """Drains and closes; calls in flight have `drain_s` to finish. Returns whether their threads have, too."""
        log.info("draining", seconds=self._config.drain_s)
        ends = time.monotonic() + self._config.drain_s
        self.canary.stop()
        time.sleep(min(_NOTICE_S, self._config.drain_s))
        self.gate.close()
        self._grpc.stop(self._config.drain_s)
        self.gate.wait_drained(ends - time.monotonic())
        # Those who watch health or look at the reflection would stay on until the end.
        ended = self._grpc.stop(max(0.0, min(_LAST_WORDS_S, ends - time.monotonic())))
        if not ended.wait(_LAST_WORDS_S + _CLOSING_S):
            log.warning("calls did not end", seconds=self._config.drain_s)
        self._opened.close()
        self.canary.join()
        gc.unfreeze()
        all_ended = self._threads.wait_idle(_LAST_WORDS_S)
        if not all_ended:
            log.error("calls hang, and their threads can't be ended")
        log.info("stopped")
        return all_ended

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
                # One connection, whatever it leaves open, leaves the spare threads to the others. What it asks for
                # beyond this waits on its side; of a client that does not wait it is refused (UNAVAILABLE), unread.
                ("grpc.max_concurrent_streams", config.max_calls + config.max_streams),
                # Two servers would silently share a port.
                ("grpc.so_reuseport", 0),
                # A peer that vanished without a word would keep its streams open for ever.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                # Phones and load balancers ask every ten seconds or more whether a connection lives; by default gRPC
                # ends one that asks more often than every five minutes, and what is in work on it.
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
        """Counts the collections; those that stay closed are damaged."""
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
        """Returns the open ones of some collections that are bound to a model that is not served."""
        served = {"", *(model.digest for model in self.models.all())}
        specs = (one.spec for _, one in listed if isinstance(one, Collection))
        return [spec for spec in specs if spec.model_digest not in served]


def _tell_open_files() -> None:
    """Warns where the collections leave fewer files than are kept for connections."""
    files = open_files()
    if files is not None and files.are_short:
        log.warning(
            "few files are left for connections, and no collection can be made: delete some, or raise the limit of "
            "open files",
            open=files.in_use,
            limit=files.limit,
            kept=files.reserve,
        )


def _tell_unserved(specs: Sequence[CollectionSpec]) -> None:
    """Warns, once for all, of collections whose model is not served, as after an upgrade of it."""
    if specs:
        log.warning(
            "collections are of models that are not served: no picture is written to them or searched for in them",
            count=len(specs),
            models=sorted({f"{spec.model_name} {spec.model_digest}" for spec in specs})[:_NAMED],
            first=[spec.id for spec in specs[:_NAMED]],
        )


def _bind(server: grpc.Server, config: ServerConfig, certificates: Certificates | None) -> int:
    host, _, port = config.listen.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise StartupError(f"`listen` (={config.listen}) must be HOST:PORT.", reason="CONFIG_INVALID")
    try:
        if certificates is None:
            return server.add_insecure_port(config.listen)
        return server.add_secure_port(config.listen, certificates.credentials())
    except RuntimeError as error:
        raise StartupError(
            f"Can't serve on `{config.listen}`: the address is taken or not this machine's.",
            reason="ADDRESS_UNAVAILABLE",
        ) from error


def _certificates(config: ServerConfig) -> Certificates | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)
