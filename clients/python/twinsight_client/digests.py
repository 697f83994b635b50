"""Which model made the vectors of a request: an `Embedding` knows, plain numbers don't."""

from __future__ import annotations

from collections.abc import Iterable

from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.results import Embedding
from twinsight_client.unicode_text import check_text


def vector_digest(contents: Iterable[tuple[str, object]], *, given: str) -> str:
    """Returns the `vector_model_digest` to send: the caller's, else that of the embeddings.

    Args:
        contents: everything in the request, each with the path of its vector. Anything but an `Embedding` whose model
            is known is ignored.
        given: the caller's digest; empty: none.

    Raises:
        InvalidArgument: an embedding's model differs from `given`, or from that of an earlier one.
    """
    digest, whose = check_text(given, field="vector_model_digest"), "`vector_model_digest`"
    for path, content in contents:
        if not isinstance(content, Embedding) or not content.model_digest:
            continue
        if digest and content.model_digest != digest:
            message = (
                f"`{path}` is an embedding of model `{content.model_digest}`, but {whose} is of `{digest}`; "
                "vectors are only comparable within one model."
            )
            raise InvalidArgument(message, reason="CLIENT_CHECK", violations=[FieldViolation(path, message)])
        if not digest:
            digest, whose = content.model_digest, f"`{path}`"
    return digest
