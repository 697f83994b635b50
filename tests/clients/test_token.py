"""Tokens leave the client only where nobody else can read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from twinsight_client import ChannelOptions, Client, Tls
from twinsight_client.cli import main
from twinsight_client.cli.settings import Settings
from twinsight_client.token import Bearer

pytestmark = pytest.mark.client

KEY = "tws_not-a-real-one"


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:1",
        "127.0.0.1",
        "127.8.9.10:1",
        "localhost:1",
        "localhost",
        "[::1]:1",
        "[::1]",
        "unix:/run/twinsight",
        "unix-abstract:twinsight",
    ],
)
def test_a_token_goes_to_this_machine_in_plain_text(target: str) -> None:
    bearer = Bearer(KEY, target=target, tls=None, allow_plaintext=False)
    assert bearer.metadata(request_id="1") == (("x-request-id", "1"), ("authorization", f"Bearer {KEY}"))


@pytest.mark.parametrize(
    "target",
    [
        "127.evil.example:1",
        "127.0.0.1.evil.example:1",
        "localhost.evil.example:1",
        "[::1].evil.example:1",
        "[2001:db8::1]:1",
        "dns://[::1]/evil.example:1",
        "10.0.0.1:1",
    ],
)
def test_a_token_goes_to_no_host_whose_name_only_looks_like_this_machine(target: str) -> None:
    with pytest.raises(ValueError, match=r"would be sent to `.*` in plain text"):
        Bearer(KEY, target=target, tls=None, allow_plaintext=False)


def test_a_token_goes_to_another_machine_under_tls_or_where_it_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"^The token would be sent to `photos.example:1` in plain text") as told:
        Client("photos.example:1", token=KEY)
    assert KEY not in str(told.value)
    Client("photos.example:1", token=KEY, tls=Tls()).close()
    Client("photos.example:1", token=KEY, channel=ChannelOptions(allow_plaintext_token=True)).close()


@pytest.mark.parametrize("token", ["", "a b", "a\n", "ä"])
def test_what_can_be_no_token_is_told_without_being_shown(token: str) -> None:
    bearer = Bearer(lambda: token, target="localhost:1", tls=None, allow_plaintext=False)
    with pytest.raises(ValueError, match=r"^The token must be non-empty printable ASCII without spaces\.$"):
        bearer.metadata(request_id="1")


def test_the_command_line_takes_a_token_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{KEY}\n")
    monkeypatch.setenv("TWINSIGHT_TOKEN", "from-the-environment")
    assert Settings().token() == "from-the-environment"
    assert Settings(token_file=file).token() == KEY
    monkeypatch.delenv("TWINSIGHT_TOKEN")
    assert Settings().token() is None
    file.write_text(f"{KEY}\r\n", encoding="utf-8-sig")  # as editors of Windows do
    assert Settings(token_file=file).token() == KEY
    file.write_text(KEY, encoding="utf-16")
    done = CliRunner().invoke(main, ["--token-file", str(file), "models"])
    assert (done.exit_code, KEY in done.output) == (2, False)
    assert " ".join(done.stderr.split()).endswith(f"Invalid value for --token-file: {file} is not UTF-8.")


def test_a_token_file_is_read_once_so_that_it_may_be_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, f"{KEY}\n".encode())
    os.close(writer)
    try:
        settings = Settings(target="localhost:1", token_file=Path(f"/dev/fd/{reader}"))
        settings.client().close()
        assert settings.bearer().metadata(request_id="1")[1] == ("authorization", f"Bearer {KEY}")
    finally:
        os.close(reader)


def test_the_command_line_refuses_to_send_a_token_in_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(KEY)
    done = CliRunner().invoke(main, ["--target", "photos.example:1", "--token-file", str(file), "models"])
    assert done.exit_code == 2
    assert "use TLS, or allow it with --allow-plaintext-token" in " ".join(done.output.split())
    assert KEY not in done.output
