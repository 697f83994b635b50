"""Text that a message can hold: Unicode without lone surrogates, which undecodable file names have in Python."""

from __future__ import annotations

from twinsight_client.errors import FieldViolation, InvalidArgument


class NotUnicode(InvalidArgument):
    """A text is not valid Unicode; in streams, the thing that it belongs to fails alone."""


def check_text(text: str, *, field: str) -> str:
    """Returns `text`.

    Args:
        text: the text.
        field: path of its field, for the error.

    Raises:
        NotUnicode: it has lone surrogates.
    """
    if isinstance(text, str) and not is_unicode(text):  # protobuf rejects other types
        message = f"`{ascii(text)[1:-1]}` can't be sent: it is not valid UTF-8."
        raise NotUnicode(message, reason="CLIENT_CHECK", violations=[FieldViolation(field, message)])
    return text


def is_unicode(text: str) -> bool:
    """Whether a message can hold a text: it has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_unicode(text: str) -> str:
    """Returns `text` with a question mark in place of each lone surrogate."""
    return text.encode(errors="replace").decode()
