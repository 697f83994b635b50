"""Where a page begins is told by a token, which is good for its own listing alone."""

from __future__ import annotations

import grpc
import pytest

from e2e import errors
from e2e.conftest import Dynamic, Reflected
from e2e.test_collections import put


def test_a_page_token_holds_for_its_own_listing_alone(api: Reflected, small: str) -> None:
    def page(**asked: object) -> Dynamic:
        return api.call("CollectionService", "ListItems", **{"collection": small, "page_size": 1, **asked})

    put(api, small, a=(1.0, 0.0, 0.0), b=(2.0, 0.0, 0.0))
    anything, more = ({"condition": {"field": one, "exists": False}} for one in "nm")
    whole, filtered = page().next_page_token, page(filter=anything).next_page_token
    for asked in ({"page_token": whole}, {"page_token": filtered, "filter": anything}):
        assert [one.item.id for one in page(**asked).results] == ["b"]
    made_anew = {"id": small, "dimension": 3, "metric": 2}
    api.call("CollectionService", "CreateCollection", collection={**made_anew, "id": "other"})
    put(api, "other", a=(1.0, 0.0, 0.0), b=(2.0, 0.0, 0.0))
    refused = [
        {"page_token": whole, "collection": "other"},
        {"page_token": whole, "filter": anything},
        {"page_token": filtered, "filter": more},
        {"page_token": filtered},
        *({"page_token": bad} for bad in ("1", "a", "ä", "=" * 9, whole[:-1], whole[1:], "x" * 10_000)),
    ]

    def check(asked: dict[str, object]) -> None:
        with pytest.raises(grpc.RpcError) as told:
            page(**asked)
        status = errors.status_of(told.value)
        assert (errors.reason(status), errors.field(status)) == ("PAGE_TOKEN_INVALID", "page_token")

    for asked in refused:
        check(asked)
    for name in (small, "other"):
        api.call("CollectionService", "DeleteCollection", collection=name)
    api.call("CollectionService", "CreateCollection", collection=made_anew)
    check({"page_token": whole})
