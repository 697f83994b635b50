"""Page tokens: where the next page of a listing begins, valid for that listing only."""

from __future__ import annotations

import base64
import binascii
import hashlib

from twinsight.v1 import collection_service_pb2 as pb
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import InvalidInput

_MARK_BYTES = 9


def token_for(request: pb.ListItemsRequest, collection: Collection, after: str | None) -> str:
    """Returns the token of the page after an item; empty if `after` is None, that is, if there is no next page."""
    if after is None:
        return ""
    return base64.urlsafe_b64encode(_mark(request, collection) + after.encode()).decode()


def beginning(request: pb.ListItemsRequest, collection: Collection) -> str:
    """Returns the id after which the requested page begins; empty: the first page.

    Raises:
        InvalidInput: the token is malformed, or of another collection, a deleted one or another filter.
    """
    if not request.page_token:
        return ""
    try:
        token = base64.urlsafe_b64decode(request.page_token.encode("ascii"))
        if token[:_MARK_BYTES] == _mark(request, collection):
            return token[_MARK_BYTES:].decode()
    except (UnicodeError, binascii.Error):
        pass
    raise InvalidInput(
        "`page_token` must be the `next_page_token` of the previous page, with the same `filter`; start a re-created "
        "collection from its first page.",
        reason="PAGE_TOKEN_INVALID",
        field="page_token",
    )


def _mark(request: pb.ListItemsRequest, collection: Collection) -> bytes:
    listing = hashlib.blake2b(collection.mark.encode(), digest_size=_MARK_BYTES)
    if request.HasField("filter"):
        listing.update(b"\0" + request.filter.SerializeToString(deterministic=True))
    return listing.digest()
