"""A real server on a free port, and a client made of nothing but what reflection tells."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import skimage
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image as Pillow

from twinsight_server.app import Server
from twinsight_server.config import ServerConfig

Dynamic = Any
"""A message or method whose class is made at run time: type checkers can know nothing of it."""

PHOTOS = Path(skimage.__file__).parent / "data"


class Reflected:
    """Messages and methods of a server as its reflection describes them: a client that nobody here wrote."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self._pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))

    def message(self, name: str, /, **fields: object) -> Dynamic:
        made = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"twinsight.v1.{name}"))
        return made(**fields)

    def method(self, service: str, method: str) -> Dynamic:
        """A unary method: takes the request and grpc's options."""
        described = self._pool.FindServiceByName(f"twinsight.v1.{service}").FindMethodByName(method)
        answer = message_factory.GetMessageClass(described.output_type)
        return self.channel.unary_unary(
            f"/twinsight.v1.{service}/{method}",
            request_serializer=_serialize,
            response_deserializer=answer.FromString,
        )

    def call(self, service: str, method: str, /, **fields: object) -> Dynamic:
        return self.method(service, method)(self.message(f"{method}Request", **fields), timeout=60)

    def stream(self, service: str, method: str) -> Dynamic:
        """A bidirectional method: takes an iterator of requests and grpc's options."""
        answer = type(self.message(f"{method}Response"))
        return self.channel.stream_stream(
            f"/twinsight.v1.{service}/{method}",
            request_serializer=_serialize,
            response_deserializer=answer.FromString,
        )

    def close(self) -> None:
        self.channel.close()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs, shared by every server of the run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Server]:
    with running(config(tmp_path_factory.mktemp("data"), cache_dir, batch_size=8, drain_s=5)) as made:
        yield made


@pytest.fixture(scope="session")
def api(server: Server) -> Iterator[Reflected]:
    client = Reflected(server.address)
    yield client
    client.close()


@pytest.fixture(scope="session")
def photos() -> dict[str, bytes]:
    """Real photographs by name, as JPEG files of up to 500 px."""
    names = [
        "astronaut",
        "brick",
        "chelsea",
        "coffee",
        "coins",
        "grass",
        "gravel",
        "hubble_deep_field",
        "rocket",
        "retina",
    ]
    return {name: as_jpeg(Pillow.open(next(PHOTOS.glob(f"{name}.*")))) for name in names}


def as_jpeg(picture: Pillow.Image, *, quality: int = 90) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((500, 500))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality)
    return out.getvalue()


def edited(encoded: bytes, edit: Callable[[Pillow.Image], Pillow.Image]) -> bytes:
    return as_jpeg(edit(Pillow.open(io.BytesIO(encoded))))


def _serialize(message: Dynamic) -> bytes:
    return message.SerializeToString()


def until(condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
    """Asks again and again until something has come about."""
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        pause.wait(0.02)


def health_stub(channel: grpc.Channel) -> Dynamic:
    return health_pb2_grpc.HealthStub(channel)


def to_bytes(vector: np.ndarray) -> bytes:
    return vector.astype("<f4").tobytes()


def from_bytes(vector: bytes) -> np.ndarray:
    return np.frombuffer(vector, "<f4")


def config(folder: Path, cache_dir: Path, **more: object) -> ServerConfig:
    settings = {
        "listen": "127.0.0.1:0",
        "data_dir": folder,
        "cache_dir": cache_dir,
        "models": "base",
        "batch_size": 2,
        **more,
    }
    return ServerConfig(**settings)  # type: ignore[arg-type]


@contextmanager
def running(settings: ServerConfig) -> Iterator[Server]:
    """A server that serves, and is stopped at the end."""
    made = Server(settings)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def counted(server: Server, name: str, **labels: str) -> float:
    return server.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def own(tmp_path: Path, cache_dir: Path) -> Iterator[Server]:
    """A server whose insides a test may break; its canary runs when the test says."""
    limits = {"queue_size": 4, "max_images": 4, "max_calls": 2}
    with running(config(tmp_path, cache_dir, canary_s=3600.0, metrics_listen="127.0.0.1:0", **limits)) as made:
        yield made


@pytest.fixture
def small(api: Reflected) -> Iterator[str]:
    """An empty collection of 3 components under the Euclidean metric, bound to no model."""
    api.call("CollectionService", "CreateCollection", collection={"id": "small", "dimension": 3, "metric": 2})
    yield "small"
    api.call("CollectionService", "DeleteCollection", collection="small")
