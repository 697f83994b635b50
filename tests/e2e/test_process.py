"""The server as a process: how it starts, refuses to start, drains, dies and comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from e2e.conftest import Reflected, health_stub, to_bytes, until

TWINSIGHT = Path(sys.executable).parent / "twinsight"
DIMENSION = 32


class Process:
    """`twinsight serve` on a free port."""

    def __init__(self, data_dir: Path, cache_dir: Path, *flags: str, by: Sequence[str] = ()) -> None:
        where = ["--listen", "127.0.0.1:0", "--data-dir", str(data_dir), "--cache-dir", str(cache_dir)]
        self.log = data_dir.parent / "serve.log"
        self._errors = self.log.open("ab")
        self.process = subprocess.Popen(
            [*by, TWINSIGHT, "serve", *where, "--models", "base", "--batch-size", "2", *flags],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("serving on 127.0.0.1:"), (line, self.log.read_text())
        self.address = line.split()[-1]

    def metrics(self) -> str:
        """The metrics as text; their address is in the log."""
        lines = map(json.loads, self.log.read_text().splitlines())
        address = next(line["metrics"] for line in lines if line["event"] == "serving")
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(60)
        self.close()
        return code

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
        self._errors.close()


@contextmanager
def serving(
    data_dir: Path, cache_dir: Path, *flags: str, by: Sequence[str] = ()
) -> Iterator[tuple[Process, Reflected]]:
    process = Process(data_dir, cache_dir, *flags, by=by)
    api = Reflected(process.address)
    try:
        yield process, api
    finally:
        api.close()
        process.close()


def refusal(*flags: object, env: dict[str, str] | None = None) -> str:
    """What `serve` says when it refuses to start."""
    done = subprocess.run(
        [TWINSIGHT, "serve", *map(str, flags)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | (env or {}),
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def test_the_line_on_stdout_means_that_health_is_serving(tmp_path: Path, cache_dir: Path) -> None:
    with serving(tmp_path / "data", cache_dir) as (process, api):
        check = health_stub(api.channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        assert process.end(signal.SIGTERM) == 0


def test_sigterm_lets_a_call_in_flight_finish(tmp_path: Path, cache_dir: Path, photos: dict[str, bytes]) -> None:
    with serving(tmp_path / "data", cache_dir, "--metrics-listen", "127.0.0.1:0") as (process, api):
        images = [{"encoded": data} for data in photos.values()] * 20
        method = api.method("InferenceService", "Embed")
        in_flight = method.future(api.message("EmbedRequest", images=images), timeout=60)
        watch = health_stub(api.channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        until(lambda: "twinsight_calls_in_flight 1.0" in process.metrics())
        process.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert len(in_flight.result().results) == len(images)
        watch.cancel()
        assert process.process.wait(60) == 0


def test_the_end_of_the_terminal_is_a_stop_unless_it_is_ignored(tmp_path: Path, cache_dir: Path) -> None:
    # These tests may themselves run under `nohup`.
    with serving(tmp_path / "data", cache_dir, by=["env", "--default-signal=HUP"]) as (process, _):
        assert process.end(signal.SIGHUP) == 0
    with serving(tmp_path / "data", cache_dir, by=["nohup"]) as (process, api):
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
        assert ignored >> (signal.SIGHUP - 1) & 1
        process.process.send_signal(signal.SIGHUP)
        assert api.call("ModelService", "ListModels").models
        assert process.end(signal.SIGTERM) == 0


def test_a_data_folder_serves_one_server(tmp_path: Path, cache_dir: Path) -> None:
    with serving(tmp_path / "data", cache_dir):
        said = refusal("--listen", "127.0.0.1:0", "--data-dir", tmp_path / "data", "--cache-dir", cache_dir)
        assert f"{tmp_path / 'data'}" in said
        assert "in use by another server" in said


def test_a_taken_port_is_told(tmp_path: Path, cache_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refusal("--listen", address, "--data-dir", tmp_path / "data", "--cache-dir", cache_dir)
    assert f"Can't serve on `{address}`: the address is in use" in said


def test_an_unreadable_model_package_is_told(tmp_path: Path, cache_dir: Path) -> None:
    package = tmp_path / "models" / "broken"
    package.mkdir(parents=True)
    (package / "model.json").write_text("{")
    said = refusal(
        *("--listen", "127.0.0.1:0", "--data-dir", tmp_path / "data", "--cache-dir", cache_dir),
        *("--models-dir", tmp_path / "models"),
    )
    assert str(package / "model.json") in said


@pytest.mark.parametrize(
    ("flags", "env", "says"),
    [
        (["--queue-size", "0"], {}, "`queue_size` (=0) must be between 1 and 1000000."),
        (["--batch-size", "x"], {}, "'x' is not a valid integer"),
        ([], {"TWINSIGHT_MAX_TOP_K": "0"}, "`max_top_k` (=0) must be between 1 and 100000."),
        (["--tls-cert", "cert.pem"], {}, "`tls_cert` and `tls_key` must be set together"),
        (
            ["--models", "base", "--default-model", "nope"],
            {},
            "available: `base`. Give one of these as `--default-model`.",
        ),
        (
            ["--models", "base,nope"],
            {},
            "Model `nope` does not exist; available: `base`, `cells`, `garments`, `glyph`.",
        ),
        (["--listen", "nowhere"], {}, "`listen` (=nowhere) must be HOST:PORT."),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, cache_dir: Path, flags: list[str], env: dict[str, str], says: str
) -> None:
    where = ["--listen", "127.0.0.1:0", "--data-dir", tmp_path / "data", "--cache-dir", cache_dir]
    assert says in refusal(*where, *flags, env=env)


def test_a_misspelt_variable_is_told_in_the_log(tmp_path: Path, cache_dir: Path) -> None:
    said = refusal(
        *("--data-dir", tmp_path / "data", "--cache-dir", cache_dir, "--listen", "nowhere"),
        env={"TWINSIGHT_API_KEY": "/keys.json"},
    )
    line = json.loads(said.splitlines()[0])
    assert (line["level"], line["variable"], line["like"]) == ("warning", "TWINSIGHT_API_KEY", "TWINSIGHT_API_KEYS")


def fill(api: Reflected, acknowledged: set[str], stop: Callable[[], None]) -> None:
    """Streams batches of ten until the server is gone; notes every id that was acknowledged."""
    ingest = api.stream("CollectionService", "IngestItems")
    rng = np.random.default_rng(len(acknowledged))

    def batches() -> Iterator[object]:
        for batch in range(1, 100_000):
            items = [
                {
                    "id": f"{batch}-{n}",
                    "vector": to_bytes(rng.normal(size=DIMENSION)),
                    "metadata": {"b": {"integer_value": batch}},
                }
                for n in range(10)
            ]
            yield api.message("IngestItemsRequest", collection="log", items=items)

    with suppress(grpc.RpcError):
        for response in ingest(batches(), timeout=60):
            acknowledged.update(result.id for result in response.results)
            if len(acknowledged) >= 600:
                stop()


def test_kill_9_during_ingest_loses_nothing_that_was_acknowledged(tmp_path: Path, cache_dir: Path) -> None:
    acknowledged: set[str] = set()
    with serving(tmp_path / "data", cache_dir) as (process, api):
        api.call("CollectionService", "CreateCollection", collection={"id": "log", "dimension": DIMENSION})
        killed = threading.Event()

        def kill() -> None:
            if not killed.is_set():
                killed.set()
                process.process.send_signal(signal.SIGKILL)

        fill(api, acknowledged, kill)
        assert process.process.wait(60) == -signal.SIGKILL
    assert len(acknowledged) >= 600

    with serving(tmp_path / "data", cache_dir) as (_, api):
        described = api.call("CollectionService", "GetCollection", collection="log").collection
        assert described.item_count >= len(acknowledged)
        assert described.item_count % 10 == 0  # batches are whole
        ids = sorted(acknowledged)
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            got = api.call("CollectionService", "GetItems", collection="log", ids=some)
            assert [result.item.id for result in got.results] == some
        got = api.call("CollectionService", "GetItems", collection="log", ids=ids[:1], include_vectors=True)
        query = got.results[0].item
        found = api.call("CollectionService", "Search", collection="log", queries=[{"vector": query.vector}], top_k=1)
        assert found.results[0].matches.matches[0].id == query.id


def test_a_damaged_database_is_data_loss_for_its_collection_alone(tmp_path: Path, cache_dir: Path) -> None:
    data_dir = tmp_path / "data"
    item = {"id": "a", "vector": to_bytes(np.ones(DIMENSION))}
    with serving(data_dir, cache_dir) as (process, api):
        for name in ("well", "sick"):
            api.call("CollectionService", "CreateCollection", collection={"id": name, "dimension": DIMENSION})
            api.call("CollectionService", "UpsertItems", collection=name, items=[item])
        assert process.end(signal.SIGTERM) == 0
    (store,) = (data_dir / "collections" / "sick").glob("*.db")
    store.write_bytes(b"this is not a database" * 1000)

    with serving(data_dir, cache_dir) as (_, api):
        with pytest.raises(grpc.RpcError) as caught:
            api.call("CollectionService", "GetItems", collection="sick", ids=["a"])
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        listed = {one.id: one.state for one in api.call("CollectionService", "ListCollections").collections}
        assert listed == {"well": 1, "sick": 3}
        well = api.call("CollectionService", "GetItems", collection="well", ids=["a"])
        assert well.results[0].item.id == "a"
    assert store.read_bytes().startswith(b"this is not a database")


def indexed(api: Reflected) -> int:
    return int(api.call("CollectionService", "GetCollection", collection="big").collection.indexed_count)


def test_a_damaged_snapshot_is_rebuilt_and_answers_are_right_meanwhile(tmp_path: Path, cache_dir: Path) -> None:
    data_dir = tmp_path / "data"
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, DIMENSION))
    with serving(data_dir, cache_dir) as (process, api):
        api.call("CollectionService", "CreateCollection", collection={"id": "big", "dimension": DIMENSION})
        for start in range(0, 3000, 1000):
            items = [{"id": f"{n}", "vector": to_bytes(vectors[n])} for n in range(start, start + 1000)]
            api.call("CollectionService", "UpsertItems", collection="big", items=items)
        until(lambda: indexed(api) >= 2900)
        assert process.end(signal.SIGTERM) == 0
    snapshots = [one for one in (data_dir / "collections" / "big").iterdir() if "db" not in one.name]
    assert snapshots
    for snapshot in snapshots:
        damaged = bytearray(snapshot.read_bytes())
        damaged[len(damaged) // 2 :] = rng.bytes(len(damaged) - len(damaged) // 2)
        snapshot.write_bytes(damaged)

    with serving(data_dir, cache_dir) as (_, api):
        queries = [{"vector": to_bytes(vectors[n])} for n in range(0, 3000, 30)]
        found = api.call("CollectionService", "Search", collection="big", queries=queries, top_k=1).results
        assert [result.matches.matches[0].id for result in found] == [str(n) for n in range(0, 3000, 30)]
        until(lambda: indexed(api) >= 2900)
    assert "snapshot" in (tmp_path / "serve.log").read_text()
