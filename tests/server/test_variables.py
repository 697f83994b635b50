from __future__ import annotations

import os

import click
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from twinsight_client.cli import main
from twinsight_server import cli
from twinsight_server.variables import OF_OTHERS, SETTINGS, unknown_variables


def test_a_misspelt_variable_is_told_with_the_one_that_it_resembles() -> None:
    names = ["TWINSIGHT_DATADIR", "TWINSIGHT_API_KEY", "TWINSIGHT_DATA_DIR", "TWINSIGHT_XYZZY", "HOME", "TWINSIGHTS"]
    assert unknown_variables(names) == {
        "TWINSIGHT_API_KEY": "TWINSIGHT_API_KEYS",
        "TWINSIGHT_DATADIR": "TWINSIGHT_DATA_DIR",
        "TWINSIGHT_XYZZY": "",
    }


def test_what_the_server_and_the_client_read_is_known() -> None:
    read = {
        f"{one.envvar}"
        for command in (main, cli.serve)
        for one in command.params
        if isinstance(one, click.Option) and one.envvar
    }
    assert "TWINSIGHT_TLS_CA" in read
    assert read <= SETTINGS | OF_OTHERS
    assert not unknown_variables([*read, "TWINSIGHT_TOKEN"])


def test_what_kubernetes_sets_for_services_of_such_names_is_passed_over() -> None:
    names = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR"]
    assert not unknown_variables(f"TWINSIGHT_{name}" for name in names)
    assert not unknown_variables(f"TWINSIGHT_METRICS_{name}" for name in names)
    assert unknown_variables(["TWINSIGHT_METRICS_PORT"]) == {"TWINSIGHT_METRICS_PORT": "TWINSIGHT_METRICS_LISTEN"}
    assert list(unknown_variables(["TWINSIGHT_PORT"])) == ["TWINSIGHT_PORT"]


def test_serve_warns_of_them_and_not_of_the_variable_of_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run", lambda _: None)
    monkeypatch.setattr(cli, "set_up_logs", lambda form, level: None)  # noqa: ARG005
    environment = {"TWINSIGHT_MAX_CALL": "3", "TWINSIGHT_OUR_KEYS": "secret", "TWINSIGHT_TOKEN": "t"}
    with capture_logs() as lines:
        result = CliRunner().invoke(cli.serve, ["--keyring", "env:TWINSIGHT_OUR_KEYS"], env=environment)
    assert result.exit_code == 0, result.output
    told = {
        "event": "ignoring unknown environment variable",
        "log_level": "warning",
        "variable": "TWINSIGHT_MAX_CALL",
        "like": "TWINSIGHT_MAX_CALLS",
    }
    assert [one for one in lines if one["variable"] not in os.environ] == [told]
