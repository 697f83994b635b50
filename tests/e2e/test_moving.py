"""A collection leaves a server as a file and is taken up again, through the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from e2e.conftest import config, running
from twinsight_client import Client, NewItem, ResourceExhausted
from twinsight_client.cli import main
from twinsight_client.results import MetadataValue
from twinsight_server.app import Server

FIELDS: dict[str, MetadataValue] = {
    "text": "für\n\u2028",
    "count": -(2**63),
    "one": 1,
    "weight": 1.0,
    "flag": False,
    "tags": ["a", "b"],
}


def test_a_copy_of_a_collection_has_the_same_items_in_the_same_order(
    server: Server, photos: dict[str, bytes], tmp_path: Path
) -> None:
    def run(*arguments: object) -> None:
        result = CliRunner().invoke(main, ["--target", server.address, "collections", *map(str, arguments)])
        assert result.exit_code == 0, result.output

    with Client(server.address) as client:
        client.create_collection("moving", model="base", metric="dot")
        vectors = np.random.default_rng(5).normal(size=(900, 256)).astype(np.float32)
        client.upsert("moving", [NewItem(f"v{n}", vector, FIELDS) for n, vector in enumerate(vectors)]).values()
        client.upsert("moving", [NewItem(name, image) for name, image in photos.items()]).values()
        (embedding,) = client.embed([photos["brick"]], model="base").values()
        client.upsert("moving", [NewItem("embedded", embedding)]).values()
        run("export", "moving", "--out", tmp_path / "first")
        for _ in range(2):
            run("import", tmp_path / "first", "--collection", "moved")
        run("export", "moved", "--out", tmp_path / "second")
        one, other = (client.get_collection(name) for name in ("moving", "moved"))
        assert (one.item_count, one.metric, one.model_digest) == (other.item_count, other.metric, other.model_digest)
    first, second = ((tmp_path / name).read_bytes().split(b"\n") for name in ("first", "second"))
    assert len(first) == 900 + len(photos) + 3
    assert first[1:] == second[1:]


def test_a_server_with_small_messages_lists_gives_out_and_takes_up_what_fits_them(
    server: Server, cache_dir: Path, tmp_path: Path
) -> None:
    """Of its 40 items two fit a message, and a third does not; the other server's item of 60,000 bytes fits none."""

    def run(address: str, *arguments: object) -> str:
        result = CliRunner().invoke(main, ["--target", address, "collections", *map(str, arguments)])
        assert result.exit_code in {0, 3}, result.output
        return result.stderr

    items = [NewItem(f"i{n:02}", np.ones(2), {"text": "x" * 8000, "n": n}) for n in range(40)]
    settings = config(tmp_path / "data", cache_dir, max_message_bytes=20_000)
    with running(settings) as small, Client(small.address) as client, Client(server.address) as other:
        client.create_collection("heavy", dimension=2)
        for start in range(0, len(items), 2):
            client.upsert("heavy", items[start : start + 2]).values()
        tiny = [NewItem(f"tiny{n:06}", np.ones(2)) for n in range(600)]
        client.create_collection("tiny", dimension=2)
        for start in (0, 300):
            client.upsert("tiny", tiny[start : start + 300]).values()
        pages = [[one.id for one in page.values()] for page in client.list_items("heavy", page_size=64)]
        assert [one for page in pages for one in page] == [item.id for item in items]
        assert {len(page) for page in pages} == {2}
        run(small.address, "export", "heavy", "--out", tmp_path / "file")
        run(server.address, "import", tmp_path / "file")
        other.upsert("heavy", [NewItem("larger", np.ones(2), {"text": "y" * 60_000})]).values()
        run(server.address, "export", "heavy", "--out", tmp_path / "larger")
        told = run(small.address, "import", tmp_path / "larger", "--collection", "taken")
        assert told.count("skipped ") == told.count("[ITEM_TOO_LARGE]") == told.count("skipped larger: ") == 1
        assert client.get_collection("taken").item_count == 40
        other.delete_collection("heavy")
    with running(replace(settings, max_message_bytes=5000)) as smaller, Client(smaller.address) as client:
        with pytest.raises(ResourceExhausted, match="The response exceeds") as caught:
            next(client.list_items("heavy"))
        assert caught.value.reason == "ANSWER_TOO_LARGE"
        # 340 of them have 4,760 bytes, and 5,440 with what is around each.
        pages = [[one.id for one in page.values()] for page in client.list_items("tiny", page_size=340)]
        assert ([one for page in pages for one in page], len(pages[0])) == ([item.id for item in tiny], 170)
