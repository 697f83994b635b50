"""A collection leaves a server as a file and is taken up again, through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from twinsight_client import Client, NewItem
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
