"""`twinsight collections export` and `import`: a collection into a file, and out of it into a server."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from google.protobuf import json_format
from google.protobuf.message import Message

from twinsight.v1 import collection_service_pb2 as collections_pb
from twinsight_client import Item, NewItem, ResourceExhausted, Unavailable
from twinsight_client.cli import main, moving
from twinsight_client.cli.collection_files import VERSION
from twinsight_client.cli.settings import Settings
from twinsight_client.results import MetadataValue
from twinsight_client.testing import FakeClient, MemoryServer

pytestmark = pytest.mark.client

Twinsight = Callable[..., Result]
FIELDS: Mapping[str, MetadataValue] = {
    "text": 'a "quote"\nand a line \u2028 für \U0001f980',
    "count": 2**63 - 1,
    "small": -1,
    "one": 1,
    "weight": 1.0,
    "tiny": 5e-324,
    "flag": True,
    "tags": ("x", "y"),
    "none": (),
}


def on(memory: MemoryServer) -> Twinsight:
    """Runs `twinsight` against a server of one's own."""

    def run(*arguments: object) -> Result:
        settings = Settings(connect=lambda _settings, _retry: FakeClient(memory))
        return CliRunner().invoke(main, [str(one) for one in arguments], obj=settings)

    return run


def stored(memory: MemoryServer, collection: str) -> list[tuple[str, bytes, str]]:
    """Every item in order, to the bit of its vector and the type of its values."""
    with FakeClient(memory) as client:
        pages = list(client.list_items(collection, include_vectors=True))
    items = [item for page in pages for item in page.values()]
    return [(one.id, one.vector.tobytes() if one.vector is not None else b"", repr(one.metadata)) for one in items]


def fill(memory: MemoryServer, collection: str, *, count: int = 5, metric: str = "cosine", model: str = "fake") -> None:
    rng = np.random.default_rng(3)
    with FakeClient(memory) as client:
        client.create_collection(collection, model=model, dimension=0 if model else 16, metric=metric)
        vectors = rng.normal(size=(count, 16)).astype(np.float32)
        items = [NewItem(f"ü{n}", vector, {**FIELDS, "n": n}) for n, vector in enumerate(vectors)]
        client.upsert(collection, [*items[1:], NewItem("bare", vectors[0])]).values()


@pytest.fixture
def exported(twinsight: Twinsight, memory: MemoryServer, tmp_path: Path) -> Path:
    """The file of a collection of five items."""
    fill(memory, "photos")
    out = tmp_path / "photos.jsonl"
    result = twinsight("collections", "export", "photos", "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"Exported photos: {out} (5 items)\n"
    return out


def rewrite(file: Path, change: Callable[[list[str]], None]) -> None:
    lines = file.read_text("utf-8").split("\n")[:-1]
    change(lines)
    file.write_text("".join(line + "\n" for line in lines), "utf-8")


def counted(lines: list[str], count: int) -> None:
    lines[0] = json.dumps(json.loads(lines[0]) | {"item_count": count})


@pytest.mark.parametrize(("metric", "model"), [("cosine", "fake"), ("dot", ""), ("euclidean", "fake")])
def test_a_collection_is_on_another_server_as_it_was(
    twinsight: Twinsight, memory: MemoryServer, tmp_path: Path, metric: str, model: str
) -> None:
    fill(memory, "photos", metric=metric, model=model)
    assert twinsight("collections", "export", "photos", "--out", tmp_path / "a").exit_code == 0
    other = MemoryServer()
    result = on(other)("collections", "import", tmp_path / "a", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["collection"], report["created"], report["items"], report["written"]) == ("photos", True, 5, 5)
    assert (report["unchanged"], report["skipped"], report["finished"]) == (0, [], True)
    assert stored(other, "photos") == stored(memory, "photos") != []
    with FakeClient(memory) as old, FakeClient(other) as new:
        copy, original = new.get_collection("photos"), old.get_collection("photos")
        assert replace(copy, create_time=original.create_time) == original


def test_the_file_is_its_makers_alone_and_lines_of_protobufs_json(exported: Path, memory: MemoryServer) -> None:
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    assert list(exported.parent.iterdir()) == [exported]
    with FakeClient(memory) as client:
        info = client.get_collection("photos")
        listed = [item for page in client.list_items("photos", include_vectors=True) for item in page.values()]
    first, *lines = exported.read_bytes().split(b"\n")[:-1]
    assert json.loads(first) == {
        "format": "twinsight.collection",
        "format_version": VERSION,
        "collection": "photos",
        "model": "fake",
        "model_digest": info.model_digest,
        "metric": "cosine",
        "dimension": 16,
        "item_count": 5,
    }
    messages = [json_format.Parse(line, collections_pb.Item()) for line in lines]
    assert [one.id for one in messages] == [one.id for one in listed]
    assert [np.frombuffer(one.vector, "<f4").tolist() for one in messages] == [
        one.vector.tolist() for one in listed if one.vector is not None
    ]
    values = json.loads(lines[1])["metadata"]
    assert values["one"] == {"integerValue": "1"}
    assert values["weight"] == {"floatValue": 1.0}
    assert messages[1].metadata["count"].integer_value == 2**63 - 1
    assert messages[1].metadata["none"].WhichOneof("kind") == "string_list"


def test_a_collection_is_copied_under_another_name(twinsight: Twinsight, memory: MemoryServer, exported: Path) -> None:
    result = twinsight("collections", "import", exported, "--collection", "copy")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()][:4] == [
        ["collection", "copy", "(new)"],
        ["items", "5"],
        ["unchanged", "0"],
        ["written", "5"],
    ]
    assert stored(memory, "copy") == stored(memory, "photos")


def test_a_second_run_writes_what_is_missing_or_changed_alone(
    twinsight: Twinsight, memory: MemoryServer, exported: Path
) -> None:
    before = sorted(stored(memory, "photos"))
    assert json.loads(twinsight("collections", "import", exported, "--json").stdout)["unchanged"] == 5
    with FakeClient(memory) as client:
        (kept,) = client.get_items("photos", ["ü2"], include_vectors=True).values()
        client.delete_items("photos", ["ü1"])
        client.upsert("photos", [NewItem("ü2", vector_of(kept), {**kept.metadata, "one": 1.0})]).values()
        client.upsert("photos", [NewItem("ü3", -vector_of(kept), {**kept.metadata, "n": 3})]).values()
        client.upsert("photos", [NewItem("new", vector_of(kept))]).values()
    report = json.loads(twinsight("collections", "import", exported, "--json").stdout)
    assert (report["created"], report["unchanged"], report["written"]) == (False, 2, 3)
    assert sorted(one for one in stored(memory, "photos") if one[0] != "new") == before


def vector_of(item: Item) -> np.ndarray:
    assert item.vector is not None
    return item.vector


def test_a_run_that_broke_off_is_told_and_run_again(
    twinsight: Twinsight, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "CHUNK", 2)
    other = MemoryServer()
    answer, upserts = other.answer, 0

    def drains(request: Message) -> Message:
        nonlocal upserts
        upserts += isinstance(request, collections_pb.UpsertItemsRequest)
        if upserts == 2:
            upserts += 1
            raise Unavailable("The server drains.", reason="DRAINING")
        return answer(request)

    other.answer = drains  # type: ignore[method-assign]
    broken = on(other)("collections", "import", exported)
    assert broken.exit_code == 4
    assert broken.stderr == (
        "Not finished: run the same command again to continue.\nError: The server drains. [DRAINING]\n"
    )
    again = json.loads(on(other)("collections", "import", exported, "--json").stdout)
    assert (again["created"], again["unchanged"], again["written"]) == (False, 2, 3)
    assert twinsight("collections", "import", exported).exit_code == 0


def test_vectors_are_sent_with_the_digest_of_their_model_in_ever_smaller_messages_where_they_must_be(
    exported: Path,
) -> None:
    other = MemoryServer()
    answer = other.answer
    sent: list[tuple[int, str]] = []

    def small(request: Message) -> Message:
        if isinstance(request, collections_pb.UpsertItemsRequest):
            sent.append((len(request.items), request.vector_model_digest))
            if len(request.items) > 2:
                raise ResourceExhausted("Received message larger than max (9 vs. 5)")
        return answer(request)

    other.answer = small  # type: ignore[method-assign]
    assert on(other)("collections", "import", exported).exit_code == 0
    digest = json.loads(exported.read_bytes().split(b"\n")[0])["model_digest"]
    assert sent == [(count, digest) for count in (5, 2, 3, 1, 2)]
    assert len(stored(other, "photos")) == 5


def test_the_model_is_found_by_its_digest_under_whatever_name_and_must_be_there(exported: Path) -> None:
    renamed = MemoryServer()
    cards = renamed._cards._cards
    cards["other"] = type(cards["fake"]).FromString(cards["fake"].SerializeToString())
    cards["other"].name, cards["fake"].digest = "other", "sha256:new"
    assert on(renamed)("collections", "import", exported).exit_code == 0
    with FakeClient(renamed) as client:
        assert client.get_collection("photos").model == "other"
    without = MemoryServer(models=["another"])
    refused = on(without)("collections", "import", exported)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: The model of the vectors is not served here: `sha256:")
    assert refused.stderr.endswith("called `fake` when exported. Serve it, under any name. [MODEL_NOT_LOADED]\n")
    with FakeClient(without) as client:
        assert client.list_collections() == []


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"dimension": 16}, "dimension 16, metric cosine and no model"),
        ({"dimension": 8}, "dimension 8, metric cosine and no model"),
        ({"model": "fake", "metric": "dot"}, "dimension 16, metric dot and model `sha256:"),
        ({"model": "another"}, "dimension 16, metric cosine and model `sha256:"),
    ],
)
def test_a_collection_that_is_unlike_the_one_in_the_file_is_refused(
    exported: Path, made: dict[str, str], said: str
) -> None:
    other = MemoryServer(models=["fake", "another"])
    with FakeClient(other) as client:
        client.create_collection("photos", **made)  # type: ignore[arg-type]
    refused = on(other)("collections", "import", exported)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"Error: Collection `photos` has {said}")
    assert refused.stderr.endswith(". Choose another with --collection. [COLLECTION_MISMATCH]\n")
    assert stored(other, "photos") == []


def replaced(place: int, old: str, new: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        assert old in lines[place]
        lines[place] = lines[place].replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.pop(), " has 4 items, but its first line says 5: it was truncated or changed."),
        (
            lambda lines: lines.pop(0),
            " was not written by `twinsight collections export`: its first line is no header.",
        ),
        (
            lambda lines: lines.clear(),
            " was not written by `twinsight collections export`: its first line is no header.",
        ),
        (replaced(0, '"cosine"', '"taxi"'), ", line 1: the description of the collection is incomplete or wrong."),
        (
            replaced(0, '"format_version": 1', '"format_version": 2'),
            " has format version 2; this release reads up to 1.",
        ),
        (replaced(3, '"vector": "', '"vector": "!'), ", line 4: Only base64 data is allowed."),
        (replaced(3, '"vector": "', '"vector": "AAAA'), ", line 4: `vector` has 67 bytes, not 4 x 16."),
        (
            replaced(3, '"vector"', '"vectors"'),
            ", line 4: an item must have an `id`, a `vector` in base64 and `metadata`.",
        ),
        (replaced(2, '"integerValue"', '"number"'), ", line 3: metadata `count` has a value of an unknown kind."),
        (replaced(2, '["x", "y"]', "[1]"), ", line 3: metadata `tags` must be a list of strings."),
        (
            replaced(2, '"-1"', f'"{2**63}"'),
            f", line 3: Item `ü1`: Metadata `small` ({2**63}) must fit a signed 64-bit ",
        ),
        (lambda lines: lines.__setitem__(1, "[" * 100_000), ", line 2: "),
        (lambda lines: lines.__setitem__(1, "[]"), ", line 2: an item must be a JSON object."),
    ],
)
def test_a_file_that_is_not_whole_is_refused_before_anything_is_written(
    exported: Path, change: Callable[[list[str]], None], said: str
) -> None:
    rewrite(exported, change)
    other = MemoryServer()
    refused = on(other)("collections", "import", exported)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"Error: {exported}{said}")
    assert refused.stderr.endswith("[FILE_DAMAGED]\n" if "version" not in said else "[FILE_TOO_NEW]\n")
    with FakeClient(other) as client:
        assert client.list_collections() == []


def test_items_that_the_server_refuses_are_listed_and_the_others_written(exported: Path) -> None:
    rewrite(exported, replaced(2, '"ü1"', f'"{"x" * 257}"'))
    other = MemoryServer()
    result = on(other)("collections", "import", exported)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"skipped {'x' * 257}: ")
    assert result.stderr.endswith("[ITEM_ID_INVALID]\n")
    assert len(stored(other, "photos")) == 4


def test_of_two_lines_of_one_id_the_later_counts_in_every_run(exported: Path) -> None:
    def again(lines: list[str]) -> None:
        lines.insert(1, lines[3].replace('"x"', '"older"'))
        counted(lines, 6)

    rewrite(exported, again)
    other = MemoryServer()
    for _ in range(2):
        assert on(other)("collections", "import", exported).exit_code == 0
        assert len(stored(other, "photos")) == 5
        assert "older" not in str(stored(other, "photos"))


def test_a_pipe_is_no_file_to_import(twinsight: Twinsight, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        result = twinsight("collections", "import", tmp_path / "pipe")
    finally:
        os.close(descriptor)
    assert (result.exit_code, "must be a regular file, because it is read twice." in result.stderr) == (2, True)


def meanwhile(memory: MemoryServer, do: Callable[[FakeClient], object]) -> None:
    """Does something to a server after it answered the first page of a listing."""
    answer = memory.answer
    done = False

    def answered(request: Message) -> Message:
        nonlocal done
        response = answer(request)
        if isinstance(request, collections_pb.ListItemsRequest) and not done:
            done = True
            do(FakeClient(memory))
        return response

    memory.answer = answered  # type: ignore[method-assign]


def test_an_export_that_missed_what_was_written_meanwhile_says_so(
    twinsight: Twinsight, memory: MemoryServer, exported: Path
) -> None:
    meanwhile(memory, lambda client: client.upsert("photos", [NewItem("late", [1.0] * 16)]).values())
    result = twinsight("collections", "export", "photos", "--out", exported, "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert (report["items"], report["item_count"], report["file"]) == (5, 6, str(exported))
    assert "photos now has 6: it was written to during the export. Export it again" in result.stderr


def test_an_export_of_a_collection_that_is_made_anew_meanwhile_keeps_the_file_of_before(
    twinsight: Twinsight, memory: MemoryServer, exported: Path
) -> None:
    def anew(client: FakeClient) -> None:
        client.delete_collection("photos")
        client.create_collection("photos", dimension=8)

    before = exported.read_bytes()
    meanwhile(memory, anew)
    result = twinsight("collections", "export", "photos", "--out", exported)
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: Collection `photos` was deleted and re-created meanwhile; nothing was written. Export it again. "
        "[COLLECTION_REPLACED]\n",
    )
    assert (exported.read_bytes(), list(exported.parent.iterdir())) == (before, [exported])


def test_an_export_is_given_up_as_soon_as_a_page_is_of_another_collection(
    twinsight: Twinsight, memory: MemoryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def anew(client: FakeClient) -> None:
        client.delete_collection("photos")
        fill(memory, "photos")

    fill(memory, "photos")
    monkeypatch.setattr(moving, "CHUNK", 2)
    meanwhile(memory, anew)
    result = twinsight("collections", "export", "photos", "--out", tmp_path / "photos.jsonl")
    assert result.exit_code == 1
    assert result.stderr.endswith("[COLLECTION_REPLACED]\n")
    assert list(tmp_path.iterdir()) == []


def test_an_import_into_a_collection_that_is_made_anew_meanwhile_says_so(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MemoryServer()
    asked: list[Message] = []
    answer = other.answer

    def answered(request: Message) -> Message:
        response = answer(request)
        if isinstance(request, collections_pb.UpsertItemsRequest):
            asked.append(request)
            if len(asked) == 1:
                with FakeClient(other) as client:
                    client.delete_collection("photos")
                    client.create_collection("photos", model="fake")
        return response

    monkeypatch.setattr(moving, "CHUNK", 2)
    other.answer = answered  # type: ignore[method-assign]
    result = on(other)("collections", "import", exported)
    assert result.exit_code == 1
    assert "Import the file again. [COLLECTION_REPLACED]" in result.stderr


def test_an_export_that_can_not_be_written_is_one_line(
    twinsight: Twinsight, memory: MemoryServer, exported: Path
) -> None:
    missing = twinsight("collections", "export", "photos", "--out", exported.parent / "no" / "photos.jsonl")
    assert (missing.exit_code, missing.stderr) == (
        1,
        f"Error: {exported.parent}/no/photos.jsonl: No such file or directory\n",
    )
    os.mkfifo(exported.parent / "pipe")
    memory.fail_next(Unavailable("It was asked."))
    piped = twinsight("collections", "export", "photos", "--out", exported.parent / "pipe")
    assert (piped.exit_code, piped.stderr) == (1, f"Error: {exported.parent}/pipe: not a regular file\n")
    assert twinsight("collections", "export", "nobody", "--out", exported).exit_code == 4
    unknown = twinsight("collections", "export", "nobody", "--out", exported)
    assert (unknown.exit_code, "COLLECTION_NOT_FOUND" in unknown.stderr) == (1, True)
    assert exported.stat().st_size
