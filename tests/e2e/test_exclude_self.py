"""A search for what is like an item can leave that item out of what it finds."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from e2e import errors
from e2e.conftest import Reflected, to_bytes
from e2e.test_collections import ids, put, search


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"ef": 3}], ids=str)
def test_what_is_like_an_item_is_found_without_it(api: Reflected, small: str, options: dict[str, object]) -> None:
    same = dict.fromkeys("abcd", (1.0, 0.0, 0.0))
    put(api, small, **same, far=(9.0, 0.0, 0.0))
    asked = ({"item_id": "a"}, {"item_id": "d"}, {"item_id": "far"}, {"vector": to_bytes(np.array([1.0, 0.0, 0.0]))})
    with_them = search(api, small, *asked, top_k=3, **options)
    assert [ids(one) for one in with_them] == [["a", "b", "c"], ["a", "b", "c"], ["far", "a", "b"], ["a", "b", "c"]]
    without = search(api, small, *asked, top_k=3, exclude_self=True, **options)
    assert [ids(one) for one in without] == [["b", "c", "d"], ["a", "b", "c"], ["a", "b", "c"], ["a", "b", "c"]]


def test_as_many_are_found_as_may_be_asked_for(api: Reflected, small: str) -> None:
    put(api, small, a=(1.0, 0.0, 0.0), b=(2.0, 0.0, 0.0))
    (found,) = search(api, small, {"item_id": "a"}, top_k=1000, exclude_self=True)
    assert ids(found) == ["b"]
    with pytest.raises(grpc.RpcError) as refused:
        search(api, small, {"item_id": "a"}, top_k=3, ef=2, exclude_self=True)
    status = errors.status_of(refused.value)
    assert (errors.reason(status), status.message) == ("EF_INVALID", "`ef` (=2) must be `top_k` (=3) to 4096, or 0.")
