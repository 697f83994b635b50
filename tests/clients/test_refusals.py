"""The fake refuses what a server refuses; `e2e/test_refusals` runs the same calls against a real one."""

from __future__ import annotations

import pytest

from twinsight_client import NewItem
from twinsight_client.testing import FakeClient

from .refusals import COLLECTION, REFUSED, VECTOR, prepare, refusal

pytestmark = pytest.mark.client


@pytest.fixture
def client() -> FakeClient:
    client = FakeClient()
    prepare(client)
    return client


@pytest.mark.parametrize("name", REFUSED)
def test_the_fake_refuses_what_a_server_refuses(client: FakeClient, name: str) -> None:
    assert refusal(client, name) == REFUSED[name][1]


def test_batches_under_a_name_that_can_not_be_are_refused_for_the_name_alone(client: FakeClient) -> None:
    items = [NewItem(str(number), VECTOR) for number in range(2)]
    batches = list(client.ingest(COLLECTION, items, ingest_id="i" * 129, batch_size=1))
    assert [one.reason for batch in batches for one in batch.errors()] == ["INGEST_ID_INVALID"] * 2
