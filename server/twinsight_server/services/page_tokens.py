"""Where the next page of a listing begins, as a text that holds for that listing alone."""

from __future__ import annotations

import base64
import binascii
import hashlib

from twinsight.v1 import collection_service_pb2 as pb
from twinsight_core.collections.collection import Collection
from twinsight_core.errors import InvalidInput

_MARK_BYTES = 9


def token_for(request: pb.ListItemsRequest, collection: Collection, after: str | None) -> str:
    """Returns the token of the page that begins after an item; None: there is none, and the token is empty."""
    if after is None:
        return ""
    return base64.urlsafe_b64encode(_mark(request, collection) + after.encode()).decode()


def beginning(request: pb.ListItemsRequest, collection: Collection) -> str:
    """Returns after what the page that is asked for begins; empty: it is the first.

    Raises:
        InvalidInput: the token is none, or that of another collection, of one that is gone, or of another filter.
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
        "`page_token` must be the `next_page_token` of the page before, with the same `filter`; a collection that was "
        "deleted and made anew is listed from the start.",
        reason="PAGE_TOKEN_INVALID",
        field="page_token",
    )


def _mark(request: pb.ListItemsRequest, collection: Collection) -> bytes:
    listing = hashlib.blake2b(collection.mark.encode(), digest_size=_MARK_BYTES)
    if request.HasField("filter"):
        listing.update(b"\0" + request.filter.SerializeToString(deterministic=True))
    return listing.digest()
