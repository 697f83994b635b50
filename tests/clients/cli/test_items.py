"""`twinsight items`: what is stored in a collection."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from twinsight_client import NewItem, PermissionDenied
from twinsight_client.results import MetadataValue
from twinsight_client.testing import FakeClient, MemoryServer

from .conftest import Twinsight

pytestmark = pytest.mark.client


@pytest.fixture
def shop(memory: MemoryServer) -> None:
    fields: list[dict[str, MetadataValue]] = [
        {"brand": "acme", "price": 7, "tags": ("new", "für \x1b[31m")},
        {"brand": "acme", "price": "7"},
        {},
    ]
    with FakeClient(memory) as client:
        client.create_collection("shop", dimension=2)
        client.upsert(
            "shop", [NewItem(name, [1.0, 0.0], one) for name, one in zip("cab", fields, strict=True)]
        ).values()


@pytest.mark.usefixtures("shop")
def test_items_are_listed_by_id_with_their_fields(twinsight: Twinsight) -> None:
    result = twinsight("items", "shop")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
        ["id", "metadata"],
        ["a", '{"brand": "acme", "price": "7"}'],
        ["b", "{}"],
        ["c", '{"brand": "acme", "price": 7, "tags": ["new", "für \\u001b[31m"]}'],
    ]
    document = json.loads(twinsight("items", "shop", "--json").stdout)
    assert (document["collection"], document["more"]) == ("shop", False)
    assert document["items"][1:] == [
        {"id": "b", "metadata": {}},
        {"id": "c", "metadata": {"brand": "acme", "price": 7, "tags": ["new", "für \x1b[31m"]}},
    ]


@pytest.mark.usefixtures("shop")
def test_a_filter_chooses_items(twinsight: Twinsight) -> None:
    def ids(condition: str) -> list[str]:
        document = json.loads(twinsight("items", "shop", "--json", "--filter", condition).stdout)
        return [one["id"] for one in document["items"]]

    assert ids('{"price": {"gte": 7}}') == ["c"]
    assert ids('{"price": "7"}') == ["a"]
    assert ids('{"brand": {"exists": false}}') == ["b"]
    wrong = twinsight("items", "shop", "--filter", "{")
    assert (wrong.exit_code, "Invalid value for --filter: The filter is not JSON" in wrong.stderr) == (2, True)


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("page", [1, 2, 500])
def test_no_more_are_listed_than_asked_for_and_it_is_said(
    twinsight: Twinsight, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("twinsight_client.cli.items"), "PAGE", page)
    assert [len(twinsight("items", "shop", "--limit", limit).stdout.splitlines()) - 1 for limit in (0, 1, 2, 3, 4)] == [
        3,
        1,
        2,
        3,
        3,
    ]
    assert twinsight("items", "shop", "--limit", 2).stderr == "There are more than 2 items; see --limit and --filter.\n"
    assert twinsight("items", "shop", "--limit", 3).stderr == ""
    assert json.loads(twinsight("items", "shop", "--limit", 2, "--json").stdout)["more"] is True


def test_a_collection_that_is_not_there_is_one_line(twinsight: Twinsight) -> None:
    result = twinsight("items", "none")
    assert (result.exit_code, "[COLLECTION_NOT_FOUND]" in result.stderr, result.stdout) == (1, True, "")


@pytest.mark.usefixtures("shop")
def test_items_are_deleted_by_filter_after_a_question(twinsight: Twinsight, memory: MemoryServer) -> None:
    acme = ("collections", "delete-items", "shop", "--filter", '{"brand": "acme", "price": 7}')
    kept = twinsight(*acme, input="n\n")
    assert kept.exit_code == 1
    question = 'Delete {} of shop that match {{"brand": "acme", "price": 7}}? [y/N]'
    assert question.format("1 items") in kept.stderr
    memory.fail_next(PermissionDenied("No right to read.", reason="READ_DENIED"))
    assert question.format("an unknown number of items") in twinsight(*acme, input="n\n").stderr
    done = twinsight(*acme, input="y\n")
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (0, "Deleted 1 items.")
    assert [line[0] for line in twinsight("items", "shop").stdout.splitlines()[1:]] == ["a", "b"]
    unasked = twinsight(*acme[:-1], '{"brand": {"exists": true}}', "--yes", "--purge", "--json")
    assert json.loads(unasked.stdout) == {"deleted_count": 1, "missing": [], "purged": True}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("given", [(), ("a", "--filter", '{"brand": "acme"}')])
def test_what_to_delete_is_said_in_one_way(twinsight: Twinsight, given: tuple[str, ...]) -> None:
    wrong = twinsight("collections", "delete-items", "shop", *given, "--yes")
    assert (wrong.exit_code, "Give either ids or a --filter." in wrong.stderr) == (2, True)
    assert len(twinsight("items", "shop").stdout.splitlines()) == 4
