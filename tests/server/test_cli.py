from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from twinsight_core.collections.catalog import Catalog
from twinsight_core.engine import Engine
from twinsight_core.errors import StartupError
from twinsight_server import cli
from twinsight_server.config import ServerConfig
from twinsight_server.health.canary import Canary


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """The settings with which `serve` would have run."""
    configs: list[ServerConfig] = []
    monkeypatch.setattr(cli, "run", configs.append)
    monkeypatch.setattr(cli, "set_up_logs", lambda form, level: None)  # noqa: ARG005
    return configs


@pytest.fixture
def handlers() -> Iterator[None]:
    """Gives the signals back to the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_warm_up_stops_the_server_before_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    warmed: list[Engine] = []

    def warm_up(engine: Engine) -> None:
        warmed.append(engine)
        os.kill(os.getpid(), number)  # to the main thread, as from outside; `raise_signal` would tell this one
        time.sleep(1.0)

    def learn(_: Canary) -> None:
        raise AssertionError("it went on")

    monkeypatch.setattr(Engine, "warm_up", warm_up)
    monkeypatch.setattr(Canary, "learn", learn)
    cli.run(ServerConfig(listen="127.0.0.1:0", data_dir=tmp_path / "data", cache_dir=tmp_path, models_dir=None))
    assert len(warmed) == 1
    assert "serving on" not in capsys.readouterr().out
    Catalog(tmp_path / "data").close()  # was closed, or it would be in use


ENDED_WHILE_IMPORTING = """
import signal, sys

class Ending:
    def find_spec(self, name, path=None, target=None):
        if name == "twinsight_server.app":
            signal.raise_signal(signal.SIGTERM)

sys.meta_path.insert(0, Ending())
from twinsight_server.cli import serve
serve(["--listen", "127.0.0.1:0", "--data-dir", sys.argv[1]])
"""


def test_a_signal_while_the_server_is_being_imported_ends_it_in_order(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED_WHILE_IMPORTING, tmp_path / "data"], capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not (tmp_path / "data").exists()


def serve(*flags: str, env: dict[str, str] | None = None) -> str:
    result = CliRunner().invoke(cli.serve, flags, env=env)
    return result.output


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    tmp_path: Path, started: list[ServerConfig]
) -> None:
    file = tmp_path / "twinsight.toml"
    file.write_text('max_top_k = 1\nmax_items = 2\nbatch_size = 3\ndata_dir = "/from/file"\nreflection = false\n')
    serve(
        *("--config", str(file), "--max-top-k", "10"),
        env={"TWINSIGHT_MAX_TOP_K": "11", "TWINSIGHT_MAX_ITEMS": "12"},
    )
    (config,) = started
    assert (config.max_top_k, config.max_items, config.batch_size) == (10, 12, 3)
    assert config.data_dir == Path("/from/file")
    assert config.reflection is False
    assert config.queue_size == ServerConfig().queue_size


def test_a_path_may_begin_at_home_wherever_it_is_given(
    tmp_path: Path, started: list[ServerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "twinsight.toml"
    file.write_text('data_dir = "~/pictures"\nmodels = "~"\n')
    serve("--config", str(file), "--audit-log", "~/audit", env={"TWINSIGHT_MODELS_DIR": "~/models"})
    (config,) = started
    assert (config.data_dir, config.models_dir, config.models) == (tmp_path / "pictures", tmp_path / "models", "~")
    assert config.audit_log == tmp_path / "audit"


@pytest.mark.parametrize("name", ["data_dir", "models_dir", "cache_dir", "api_keys"])
def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, started: list[ServerConfig], name: str) -> None:
    file = tmp_path / "twinsight.toml"
    file.write_text(f'{name} = ""\n')
    flag = "--" + name.replace("_", "-")
    refused = serve(flag, "")
    assert f"Invalid value for '{flag}'" in refused
    assert "): is empty; the current folder is `.`." in refused
    assert f"`{name}` is empty; the current folder is `.`." in serve("--config", str(file))
    assert not started


def test_no_flags_mean_the_defaults(started: list[ServerConfig]) -> None:
    serve()
    assert started == [ServerConfig()]


@pytest.mark.parametrize("name", ["API_KEYS", "KEYRING", "TLS_CERT", "MODELS_DIR", "MAX_TOP_K", "CONFIG"])
def test_an_empty_variable_is_not_passed_over(started: list[ServerConfig], name: str) -> None:
    assert f"TWINSIGHT_{name} is empty: set it to a value, or unset it." in serve(env={f"TWINSIGHT_{name}": ""})
    assert not started


def test_an_empty_variable_of_a_setting_that_is_empty_by_default_says_nothing(started: list[ServerConfig]) -> None:
    serve(env={"TWINSIGHT_METRICS_LISTEN": ""})
    assert started == [ServerConfig()]


def test_the_process_ends_without_calls_that_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended: list[int] = []
    monkeypatch.setattr("twinsight_server.app.Server.start", lambda _, stopped: stopped is None)
    monkeypatch.setattr("twinsight_server.app.Server.stop", lambda _: len(ended) > 0)
    monkeypatch.setattr("twinsight_server.app.Server.__init__", lambda *_: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    for _ in range(2):  # the second time all calls have ended
        cli.run(ServerConfig(listen="127.0.0.1:0", data_dir=tmp_path))
    assert ended == [0]


def test_the_process_ends_if_stopping_fails_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: object) -> bool:
        raise MemoryError("no room to stop")

    ended: list[int] = []
    monkeypatch.setattr("twinsight_server.app.Server.start", lambda *_: False)
    monkeypatch.setattr("twinsight_server.app.Server.stop", fails)
    monkeypatch.setattr("twinsight_server.app.Server.__init__", lambda *_: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    cli.run(ServerConfig(listen="127.0.0.1:0", data_dir=tmp_path))
    assert ended == [1]
    assert "no room to stop" in caplog.text


def test_an_unknown_key_in_the_file_is_named(tmp_path: Path, started: list[ServerConfig]) -> None:
    file = tmp_path / "twinsight.toml"
    file.write_text("max_topk = 1\n")
    assert "unknown settings: max_topk" in serve("--config", str(file))
    assert not started


def test_a_file_that_is_not_toml_is_told(tmp_path: Path) -> None:
    file = tmp_path / "twinsight.toml"
    file.write_text("= =")
    assert "can't be read as TOML" in serve("--config", str(file))


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('data_dir = ["a"]', "`data_dir` (=['a']) must be text."),
        ("data_dir = 5", "`data_dir` (=5) must be text."),
        ("api_keys = false", "`api_keys` (=False) must be text."),
        ("audit_log = 2026-01-01", "`audit_log` (=datetime.date(2026, 1, 1)) must be text."),
        ('data_dir = "a\\u0000b"', "`data_dir` must not contain a null character."),
        ("max_collections = 0.5", "`max_collections` (=0.5) must be a whole number."),
        ("max_calls = true", "`max_calls` (=True) must be a whole number."),
        ("listen = 50051", "`listen` (=50051) must be text."),
        ("drain_s = true", "`drain_s` (=True) must be a number."),
        ("batch_wait_ms = [1]", "`batch_wait_ms` (=[1]) must be a number or text."),
        ('reflection = "yes"', "`reflection` (='yes') must be true or false."),
        ("log_level = 3", "`log_level` (=3) must be text."),
        ('log_level = "loud"', "`log_level` (='loud') must be `debug` or `info` or `warning` or `error`."),
        ('batch_wait_ms = "long"', "`batch_wait_ms` (='long') must be a number or `auto`."),
    ],
)
def test_a_value_that_is_none_of_its_setting_in_the_file_is_told(
    tmp_path: Path, started: list[ServerConfig], line: str, rule: str
) -> None:
    file = tmp_path / "twinsight.toml"
    file.write_text(f"{line}\n")
    assert rule in " ".join(serve("--config", str(file)).split())
    assert not started


def test_a_whole_number_may_stand_for_a_number_in_the_file(tmp_path: Path, started: list[ServerConfig]) -> None:
    file = tmp_path / "twinsight.toml"
    file.write_text("drain_s = 3\nmodels_dir = 'm'\nvectors_on_disk = true\nvector_copy = 'int8'\n")
    serve("--config", str(file))
    (config,) = started
    assert (config.drain_s, config.models_dir, config.vectors_on_disk) == (3.0, Path("m"), True)
    assert config.vector_copy == "int8"


def test_the_help_names_every_setting_with_its_variable() -> None:
    text = serve("--help")
    for name in ServerConfig.__dataclass_fields__:
        assert f"TWINSIGHT_{name.upper()}" in text.replace("\n", "").replace(" ", "")


def test_buckets_are_powers_of_two_and_the_batch_size() -> None:
    assert ServerConfig(batch_size=1).buckets == (1,)
    assert ServerConfig(batch_size=8).buckets == (1, 2, 4, 8)
    assert ServerConfig(batch_size=12).buckets == (1, 2, 4, 8, 12)


@pytest.mark.parametrize(("value", "wait_s"), [("auto", None), ("0", 0.0), ("2.5", 0.0025)])
def test_the_wait_for_a_batch_is_a_number_or_auto(
    tmp_path: Path, started: list[ServerConfig], value: str, wait_s: float | None
) -> None:
    serve("--batch-wait-ms", value)
    serve(env={"TWINSIGHT_BATCH_WAIT_MS": value})
    file = tmp_path / "twinsight.toml"
    file.write_text(f"batch_wait_ms = {value if wait_s is not None else repr(value)}\n")
    serve("--config", str(file))
    assert [config.batch_wait_s for config in started] == [wait_s] * 3


def test_the_wait_for_a_batch_is_nothing_else(started: list[ServerConfig]) -> None:
    assert "'soon' is neither a number nor `auto`" in serve("--batch-wait-ms", "soon")
    assert not started
    for value in (-1.0, math.nan):
        with pytest.raises(StartupError, match=r"`batch_wait_ms` \(=.*\) must be between 0 and 10000"):
            ServerConfig(batch_wait_ms=value)


IN_ANOTHER_THREAD = """
import signal, threading
from twinsight_server.cli import wait_until
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
sender = threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
sender.start()
wait_until(stopped)
print("heard")
"""


def test_a_signal_that_does_not_wake_the_main_thread_is_heard() -> None:
    # A lock goes on waiting when a signal comes to another thread, or just before it begins to wait.
    command = [sys.executable, "-c", IN_ANOTHER_THREAD]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_what_keeps_the_server_from_starting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, started: list[object]
) -> None:
    def run(_: ServerConfig) -> None:
        raise StartupError("bad/model.json: `\x1b[31m\nserving` is unknown.", reason="PACKAGE_CARD")

    monkeypatch.setattr(cli, "run", run)
    done = CliRunner().invoke(cli.serve, [])
    assert (done.exit_code, started) == (1, [])
    assert done.stderr == "twinsight: bad/model.json: `\\x1b[31m\\nserving` is unknown.\n"
