"""The server's settings: one frozen dataclass that defines the command line, the environment and the TOML file.

Each field is `--its-name` on the command line, `TWINSIGHT_ITS_NAME` in the environment and `its_name` in the file. The
first of these that is set wins; otherwise the default here applies.
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
        StartupError: the user has no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twinsight"
    except RuntimeError:
        raise StartupError("The user has no home folder; set `cache_dir`.", reason="CONFIG_INVALID") from None


def host_and_port(listen: str, *, setting: str) -> tuple[str, int]:
    """Returns the two parts of HOST:PORT.

    Raises:
        StartupError: it is not that; names the setting.
    """
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise StartupError(f"`{setting}` (={listen}) must be HOST:PORT.", reason="CONFIG_INVALID")
    return host, int(port)


def is_loopback(listen: str) -> bool:
    """Whether HOST:PORT can be reached from this machine only."""
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
    """The settings of one server.

    Raises:
        StartupError: a value breaks a rule; the message names it.
    """

    listen: Annotated[str, "HOST:PORT to serve on; port 0 picks a free one."] = "127.0.0.1:50051"
    data_dir: Annotated[Path, "Folder of the collections; created if missing, used by one server at a time."] = Path(
        "data"
    )
    vectors_on_disk: Annotated[
        bool,
        "Keep the vectors that exact searches scan in unlinked temporary files in data_dir, cached by the kernel: uses "
        "less memory, but searches wait for the disk when the cache is short. Encrypted collections keep theirs in "
        "memory.",
    ] = False
    vector_copy: Annotated[
        VectorCopy,
        "Scan the float32 vectors or an int8 copy (a quarter of the memory; same results) in exact searches. With the "
        "copy, the vectors move to unlinked temporary files in data_dir; with vectors_on_disk, so does the copy. "
        "Encrypted collections keep their vectors in memory, without a copy.",
    ] = "float32"
    keyring: Annotated[
        str | None, "File of the keys that encrypt the data in data_dir, created by `twinsight keyring`, or env:NAME."
    ] = None
    allow_plain_collections: Annotated[
        bool,
        "With a keyring, also serve unencrypted collections until `twinsight rekey` encrypts them. Otherwise they are "
        "rejected: anyone who can write to the disk may have put them there.",
    ] = False
    models_dir: Annotated[Path | None, "Folder of further model packages; the same name replaces a shipped one."] = None
    models: Annotated[str, "Comma-separated names of the models to serve; empty: all."] = ""
    default_model: Annotated[
        str,
        "Model for calls that name none; must be served [default: base if it is served, otherwise the only embedding "
        "model].",
    ] = ""
    executor: Annotated[
        ExecutorKind,
        "Inference backend: openvino on CPUs (needs the extra of that name), xla anywhere; auto: the fastest whose "
        "results agree.",
    ] = "auto"
    cache_dir: Annotated[
        Path | None, "Folder of compiled and exported programs, kept between starts [default: ~/.cache/twinsight]."
    ] = None
    metrics_listen: Annotated[str, "HOST:PORT of the Prometheus metrics over HTTP; empty: disabled."] = ""

    batch_size: Annotated[
        int, "Largest batch (on a CPU at most 4); every power of two up to it is compiled at start."
    ] = 32
    batch_wait_ms: Annotated[
        float | Literal["auto"],
        "Longest time a GPU or TPU waits for a batch to fill while other images are being decoded; auto: adapt to the "
        "load, as long as waiting fills the batches of a busy device and --p99-goal-ms is met.",
    ] = "auto"
    p99_goal_ms: Annotated[
        float, "Target for the 99th percentile from decoded image to result, used by --batch-wait-ms auto."
    ] = 50.0
    queue_size: Annotated[int, "Images in flight for one model; beyond this, calls are rejected and streams wait."] = (
        512
    )
    decode_threads: Annotated[
        int, "Threads that decode images for a GPU or TPU; 0: one per core within the CPU quota."
    ] = 0
    one_core: Annotated[
        bool,
        "Pin the threads that answer calls to one core (on Linux): the interpreter runs only one of them at a time, "
        "and switches faster between them there. Inference uses all cores.",
    ] = True
    max_calls: Annotated[int, "Calls processed at once; beyond this, calls are rejected and streams wait."] = 64
    max_streams: Annotated[int, "Streams open at once; more are rejected."] = 16

    max_message_bytes: Annotated[int, "Largest message, in bytes."] = 64 * 1024 * 1024
    max_image_bytes: Annotated[int, "Largest encoded image, in bytes."] = 16 * 1024 * 1024
    max_image_megapixels: Annotated[float, "Largest image, in millions of pixels."] = 40.0
    max_image_memory_mb: Annotated[float, "Memory for decoding one image, in millions of bytes."] = 300.0
    max_images: Annotated[int, "Images or queries in one call; a pair counts as two images."] = 256
    max_items: Annotated[int, "Items or ids in one call."] = 1000
    max_top_k: Annotated[int, "Matches per query."] = 1000

    tls_cert: Annotated[Path | None, "Certificate chain (PEM); with --tls-key enables TLS."] = None
    tls_key: Annotated[Path | None, "Private key (PEM)."] = None
    tls_client_ca: Annotated[
        Path | None, "Authorities (PEM) that client certificates must chain to; enables mutual TLS."
    ] = None

    # Access control and limits; docs/security.md describes them in full.
    api_keys: Annotated[Path | None, "File of API keys, created by `twinsight keys`; enables token authentication."] = (
        None
    )
    jwt_secret: Annotated[
        Path | None,
        "File of the secret that signs JWTs (HS256), or several, one per line; enables token authentication.",
    ] = None
    jwt_public_keys: Annotated[
        Path | None, "Public keys (PEM or a JSON Web Key Set) that verify JWTs; enables token authentication."
    ] = None
    jwt_issuer: Annotated[str, "`iss` that a JWT must have."] = ""
    jwt_audience: Annotated[str, "`aud` that a JWT must have."] = ""
    plaintext_tokens: Annotated[bool, "Accept tokens without TLS on an address that other machines can reach."] = False
    audit_log: Annotated[Path | None, "File to append a JSON line to for each call, including rejected ones."] = None
    calls_per_s: Annotated[float, "Calls and stream messages per second, all callers together; 0: no limit."] = 0.0
    items_per_s: Annotated[float, "Images, queries, items and ids per second, all callers together; 0: no limit."] = 0.0
    calls_per_s_per_key: Annotated[
        float, "Like --calls-per-s, for each key or JWT subject that sets no limit of its own."
    ] = 0.0
    items_per_s_per_key: Annotated[
        float, "Like --items-per-s, for each key or JWT subject that sets no limit of its own."
    ] = 0.0
    max_calls_per_key: Annotated[int, "How many of `max_calls` one key may use; 0: all of them."] = 0
    max_streams_per_key: Annotated[int, "How many of `max_streams` one key may use; 0: all of them."] = 0
    max_collections: Annotated[int, "Collections on the server; 0: no limit."] = 0
    max_collections_per_key: Annotated[
        int, "A key that may `admin` this many collections can't create another; 0: no limit."
    ] = 0
    max_items_per_collection: Annotated[int, "Items in one collection; 0: no limit."] = 0

    drain_s: Annotated[float, "Seconds for calls in flight to finish after SIGTERM."] = 20.0
    canary_s: Annotated[float, "Seconds between the test inferences that health reports."] = 5.0
    reflection: Annotated[bool, "Offer server reflection."] = True
    log_format: Annotated[Literal["json", "console"], "Format of the log on standard error; console: for humans."] = (
        "json"
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], "Least severe level to log; each call is one `info` line."
    ] = "info"

    def __post_init__(self) -> None:
        for name, least, most in _BOUNDS:
            if getattr(self, name) != "auto" and not least <= getattr(self, name) <= most:
                raise StartupError(
                    f"`{name}` (={getattr(self, name)}) must be between {least} and {most}.", reason="CONFIG_INVALID"
                )
        if self.queue_size < self.max_images:
            raise StartupError(
                f"`queue_size` (={self.queue_size}) must be at least `max_images` (={self.max_images}).",
                reason="CONFIG_INVALID",
            )
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_client_ca and not self.tls_cert):
            raise StartupError(
                "`tls_cert` and `tls_key` must be set together; `tls_client_ca` needs both.", reason="CONFIG_INVALID"
            )
        self._check_access()

    def _check_access(self) -> None:
        if bool(self.jwt_secret or self.jwt_public_keys) != bool(self.jwt_issuer and self.jwt_audience) or (
            bool(self.jwt_issuer) != bool(self.jwt_audience)
        ):
            raise StartupError(
                "JWTs need `jwt_issuer`, `jwt_audience`, and `jwt_secret` or `jwt_public_keys`: set all of these or "
                "none.",
                reason="CONFIG_INVALID",
            )
        if self.asks_for_tokens and not (self.tls_cert or self.plaintext_tokens or is_loopback(self.listen)):
            raise StartupError(
                f"`listen` (={self.listen}) can be reached from other machines and has no TLS: anyone who sees the "
                "traffic would get the tokens. Set `tls_cert` and `tls_key`, or `plaintext_tokens` if something else "
                "encrypts the traffic.",
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
            StartupError: `cache_dir` is not set and the user has no home folder.
        """
        return self.cache_dir or default_cache_dir()

    @property
    def image_limits(self) -> Limits:
        """The limits beyond which `images.check` rejects an image."""
        return Limits(
            max_bytes=self.max_image_bytes,
            max_pixels=int(self.max_image_megapixels * 1e6),
            max_memory_bytes=int(self.max_image_memory_mb * 1e6),
        )

    @property
    def batch_wait_s(self) -> float | None:
        """`batch_wait_ms` in seconds; None: it adapts to the load."""
        return None if self.batch_wait_ms == "auto" else self.batch_wait_ms / 1e3

    @property
    def decoders(self) -> int:
        """Number of decoding threads."""
        return self.decode_threads or core_count()

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes: the powers of two below `batch_size`, and `batch_size` itself."""
        powers = [2**n for n in range(self.batch_size.bit_length()) if 2**n < self.batch_size]
        return (*powers, self.batch_size)
