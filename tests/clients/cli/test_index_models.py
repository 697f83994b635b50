"""Indexing into a collection whose model has changed, is served under another name, or is not served."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from twinsight_client import ItemError, NewItem, NotFound, Results
from twinsight_client.cli.indexing import ensure_collection
from twinsight_client.errors import FailedPrecondition
from twinsight_client.results import CollectionInfo
from twinsight_client.testing import FakeClient, MemoryServer

pytestmark = pytest.mark.client

Twinsight = Callable[..., Result]


def test_the_given_model_is_told_by_its_digest_and_not_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(MemoryServer(models=["old", "people"]))
    client.create_collection("photos", model="old")
    get = FakeClient.get_collection

    def when_it_was_made(self: FakeClient, collection: str) -> CollectionInfo:
        return replace(get(self, collection), model="people")  # what `old` was called then

    monkeypatch.setattr(FakeClient, "get_collection", when_it_was_made)
    for model in ("old", ""):
        assert ensure_collection(client, "photos", model=model).id == "photos"
    with pytest.raises(FailedPrecondition) as refused:
        ensure_collection(client, "photos", model="people")
    bound, given = (client.get_model(name).digest for name in ("old", "people"))
    assert refused.value.message == (
        f"Collection `photos` is bound to model `people` ({bound}), and `people` is {given}; choose another with "
        "--collection."
    )
    with pytest.raises(NotFound):
        ensure_collection(client, "photos", model="none")


def test_the_collections_own_model_need_not_be_served_to_prune(memory: MemoryServer) -> None:
    client = FakeClient(MemoryServer(models=["people"]))
    client.create_collection("photos", model="people")
    client.server = memory
    gone = FakeClient(memory)
    gone.get_collection = client.get_collection  # type: ignore[method-assign]
    assert ensure_collection(gone, "photos", model="people").id == "photos"
    with pytest.raises(NotFound):
        ensure_collection(gone, "photos", model="other")


def test_what_is_gone_is_pruned_and_purged_also_where_the_model_is_not_served(
    twinsight: Twinsight, memory: MemoryServer, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twinsight("index", album)

    def refuse(_: FakeClient, __: str, items: Iterable[NewItem]) -> Results[str]:
        said = "The model of `photos` is not served."
        return Results([ItemError(n, "FAILED_PRECONDITION", "MODEL_NOT_LOADED", said) for n, _ in enumerate(items)])

    monkeypatch.setattr(FakeClient, "upsert", refuse)
    (album / "new.jpg").write_bytes((album / "a.jpg").read_bytes() + b"\0")
    (album / "a.jpg").unlink()
    purges: list[bool] = []
    delete = FakeClient.delete_items

    def noting(client: FakeClient, collection: str, ids: Iterable[str] = (), **how: bool) -> object:
        purges.append(bool(how.get("purge")))
        return delete(client, collection, ids, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeClient, "delete_items", noting)
    done = twinsight("index", album, "--prune", "--purge")
    assert done.exit_code == 1
    assert "pruned      1\n" in done.stdout
    assert purges == [False, True]
    assert done.stderr.splitlines()[-2:] == [
        "Not finished.",
        "Error: The model of `photos` is not served. [MODEL_NOT_LOADED]",
    ]
    with FakeClient(memory) as client:
        assert "a.jpg" not in {item.id for page in client.list_items("photos") for item in page.values()}


def test_collections_whose_model_is_not_served_are_told(
    twinsight: Twinsight, memory: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeClient(memory) as client:
        client.create_collection("photos", model="fake")
        client.create_collection("vectors", dimension=3)
    for command in (("list",), ("get", "photos"), ("get", "vectors")):
        assert "not served" not in twinsight("collections", *command).stdout
    monkeypatch.setattr(FakeClient, "list_models", lambda _: [])
    listed = twinsight("collections").stdout.splitlines()
    assert ["fake (not served)" in line for line in listed] == [False, True, False]
    assert "fake (not served)" in twinsight("collections", "get", "photos").stdout
    assert "not served" not in twinsight("collections", "get", "vectors").stdout
