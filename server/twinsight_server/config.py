"""The server's settings: one frozen dataclass, from which the command line, the environment and the TOML file follow.

Each field is `--its-name` on the command line, `TWINSIGHT_ITS_NAME` in the environment and `its_name` in the file; the
first of them that is given counts, then the default here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from twinsight_core.errors import StartupError
from twinsight_core.executors.choice import ExecutorKind
from twinsight_core.host.cores import core_count
from twinsight_core.images import Limits
from twinsight_core.index.row_memory import VectorCopy


def default_cache_dir() -> Path:
    """Returns `twinsight` in the user's cache folder.

    Raises:
        StartupError: the user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twinsight"
    except RuntimeError:
        raise StartupError("There is no home folder; `cache_dir` must be given.", reason="CONFIG_INVALID") from None


def is_loopback(listen: str) -> bool:
    """Whether HOST:PORT can be reached from this machine alone."""
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("batch_size", 1, 4096),
    ("batch_wait_ms", 0, 10_000),
    ("p99_goal_ms", 0.1, 10_000),
    ("queue_size", 1, 1_000_000),
    ("decode_threads", 0, 1024),
    ("max_calls", 1, 4096),
    ("max_streams", 1, 4096),
    ("max_message_bytes", 1024, 2**31 - 1),  # gRPC's own bound
    ("max_image_bytes", 1, 2**31 - 1),
    ("max_image_megapixels", 1e-6, 10_000),
    ("max_image_memory_mb", 1, 1_000_000),
    ("max_images", 1, 100_000),
    ("max_items", 1, 100_000),
    ("max_top_k", 1, 100_000),
    ("calls_per_s", 0, 10**9),
    ("items_per_s", 0, 10**9),
    ("calls_per_s_per_key", 0, 10**9),
    ("items_per_s_per_key", 0, 10**9),
    ("max_calls_per_key", 0, 4096),
    ("max_streams_per_key", 0, 4096),
    ("max_collections", 0, 10**9),
    ("max_collections_per_key", 0, 10**9),
    ("max_items_per_collection", 0, 10**12),
    ("drain_s", 0, 86_400),
    ("canary_s", 0.01, 86_400),
)


@dataclass(frozen=True)
class ServerConfig:
    """What a server is started with.

    Raises:
        StartupError: a value breaks a rule; the message names it.
    """

    listen: Annotated[str, "HOST:PORT to serve on; port 0 takes a free one."] = "127.0.0.1:50051"
    data_dir: Annotated[Path, "Folder of the collections; made if missing, used by one server at a time."] = Path(
        "data"
    )
    vectors_on_disk: Annotated[
        bool,
        "Keep what exact searches scan in nameless files of data_dir, which the kernel caches: less memory, and they "
        "wait for the disk where the cache is short. Of encrypted collections they stay in memory.",
    ] = False
    vector_copy: Annotated[
        VectorCopy,
        "What exact searches scan: the vectors, or a copy in a quarter of the bytes, with the same answers. The "
        "vectors are then in nameless files of data_dir; with vectors_on_disk the copy is, too. Of encrypted "
        "collections the vectors stay in memory, without a copy.",
    ] = "float32"
    keyring: Annotated[
        str | None, "File of the keys that encrypt what is in data_dir, made by `twinsight keyring`, or env:NAME."
    ] = None
    allow_plain_collections: Annotated[
        bool,
        "With a keyring, serve collections that are not encrypted, too, until `twinsight rekey` encrypts them. "
        "Otherwise they are refused: who can write to the disk may have put them there.",
    ] = False
    models_dir: Annotated[Path | None, "Folder whose sub-folders are further model packages."] = None
    models: Annotated[str, "Names of the models to serve, with commas between; empty: all."] = ""
    default_model: Annotated[
        str,
        "Model of calls that name none; one of those served [default: base, where it is served, or else the only "
        "embedding model].",
    ] = ""
    executor: Annotated[
        ExecutorKind,
        "What computes: openvino on CPUs (the extra of that name), xla anywhere; auto: the fastest that answers alike.",
    ] = "auto"
    cache_dir: Annotated[
        Path | None, "Folder of compiled and exported programs, kept between starts [default: ~/.cache/twinsight]."
    ] = None
    metrics_listen: Annotated[str, "HOST:PORT of the Prometheus metrics over HTTP; empty: none."] = ""

    batch_size: Annotated[
        int, "Largest batch, on a CPU at most four; every power of two up to it is compiled at start."
    ] = 32
    batch_wait_ms: Annotated[
        float | Literal["auto"],
        "Longest wait of a GPU or TPU for a batch to fill while other pictures are being decoded; auto: as long as it "
        "fills batches of a busy device and --p99-goal-ms is kept.",
    ] = "auto"
    p99_goal_ms: Annotated[
        float, "What one picture in a hundred may exceed from being decoded to its answer, under --batch-wait-ms auto."
    ] = 50.0
    queue_size: Annotated[int, "Pictures being decoded or waiting for a model; more are refused, and streams wait."] = (
        512
    )
    decode_threads: Annotated[
        int, "Threads that decode pictures for a GPU or TPU; 0: one a core that there is time for."
    ] = 0
    one_core: Annotated[
        bool,
        "Keep the threads that answer calls to one core (on Linux): the interpreter runs one of them at a time, and is "
        "handed on faster there. What computes has all cores.",
    ] = True
    max_calls: Annotated[int, "Calls worked on at once; more are refused, and streams wait."] = 64
    max_streams: Annotated[int, "Streams open at once; more are refused."] = 16

    max_message_bytes: Annotated[int, "Largest message, in bytes."] = 64 * 1024 * 1024
    max_image_bytes: Annotated[int, "Largest encoded picture, in bytes."] = 16 * 1024 * 1024
    max_image_megapixels: Annotated[float, "Largest picture, in millions of pixels."] = 40.0
    max_image_memory_mb: Annotated[float, "Memory that decoding one picture may take, in millions of bytes."] = 300.0
    max_images: Annotated[int, "Pictures, queries or (twice) pairs in one call."] = 256
    max_items: Annotated[int, "Items or ids in one call."] = 1000
    max_top_k: Annotated[int, "Matches for one query."] = 1000

    tls_cert: Annotated[Path | None, "Certificate chain (PEM); with --tls-key turns TLS on."] = None
    tls_key: Annotated[Path | None, "Private key (PEM)."] = None
    tls_client_ca: Annotated[Path | None, "Authorities (PEM) whose client certificates are demanded: mutual TLS."] = (
        None
    )

    # Access control and limits; docs/security.md tells them in full.
    api_keys: Annotated[Path | None, "File of API keys, made by `twinsight keys`; turns tokens on."] = None
    jwt_secret: Annotated[
        Path | None, "File of the secret that signs JWTs (HS256), or several, a line each; turns tokens on."
    ] = None
    jwt_public_keys: Annotated[
        Path | None, "Public keys (PEM or a JSON Web Key Set) of those who sign JWTs; turns tokens on."
    ] = None
    jwt_issuer: Annotated[str, "`iss` that a JWT must have."] = ""
    jwt_audience: Annotated[str, "`aud` that a JWT must have."] = ""
    plaintext_tokens: Annotated[bool, "Take tokens without TLS on an address that others can reach."] = False
    audit_log: Annotated[Path | None, "File to which a JSON line is added for each call, refused ones, too."] = None
    calls_per_s: Annotated[float, "Calls and stream messages a second, of all together; 0: no limit."] = 0.0
    items_per_s: Annotated[float, "Pictures, queries, items and ids a second, of all together; 0: no limit."] = 0.0
    calls_per_s_per_key: Annotated[float, "The same of one key or JWT subject, unless its key says otherwise."] = 0.0
    items_per_s_per_key: Annotated[float, "The same of one key or JWT subject, unless its key says otherwise."] = 0.0
    max_calls_per_key: Annotated[int, "Of `max_calls`, what one key may have; 0: all of them."] = 0
    max_streams_per_key: Annotated[int, "Of `max_streams`, what one key may have; 0: all of them."] = 0
    max_collections: Annotated[int, "Collections there may be; 0: no limit."] = 0
    max_collections_per_key: Annotated[
        int, "Collections there may be of those that one key may `admin`, for it to make another; 0: no limit."
    ] = 0
    max_items_per_collection: Annotated[int, "Items that a collection may have; 0: no limit."] = 0

    drain_s: Annotated[float, "Seconds that calls in flight are given after SIGTERM."] = 20.0
    canary_s: Annotated[float, "Seconds between the test inferences that health reports."] = 5.0
    reflection: Annotated[bool, "Offer server reflection."] = True
    log_format: Annotated[Literal["json", "console"], "Lines on standard error: JSON, or for people."] = "json"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], "Least severe lines; each call is one of `info`."
    ] = "info"

    def __post_init__(self) -> None:
        for name, least, most in _BOUNDS:
            if getattr(self, name) != "auto" and not least <= getattr(self, name) <= most:
                raise StartupError(
                    f"`{name}` (={getattr(self, name)}) must be {least:,} to {most:,}.", reason="CONFIG_INVALID"
                )
        if self.queue_size < self.max_images:
            raise StartupError(
                f"`queue_size` (={self.queue_size}) must be at least `max_images` (={self.max_images}): "
                "a full call could never be taken.",
                reason="CONFIG_INVALID",
            )
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and not self.tls_cert):
            raise StartupError(
                "`tls_cert` and `tls_key` go together, and `tls_client_ca` needs both.", reason="CONFIG_INVALID"
            )
        self._check_access()

    def _check_access(self) -> None:
        if bool(self.jwt_secret or self.jwt_public_keys) != bool(self.jwt_issuer and self.jwt_audience) or (
            bool(self.jwt_issuer) != bool(self.jwt_audience)
        ):
            raise StartupError(
                "`jwt_secret` or `jwt_public_keys` need `jwt_issuer` and `jwt_audience`, and these need one of them.",
                reason="CONFIG_INVALID",
            )
        if self.asks_for_tokens and not (self.tls_cert or self.plaintext_tokens or is_loopback(self.listen)):
            raise StartupError(
                f"`listen` (={self.listen}) can be reached from other machines and has no TLS: whoever sees the "
                "traffic would have the tokens. Give `tls_cert` and `tls_key`; or, where something else encrypts it, "
                "`plaintext_tokens`.",
                reason="TOKENS_IN_PLAIN_TEXT",
            )

    @property
    def asks_for_tokens(self) -> bool:
        """Whether calls need a token."""
        return bool(self.api_keys or self.jwt_secret or self.jwt_public_keys)

    @property
    def cache(self) -> Path:
        """Folder of compiled and exported programs.

        Raises:
            StartupError: none is given and the user has no home.
        """
        return self.cache_dir or default_cache_dir()

    @property
    def image_limits(self) -> Limits:
        """What `images.decode` refuses."""
        return Limits(
            max_bytes=self.max_image_bytes,
            max_pixels=int(self.max_image_megapixels * 1e6),
            max_memory_bytes=int(self.max_image_memory_mb * 1e6),
        )

    @property
    def batch_wait_s(self) -> float | None:
        """`batch_wait_ms` in seconds; None: it is to follow the load."""
        return None if self.batch_wait_ms == "auto" else self.batch_wait_ms / 1e3

    @property
    def decoders(self) -> int:
        """Number of decoding threads."""
        return self.decode_threads or core_count()

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes: the powers of two below `batch_size`, and `batch_size`."""
        powers = [2**n for n in range(self.batch_size.bit_length()) if 2**n < self.batch_size]
        return (*powers, self.batch_size)
