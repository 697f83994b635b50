"""The other commands, errors and exit codes, and commands of the server extra."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from twinsight_client import (
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ServerError,
    TwinsightClientError,
    Unavailable,
)
from twinsight_client.cli import SERVER_COMMANDS, exits, main
from twinsight_client.cli.group import ServerCommand
from twinsight_client.cli.output import plain, printable, write_json
from twinsight_client.cli.settings import Settings
from twinsight_client.testing import FakeClient, MemoryServer

from ..conftest import WireServer

pytestmark = pytest.mark.client

Twinsight = Callable[..., Result]


def test_embed_writes_an_archive_and_lists_what_can_not_be_read(
    twinsight: Twinsight, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vectors.npz"
    files = [album / "a.jpg", album / "2024/broken.png", album / "2024/b.jpg"]
    result = twinsight("embed", *files, "--out", out)
    assert result.exit_code == 3
    assert f"skipped {files[1]}: The image is not a whole JPEG" in result.stderr
    with np.load(out) as archive:
        assert archive["vectors"].shape == (2, 16)
        assert archive["vectors"].dtype == np.float32
        assert archive["files"].tolist() == [str(files[0]), str(files[2])]
        assert str(archive["model"]) == "fake"
        assert str(archive["digest"]).startswith("sha256:")
    document = json.loads(twinsight("embed", *files, "--json").stdout)
    assert [len(one["vector"]) for one in document["results"] if "vector" in one] == [16, 16]
    assert document["results"][1]["error"]["reason"] == "IMAGE_UNREADABLE"
    wrong = twinsight("embed", files[0], "--out", tmp_path / "vectors.csv")
    assert (wrong.exit_code, "vectors.csv must end in .npz." in wrong.stderr) == (2, True)


def test_a_file_given_twice_is_embedded_twice(twinsight: Twinsight, album: Path) -> None:
    document = json.loads(twinsight("embed", album / "a.jpg", album / "a.jpg", "--json").stdout)
    assert len(document["results"]) == 2


def test_items_are_deleted_and_purged_by_id(twinsight: Twinsight, album: Path) -> None:
    twinsight("index", album, "--collection", "photos")
    gone = twinsight("collections", "delete-items", "photos", "a.jpg", "nobody")
    assert (gone.exit_code, gone.stderr) == (3, "not found: nobody\nDeleted 1 items.\n")
    again = twinsight("collections", "delete-items", "photos", "a.jpg", "--purge", "--json")
    assert json.loads(again.stdout) == {"deleted_count": 0, "missing": ["a.jpg"], "purged": True}
    assert again.exit_code == 3
    purged = twinsight("collections", "delete-items", "photos", "2024/b.jpg", "--purge")
    assert (purged.exit_code, purged.stderr) == (0, "Deleted 1 items, and erased them.\n")


def test_collections_are_listed_made_described_and_deleted(twinsight: Twinsight) -> None:
    empty = twinsight("collections")
    assert (empty.exit_code, empty.stderr) == (
        0,
        "There are no collections yet. Create one with: twinsight index DIR\n",
    )
    made = json.loads(twinsight("collections", "create", "photos", "--json").stdout)
    assert (made["model"], made["metric"], made["state"]) == ("fake", "cosine", "ready")
    assert twinsight("collections", "create", "v", "--dimension", 3, "--metric", "dot").exit_code == 0
    assert [one["id"] for one in json.loads(twinsight("collections", "--json").stdout)["collections"]] == [
        "photos",
        "v",
    ]
    assert [line.split()[0] for line in twinsight("collections", "list").stdout.splitlines()] == [
        "collection",
        "photos",
        "v",
    ]
    assert "none (vectors made elsewhere)" in twinsight("collections", "get", "v").stdout
    refused = twinsight("collections", "delete", "v", input="n\n")
    assert refused.exit_code == 1
    assert "Delete collection v with 0 items? [y/N]" in refused.stderr
    assert twinsight("collections", "delete", "v", "--yes").stderr == "Deleted v (0 items).\n"
    both = twinsight("collections", "create", "x", "--model", "fake", "--dimension", 3)
    assert (both.exit_code, "exclude each other" in both.stderr) == (2, True)
    again = twinsight("collections", "create", "photos")
    assert (again.exit_code, again.stderr) == (
        1,
        "Error: Collection `photos` already exists. [COLLECTION_EXISTS]\n",
    )


@pytest.mark.parametrize(
    "damaged",
    [
        DataLoss("Collection `v` is damaged.", reason="COLLECTION_DAMAGED"),
        FailedPrecondition("Collection `v` is not encrypted.", reason="COLLECTION_PLAIN"),
        Unavailable("Collection `v` takes no more writes.", reason="COLLECTION_BROKEN"),
        PermissionDenied("The key may not read.", reason="RIGHT_MISSING"),
    ],
)
def test_a_collection_that_can_not_be_counted_can_be_deleted(
    twinsight: Twinsight, memory: MemoryServer, damaged: TwinsightClientError
) -> None:
    assert twinsight("collections", "create", "v", "--dimension", 3).exit_code == 0
    memory.fail_next(damaged)
    refused = twinsight("collections", "delete", "v", input="n\n")
    assert refused.exit_code == 1
    assert "Delete collection v with an unknown number of items? [y/N]" in refused.stderr
    memory.fail_next(damaged)
    assert twinsight("collections", "delete", "v", "-y").stderr == "Deleted v (an unknown number of items).\n"
    assert json.loads(twinsight("collections", "--json").stdout)["collections"] == []
    assert twinsight("collections", "create", "v", "--dimension", 3).exit_code == 0
    memory.fail_next(damaged)
    deleted = twinsight("collections", "delete", "v", "--yes", "--json")
    assert json.loads(deleted.stdout) == {"deleted": "v", "item_count": None}


def test_a_collection_is_not_deleted_without_a_count_where_nobody_answers(
    twinsight: Twinsight, memory: MemoryServer
) -> None:
    assert twinsight("collections", "create", "v", "--dimension", 3).exit_code == 0
    memory.fail_next(Unavailable("Nobody."))
    assert twinsight("collections", "delete", "v", "--yes").exit_code == 4
    assert twinsight("collections", "get", "v").exit_code == 0


def test_a_new_collection_is_bound_to_the_only_embedder_where_the_default_does_something_else(
    twinsight: Twinsight, memory: MemoryServer, album: Path
) -> None:
    make_default(memory, "fake-classifier")
    assert twinsight("index", album).exit_code == 3
    assert json.loads(twinsight("collections", "get", "photos", "--json").stdout)["model"] == "fake"
    assert json.loads(twinsight("collections", "create", "more", "--json").stdout)["model"] == "fake"


def test_of_several_embedders_the_default_is_taken_or_one_must_be_named(album: Path) -> None:
    memory = MemoryServer(models=["b", "a"])

    def run(*arguments: str) -> Result:
        settings = Settings(connect=lambda _settings, _retry: FakeClient(memory))
        return CliRunner().invoke(main, arguments, obj=settings)

    assert json.loads(run("collections", "create", "one", "--json").stdout)["model"] == "b"
    make_default(memory, "fake-classifier")
    refused = run("index", str(album))
    assert refused.exit_code == 1
    assert refused.stderr == "Error: --model is required; available for embedding: `a`, `b`. [MODEL_AMBIGUOUS]\n"


def make_default(memory: MemoryServer, name: str) -> None:
    cards = memory._cards
    for card in cards.all():
        card.is_default = card.name == name
    cards._default = name


def test_models_are_listed_and_have_cards(twinsight: Twinsight) -> None:
    assert twinsight("models").stdout.splitlines()[1].split() == [
        "fake", "embedding", "16", "8x8", "Apache-2.0", "yes",
    ]  # fmt: skip
    card = twinsight("models", "fake").stdout
    assert "Draws a vector from a picture's bytes; for tests." in card
    assert "probability that" in card
    assert "at false match rate 0.01  threshold 0.7000, false matches 0.000% (0.000% to 1.000%)" in card
    assert "labels" not in card
    labelled = twinsight("models", "fake-detector").stdout
    assert "3: bird, cat, dog" in labelled
    assert not any(word in labelled for word in ("dimension", "threshold"))
    assert json.loads(twinsight("models", "--json").stdout)["models"][0]["name"] == "fake"
    assert twinsight("models", "big").stderr == (
        "Error: Model `big` does not exist; available: `fake`, `fake-classifier`, `fake-detector`. [MODEL_NOT_FOUND]\n"
    )


def test_health_tells_by_exit_code_and_waits(twinsight: Twinsight, memory: MemoryServer) -> None:
    assert "serving" in twinsight("health", "--wait", 5).stdout
    memory.is_serving = False
    down = twinsight("health", "--json")
    assert (down.exit_code, json.loads(down.stdout)["status"]) == (4, "not_serving")


def test_health_waits_as_long_as_it_is_told_and_not_at_all_for_0(wire: WireServer) -> None:
    def health(wait_s: float) -> Result:
        return CliRunner().invoke(main, ["--target", wire.address, "health", "--wait", str(wait_s)])

    assert (health(0).exit_code, wire.methods()) == (0, ["Check"])
    wire.memory.is_serving = False
    late = health(2)
    assert (late.exit_code, late.stderr) == (4, "Error: The server responds, but is not_serving. [NOT_SERVING]\n")
    wire.held = "Check"
    late = health(0.3)
    assert (late.exit_code, late.stderr) == (4, "Error: The server is not serving after 0.3 s. [NOT_SERVING]\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NotFound("No\nsuch  thing.", reason="X_NOT_FOUND"), 1, "Error: No such thing. [X_NOT_FOUND]"),
        (NotFound("Nothing."), 1, "Error: Nothing. [NOT_FOUND]"),
        (Unavailable("Draining.", reason="DRAINING"), 4, "Error: Draining. [DRAINING]"),
        (Unavailable("It is.", reason="COLLECTION_BROKEN"), 1, "Error: It is. [COLLECTION_BROKEN]"),
        (
            Unavailable("Connection refused"),
            4,
            "Error: No server answers at there:1 (Connection refused). Start one with: twinsight serve",
        ),
        (
            DeadlineExceeded("late"),
            4,
            "Error: The server at there:1 did not respond in time. Raise the deadline with --timeout.",
        ),
        (ServerError("Internal error.", request_id="r1"), 1, "Error: Internal error. [INTERNAL, request r1]"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    twinsight: Twinsight, memory: MemoryServer, error: TwinsightClientError, code: int, said: str
) -> None:
    memory.fail_next(error)
    result = twinsight("models", "--target", "there:1")
    assert (result.exit_code, result.stderr, result.stdout) == (code, said + "\n", "")


def test_an_interruption_has_its_own_exit_code(twinsight: Twinsight, memory: MemoryServer) -> None:
    def interrupted(_request: object) -> object:
        raise KeyboardInterrupt

    memory.answer = interrupted  # type: ignore[method-assign,assignment]  # pyright: ignore[reportAttributeAccessIssue]
    result = twinsight("models")
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


def test_an_archive_that_can_not_be_written_is_one_line_before_anything_is_embedded(
    twinsight: Twinsight, memory: MemoryServer, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.fail_next(Unavailable("It was asked."))
    result = twinsight("embed", album / "a.jpg", "--out", tmp_path / "no" / "such" / "folder.npz")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/no/such/folder.npz: No such file or directory\n"
    # Not by its mode, which the superuser does not heed.
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
    result = twinsight("embed", album / "a.jpg", "--out", tmp_path / "vectors.npz")
    assert (result.exit_code, result.stderr) == (1, f"Error: {tmp_path}/vectors.npz: Permission denied\n")


def test_shared_options_may_stand_before_or_after_the_command_and_the_later_counts(tmp_path: Path) -> None:
    seen: list[Settings] = []

    def connect(settings: Settings, _retry: object) -> FakeClient:
        seen.append(settings)
        return FakeClient()

    def run(*arguments: str, environment: dict[str, str] | None = None) -> Settings:
        result = CliRunner().invoke(main, arguments, obj=Settings(connect=connect), env=environment)
        assert result.exit_code == 0, result.output
        return seen[-1]

    assert run("models").target == "127.0.0.1:50051"
    assert run("--target", "a:1", "models").target == "a:1"
    assert run("--target", "a:1", "models", "--target", "b:2").target == "b:2"
    assert run("models", environment={"TWINSIGHT_TARGET": "c:3"}).target == "c:3"
    assert run("--target", "a:1", "models", environment={"TWINSIGHT_TARGET": "c:3"}).target == "a:1"
    assert run("collections", "list", "--timeout", "7", environment={"TWINSIGHT_TIMEOUT": "9"}).timeout_s == 7
    assert run("--json", "collections").as_json
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    assert run("--tls-ca", str(ca), "models").tls_ca == ca


def test_a_client_certificate_without_its_key_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("")
    result = CliRunner().invoke(main, ["--tls-cert", str(tmp_path / "c.pem"), "models"])
    assert result.exit_code == 2
    assert "--tls-cert and --tls-key must be given together." in result.stderr


def test_every_command_has_a_help_that_fits_and_the_exit_codes_are_told(twinsight: Twinsight) -> None:
    top = twinsight("--help").stdout
    names = "index search items compare embed classify detect collections models health serve"
    assert all(name in top for name in names.split())
    assert exits.HELP.removeprefix("\b\n").splitlines()[3].strip() in top
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if command and not isinstance(command, ServerCommand):
            assert twinsight(name, "--help").exit_code == 0
            assert "Examples:" in twinsight(name, "-h").stdout
            assert command.short_help


def test_the_real_command_gets_the_arguments_untouched(twinsight: Twinsight, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    @click.option("--listen")
    @click.argument("rest", nargs=-1)
    def real(listen: str, rest: tuple[str, ...]) -> None:
        """The server's own help."""
        click.echo(f"{listen} {rest}")

    monkeypatch.setattr(sys.modules[__name__], "real", real, raising=False)
    monkeypatch.setitem(main.commands, "probe", ServerCommand("probe", location=f"{__name__}:real", short_help="x"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    result = twinsight("probe", "--listen", "0:1", "a", "b")
    assert result.stdout == "0:1 ('a', 'b')\n"
    assert "The server's own help." in twinsight("probe", "--help").stdout
    assert "The server's own help." in twinsight("probe", "-h").stdout
    assert twinsight("probe", "--nonsense").exit_code == 2


def test_without_the_server_extra_its_commands_say_how_to_install_it(
    twinsight: Twinsight, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = ServerCommand("serve", location="twinsight_no_such_server.cli:serve", short_help="x")
    monkeypatch.setitem(main.commands, "serve", missing)
    for arguments in (["serve"], ["serve", "--help"], ["serve", "--listen", "127.0.0.1:0"]):
        result = twinsight(*arguments)
        assert result.exit_code == 1
        assert result.stderr == (
            "Error: `twinsight serve` needs the extra `server`, which is not installed (no module "
            "`twinsight_no_such_server`). Install it with: pip install '.[server]' in the folder of twinsight's "
            "sources\n"
        )
    assert SERVER_COMMANDS["serve"][0] == "twinsight_server.cli:serve"
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(main.commands, "serve", ServerCommand("serve", location="fcntl:flock", short_help="x"))
    assert twinsight("serve").stderr == "Error: `twinsight serve` does not run on this system, which has no `fcntl`\n"


def test_what_is_printed_can_not_play_with_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"
    assert printable("für 日本") == "für 日本"
    assert printable(None) == ""
    assert printable("caf\udce9") == "caf\\udce9"


def test_json_on_a_terminal_commands_it_nothing_and_through_a_pipe_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"id": "für \x9b31m \x9d0;owned\x07 \u202e \x7f \U000e0041"}
    write_json(document)
    piped = capsys.readouterr().out
    assert "für \x9b31m" in piped
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write_json(document)
    shown = capsys.readouterr().out
    assert '"für \\u009b31m \\u009d0;owned\\u0007 \\u202e \\u007f \\udb40\\udc41"' in shown
    assert json.loads(piped) == json.loads(shown) == document


@pytest.mark.parametrize(
    "arguments",
    [
        ["collections", "get", "caf\udce9"],
        ["search", "--item", "caf\udce9"],
        ["search", "--item", "x", "--filter", '{"a": "caf\udce9"}'],
        ["models", "caf\udce9"],
    ],
)
def test_an_argument_that_is_not_utf_8_is_one_line(twinsight: Twinsight, arguments: list[str]) -> None:
    result = twinsight(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert result.stderr.endswith("`caf\\udce9` can't be sent: it is not valid UTF-8.\n")


@pytest.mark.parametrize(
    "target",
    ["", "127.0.0.1", "localhost", "127.0.0.1:", ":50051", "h:115587", "h:0", "h:-1", "h:x", "::1", "::1:50051"],
)
def test_an_address_needs_a_port(twinsight: Twinsight, target: str) -> None:
    for command in (["models"], ["bench", "search", "-c", "photos"]):
        result = twinsight(*command, "--target", target)
        assert result.exit_code == 2
        assert f"`{target}` (--target, TWINSIGHT_TARGET) must be HOST:PORT" in result.stderr
    assert twinsight("--target", target, "models", "--target", "127.0.0.1:1").exit_code == 0


@pytest.mark.parametrize(
    "target", ["127.0.0.1:1", "[::1]:50051", "unix:12345678", "vsock:2:70000", "dns:///server.example:50051"]
)
def test_an_address_may_be_any_that_grpc_resolves(twinsight: Twinsight, target: str) -> None:
    assert twinsight("models", "--target", target).exit_code == 0


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "--timeout"],
        ["search", "--min-score"],
        ["health", "--wait"],
        ["classify", "x", "--min-probability"],
        ["detect", "x", "--min-score"],
        ["bench", "embed", "--rate"],
        ["bench", "embed", "--duration"],
        ["bench", "embed", "--warmup"],
    ],
)
def test_a_number_must_be_finite(twinsight: Twinsight, arguments: list[str], number: str) -> None:
    result = twinsight(*arguments, number)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[-1]}': " in result.stderr


def test_a_file_whose_name_is_not_utf_8_can_be_compared_and_told_of_in_json(twinsight: Twinsight, album: Path) -> None:
    odd = album / os.fsdecode(b"caf\xe9.jpg")
    (album / "a.jpg").rename(odd)
    for arguments in (["compare", odd, odd], ["embed", odd]):
        assert twinsight(*arguments).exit_code == 0
        result = twinsight(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert "caf\\udce9.jpg" in result.stdout
        assert json.loads(result.stdout)


@pytest.mark.parametrize(("charset", "umlaut"), [("ascii", "\\xfc"), ("utf-8", "ü")])
def test_what_an_output_can_not_write_is_escaped(charset: str, umlaut: str) -> None:
    target = "für:1"
    settings = Settings(connect=lambda _settings, _retry: FakeClient())

    def run(*arguments: str) -> str:
        result = CliRunner(charset=charset).invoke(main, ["--target", target, "health", *arguments], obj=settings)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert run() == f"f{umlaut}r:1  serving\n"
    assert json.loads(run("--json")) == {"target": target, "status": "serving"}


def test_json_has_plain_types_alone() -> None:
    assert plain({"v": np.array([1.0, 2.0], np.float32), "t": ("a", None, True), 3: 4}) == {
        "v": [1.0, 2.0],
        "t": ["a", None, True],
        "3": 4,
    }
