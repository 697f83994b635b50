"""`twinsight index`: what is written, what is skipped, and what a second run does."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf.message import Message
from twinsight.v1.collection_service_pb2 import DeleteItemsRequest, DeleteItemsResponse

from twinsight_client import (
    FailedPrecondition,
    ItemError,
    NewItem,
    ResourceExhausted,
    Results,
    RetryPolicy,
    Unavailable,
)
from twinsight_client.cli import indexing, main
from twinsight_client.cli.index import _print_report
from twinsight_client.cli.indexing import Indexer, IndexReport
from twinsight_client.cli.pictures import find_pictures, is_gone, stored_file
from twinsight_client.cli.settings import Settings
from twinsight_client.testing import FakeClient, MemoryServer

pytestmark = pytest.mark.client

Twinsight = Callable[..., Result]
IDS = ["2024/b.jpg", "2024/broken.png", "2024/summer/c.JPG", "a.jpg"]


def run_json(twinsight: Twinsight, *arguments: object, exit_code: int) -> dict[str, object]:
    result = twinsight("index", *arguments, "--json")
    assert result.exit_code == exit_code, result.output
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def stored_ids(memory: MemoryServer, collection: str = "photos") -> set[str]:
    with FakeClient(memory) as client:
        return {item.id for page in client.list_items(collection) for item in page.values()}


def test_pictures_are_found_in_all_folders_but_hidden_ones(album: Path) -> None:
    assert sorted(picture.file for picture in find_pictures(album).pictures) == IDS


def test_links_to_nothing_and_folders_in_circles_are_passed_over(album: Path) -> None:
    (album / "gone.jpg").symlink_to(album / "nowhere.jpg")
    (album / "2024" / "circle").symlink_to(album)
    assert sorted(picture.file for picture in find_pictures(album).pictures) == IDS


def test_a_pipe_is_no_picture_whatever_its_name(album: Path) -> None:
    os.mkfifo(album / "pipe.jpg")
    (album / "link.jpg").symlink_to("pipe.jpg")
    assert sorted(picture.file for picture in find_pictures(album).pictures) == IDS


def test_a_folder_is_written_and_what_can_not_be_read_is_listed(
    twinsight: Twinsight, memory: MemoryServer, album: Path
) -> None:
    result = twinsight("index", album)
    assert result.exit_code == 3
    assert result.stdout.splitlines()[:6] == [
        "collection  photos",
        "found       4",
        "unchanged   0",
        "written     3",
        "skipped     1",
        "pruned      0",
    ]
    assert result.stderr == (
        "skipped 2024/broken.png: The image is not a whole JPEG, PNG or WebP file. [IMAGE_UNREADABLE]\n"
    )
    assert stored_ids(memory) == {"a.jpg", "2024/b.jpg", "2024/summer/c.JPG"}
    with FakeClient(memory) as client:
        assert client.get_collection("photos").model == "fake"
        (item,) = client.get_items("photos", ["2024/summer/c.JPG"]).values()
    state = (album / "2024/summer/c.JPG").stat()
    assert item.metadata == {
        "file": "2024/summer/c.JPG",
        "folder": ("2024", "summer"),
        "mtime_ns": state.st_mtime_ns,
        "root": str(album),
        "size": state.st_size,
    }


def test_a_second_run_sends_only_what_changed(
    twinsight: Twinsight, memory: MemoryServer, album: Path, picture: Callable[[int], bytes]
) -> None:
    (album / "2024" / "broken.png").unlink()
    first = run_json(twinsight, album, exit_code=0)
    assert (first["found"], first["written"], first["unchanged"], first["finished"]) == (3, 3, 0, True)
    second = run_json(twinsight, album, exit_code=0)
    assert (second["written"], second["unchanged"]) == (0, 3)

    (album / "a.jpg").write_bytes(picture(9))
    os.utime(album / "2024" / "b.jpg", ns=(1, 1))
    (album / "new.png").write_bytes(picture(10))
    third = run_json(twinsight, album, exit_code=0)
    assert (third["found"], third["written"], third["unchanged"], third["moved"]) == (4, 3, 1, 0)
    with FakeClient(memory) as client:
        (matches,) = client.search("photos", [picture(9)], top_k=1).values()
    assert matches[0].id == "a.jpg"


def test_prune_deletes_items_of_this_folder_whose_file_is_gone(
    twinsight: Twinsight, memory: MemoryServer, album: Path, tmp_path: Path, picture: Callable[[int], bytes]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(picture(20))
    run_json(twinsight, other, "--prefix", "other/", exit_code=0)
    run_json(twinsight, album, exit_code=3)
    (album / "a.jpg").unlink()
    assert run_json(twinsight, album, exit_code=3)["pruned"] == 0
    assert "a.jpg" in stored_ids(memory)
    assert run_json(twinsight, album, "--prune", exit_code=3)["pruned"] == 1
    assert stored_ids(memory) == {"other/x.jpg", "2024/b.jpg", "2024/summer/c.JPG"}
    (album / "2024" / "b.jpg").unlink()
    assert "--purge requires --prune." in twinsight("index", album, "--purge").stderr
    assert run_json(twinsight, album, "--prune", "--purge", exit_code=3)["pruned"] == 1
    assert stored_ids(memory) == {"other/x.jpg", "2024/summer/c.JPG"}


def test_a_purge_is_asked_for_once_and_also_where_no_file_is_newly_gone(
    twinsight: Twinsight, memory: MemoryServer, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, int]] = []
    answer = memory.answer

    def note(request: Message) -> Message:
        answered = answer(request)
        if isinstance(request, DeleteItemsRequest) and isinstance(answered, DeleteItemsResponse):
            asked.append((request.purge, answered.deleted_count))
        return answered

    monkeypatch.setattr(memory, "answer", note)
    monkeypatch.setattr(indexing, "CHUNK", 1)
    run_json(twinsight, album, exit_code=3)
    for name in ("a.jpg", "2024/b.jpg"):
        (album / name).unlink()
    assert run_json(twinsight, album, "--prune", exit_code=3)["pruned"] == 2
    assert asked == [(False, 1), (False, 1)]
    asked.clear()
    assert run_json(twinsight, album, "--prune", "--purge", exit_code=3)["pruned"] == 0
    assert asked == [(True, 0)]
    assert stored_ids(memory) == {"2024/summer/c.JPG"}
    for name in ("a.jpg", "2024/b.jpg"):
        (album / name).write_bytes((album / "2024/summer/c.JPG").read_bytes())
    run_json(twinsight, album, exit_code=3)
    for name in ("a.jpg", "2024/b.jpg"):
        (album / name).unlink()
    asked.clear()
    assert run_json(twinsight, album, "--prune", "--purge", exit_code=3)["pruned"] == 2
    assert asked == [(False, 1), (False, 1), (True, 0)]


def test_prune_on_an_empty_folder_deletes_nothing(twinsight: Twinsight, memory: MemoryServer, album: Path) -> None:
    twinsight("index", album)
    for one in find_pictures(album).pictures:
        one.path.unlink()
    result = twinsight("index", album, "--prune")
    assert result.exit_code == 1
    assert "The folder has no pictures; nothing was pruned. [FOLDER_EMPTY]" in result.stderr
    assert len(stored_ids(memory)) == 3
    assert "Not finished.\n" in result.stderr
    assert run_json(twinsight, album, "--prune", exit_code=1)["finished"] is False
    assert run_json(twinsight, album, exit_code=0)["finished"] is True


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Takes the right to read a folder away; not by its mode, which the superuser does not heed."""

    def lock(folder: Path) -> None:
        scan, look = os.scandir, os.stat

        def refuse(path: object) -> None:
            if isinstance(path, str | Path) and Path(path).is_relative_to(folder):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        def locked_scan(path: str) -> object:
            refuse(path)
            return scan(path)

        def locked_look(path: str | Path, *, follow_symlinks: bool = True) -> os.stat_result:
            if path != folder:
                refuse(path)
            return look(path, follow_symlinks=follow_symlinks)

        monkeypatch.setattr(os, "scandir", locked_scan)
        monkeypatch.setattr(os, "stat", locked_look)

    return lock


def test_a_folder_that_can_not_be_read_is_listed_and_prune_deletes_nothing_of_it(
    twinsight: Twinsight,
    memory: MemoryServer,
    album: Path,
    picture: Callable[[int], bytes],
    lock: Callable[[Path], None],
) -> None:
    (album / "2024" / "broken.png").unlink()
    (album / "gone.jpg").write_bytes(picture(9))
    run_json(twinsight, album, "--prefix", "p/", exit_code=0)
    (album / "gone.jpg").unlink()
    lock(album / "2024")
    result = run_json(twinsight, album, "--prefix", "p/", "--prune", exit_code=3)
    assert (result["found"], result["unchanged"], result["pruned"]) == (1, 1, 1)
    assert result["skipped"] == [{"id": "p/2024", "reason": "FOLDER_UNREADABLE", "message": "Permission denied"}]
    assert stored_ids(memory) == {"p/a.jpg", "p/2024/b.jpg", "p/2024/summer/c.JPG"}


def test_a_file_that_can_not_be_looked_at_is_listed_and_kept(
    twinsight: Twinsight, memory: MemoryServer, album: Path
) -> None:
    (album / "2024" / "broken.png").unlink()
    run_json(twinsight, album, exit_code=0)
    (album / "a.jpg").unlink()
    (album / "a.jpg").symlink_to("a.jpg")
    result = twinsight("index", album, "--prune")
    assert result.exit_code == 3
    assert result.stderr == f"skipped a.jpg: {os.strerror(errno.ELOOP)} [FILE_UNREADABLE]\n"
    assert "a.jpg" in stored_ids(memory)


def test_prune_keeps_items_whose_file_is_there_under_another_id_or_is_not_known(
    twinsight: Twinsight, memory: MemoryServer, album: Path
) -> None:
    run_json(twinsight, album, "--prefix", "old/", exit_code=3)
    with FakeClient(memory) as client:
        client.upsert("photos", [NewItem("mine", [1.0] * 16, {"root": str(album)})])
    assert run_json(twinsight, album, "--prune", exit_code=3)["pruned"] == 0
    assert {"old/a.jpg", "mine", "a.jpg"} <= stored_ids(memory)


def test_a_file_is_gone_only_where_the_system_says_so(album: Path) -> None:
    (album / "dangling.jpg").symlink_to(album / "nowhere.jpg")
    (album / "circle.jpg").symlink_to("circle.jpg")
    gone = ["nowhere.jpg", "no/such/folder.jpg", "a.jpg/b.jpg"]
    there = ["a.jpg", "2024", "dangling.jpg", "circle.jpg/b.jpg", "x" * 300 + ".jpg", "nul\0.jpg"]
    assert [one for one in (*gone, *there) if is_gone(album / one)] == gone


def test_a_collection_of_another_model_or_of_none_is_left_alone(
    twinsight: Twinsight, memory: MemoryServer, album: Path
) -> None:
    with FakeClient(memory) as client:
        client.create_collection("vectors", dimension=3)
    result = twinsight("index", album, "--collection", "vectors")
    assert result.exit_code == 1
    assert "Collection `vectors` is bound to no model; choose another with --collection." in result.stderr


def test_an_error_of_the_whole_ends_the_run_and_tells_how_far_it_came(
    twinsight: Twinsight, memory: MemoryServer, album: Path
) -> None:
    with FakeClient(memory) as client:
        client.create_collection("photos", model="fake")
    real, count = memory.answer, 0

    def answer_until_it_breaks(request: object) -> object:
        nonlocal count
        count += type(request).__name__ == "UpsertItemsRequest"
        if count > 1:
            raise Unavailable("Draining.", reason="DRAINING")
        return real(request)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    memory.answer = answer_until_it_breaks  # type: ignore[method-assign,assignment]  # pyright: ignore[reportAttributeAccessIssue]
    result = twinsight("index", album, "--jobs", 1, "--batch-size", 1)
    assert result.exit_code == 4
    assert "Not finished: run the same command again to continue." in result.stderr
    assert "Error: Draining. [DRAINING]" in result.stderr
    assert "Traceback" not in result.output

    memory.answer = real  # type: ignore[method-assign]
    again = run_json(twinsight, album, exit_code=3)
    assert again["finished"] is True
    assert stored_ids(memory) == {"a.jpg", "2024/b.jpg", "2024/summer/c.JPG"}


class CountingClient(FakeClient):
    """Keeps what each upsert holds, and can refuse or be interrupted."""

    def __init__(self, memory: MemoryServer, *, most_items: int = 1000, interrupt_at: int = 0) -> None:
        super().__init__(memory)
        self.upserts: list[list[str]] = []
        self._most_items = most_items
        self._interrupt_at = interrupt_at

    def upsert(
        self,
        collection: str,
        items: Iterable[NewItem],
        *,
        vector_model_digest: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Results[str]:
        items = list(items)
        self.upserts.append([item.id for item in items])
        if len(self.upserts) == self._interrupt_at:
            raise KeyboardInterrupt
        if len(items) > self._most_items:
            raise ResourceExhausted("Sent message larger than max (9 vs. 8)")
        return super().upsert(
            collection,
            items,
            vector_model_digest=vector_model_digest,
            timeout_s=timeout_s,
            request_id=request_id,
        )


def test_messages_that_are_too_large_are_halved_until_they_fit(memory: MemoryServer, album: Path) -> None:
    client = CountingClient(memory, most_items=1)
    client.create_collection("photos", model="fake")
    indexer = Indexer(client, "photos", jobs=1)
    indexer.run(find_pictures(album))
    assert [len(one) for one in client.upserts] == [4, 2, 1, 1, 2, 1, 1]
    assert (indexer.report.written, [one.id for one in indexer.report.skipped]) == (3, ["2024/broken.png"])


def test_one_picture_that_is_too_large_is_skipped_and_a_full_disk_is_not_taken_for_it(
    memory: MemoryServer, album: Path
) -> None:
    client = CountingClient(memory, most_items=0)
    client.create_collection("photos", model="fake")
    indexer = Indexer(client, "photos")
    indexer.run(find_pictures(album))
    assert {one.reason for one in indexer.report.skipped} == {"FILE_TOO_LARGE"}
    assert len(indexer.report.skipped) == 4

    memory.fail_next(*[ResourceExhausted("No room.", reason="STORAGE_FULL")] * 2)
    with pytest.raises(ResourceExhausted, match="No room"):
        Indexer(FakeClient(memory), "photos").run(find_pictures(album))


def test_what_keeps_all_pictures_out_of_a_collection_is_told_once(
    memory: MemoryServer, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: FakeClient, __: str, items: Iterable[NewItem]) -> Results[str]:
        return Results(
            [ItemError(n, "FAILED_PRECONDITION", "MODEL_NOT_LOADED", "Not loaded.") for n, _ in enumerate(items)]
        )

    monkeypatch.setattr(FakeClient, "upsert", refuse)
    client = FakeClient(memory)
    client.create_collection("photos", model="fake")
    indexer = Indexer(client, "photos", jobs=1, batch_size=1)
    with pytest.raises(FailedPrecondition, match=r"^Not loaded\.$"):
        indexer.run(find_pictures(album))
    assert not indexer.report.finished
    assert indexer.report.skipped == []


def test_an_interruption_keeps_what_was_written_and_the_next_run_does_the_rest(
    memory: MemoryServer, album: Path
) -> None:
    client = CountingClient(memory, interrupt_at=3)
    client.create_collection("photos", model="fake")
    indexer = Indexer(client, "photos", jobs=1, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        indexer.run(find_pictures(album))
    assert not indexer.report.finished
    assert indexer.report.written == len(stored_ids(memory)) >= 1
    rest = Indexer(client, "photos")
    rest.run(find_pictures(album))
    assert rest.report.unchanged == indexer.report.written
    assert rest.report.unchanged + rest.report.written == 3


def test_a_report_without_any_time_has_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    _print_report(IndexReport("photos", found=1, written=1), as_json=False)
    assert "time        0.0 s\n" in capsys.readouterr().out


def test_a_file_that_vanishes_or_has_no_text_for_a_name_is_skipped_alone(memory: MemoryServer, album: Path) -> None:
    (album / os.fsdecode(b"caf\xe9.jpg")).write_bytes((album / "a.jpg").read_bytes())
    pictures = find_pictures(album)
    (album / "a.jpg").unlink()
    client = FakeClient(memory)
    client.create_collection("photos", model="fake")
    counted: list[int] = []
    indexer = Indexer(client, "photos", advance=counted.append)
    indexer.run(pictures)
    assert sorted(one.reason for one in indexer.report.skipped) == [
        "FILE_NAME_NOT_UNICODE",
        "FILE_UNREADABLE",
        "IMAGE_UNREADABLE",
    ]
    assert indexer.report.written == 2
    assert sum(counted) == indexer.report.found == 5


def test_the_file_of_an_item_is_where_it_was_indexed_or_where_it_is_told_to_be(album: Path, tmp_path: Path) -> None:
    metadata = {"root": str(album), "file": "a.jpg"}
    assert stored_file("prefix/a.jpg", metadata, root=None) == album / "a.jpg"
    assert stored_file("prefix/a.jpg", metadata, root=tmp_path) is None
    assert stored_file("a.jpg", {}, root=album) == album / "a.jpg"
    assert stored_file("a.jpg", {}, root=None) is None
    assert stored_file("gone.jpg", {"root": str(album)}, root=None) is None
    assert stored_file("x" * 300, {"root": str(album)}, root=None) is None


def test_indexing_is_more_patient_with_a_server_than_other_commands(album: Path) -> None:
    policies: list[RetryPolicy] = []

    def connect(_settings: Settings, retry: RetryPolicy) -> FakeClient:
        policies.append(retry)
        return FakeClient()

    CliRunner().invoke(main, ["index", str(album)], obj=Settings(connect=connect))
    CliRunner().invoke(main, ["models"], obj=Settings(connect=connect))
    assert policies[0].attempts > policies[1].attempts == RetryPolicy().attempts
