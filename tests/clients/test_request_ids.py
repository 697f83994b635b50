"""The ids under which calls are logged: given by the caller, or new."""

from __future__ import annotations

import asyncio

import pytest

from twinsight_client import AsyncClient, Client, InvalidArgument, NewItem

from .conftest import WireServer

pytestmark = pytest.mark.client

ITEM = NewItem("a", [1.0])


@pytest.mark.parametrize("request_id", ["a\nb", "a b", "ä", "x" * 129])
def test_a_name_that_no_call_can_have_is_refused_before_sending(wire: WireServer, request_id: str) -> None:
    said = r"^`request_id` \(=.*\) must be 1 to 128 ASCII letters, digits and any of `\._:/\+=-`\.$"
    with Client(wire.address) as client:
        for call in (
            lambda: client.list_models(request_id=request_id),
            lambda: list(client.embed_stream([b"x"], request_id=request_id)),
            lambda: list(client.ingest("c", [ITEM], request_id=request_id)),
        ):
            with pytest.raises(InvalidArgument, match=said) as raised:
                call()
            assert (raised.value.reason, raised.value.field) == ("CLIENT_CHECK", "request_id")

    async def story() -> None:
        async with AsyncClient(wire.address) as client:
            with pytest.raises(InvalidArgument, match=said):
                await client.list_models(request_id=request_id)
            with pytest.raises(InvalidArgument, match=said):
                async for _ in client.embed_stream([b"x"], request_id=request_id):
                    pass

    asyncio.run(story())
    assert wire.calls == []
    with Client(wire.address) as client:
        client.list_models(request_id="order-7/a._:+=" + "x" * 100)
    assert wire.calls[0].request_id == "order-7/a._:+=" + "x" * 100
