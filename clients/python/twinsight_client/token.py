"""The token that identifies the caller: an API key or a JWT."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twinsight_client.channel import Tls, is_local
from twinsight_client.status import REQUEST_ID

Token: TypeAlias = str | Callable[[], str]
"""A token, or, for tokens that are renewed, a function that returns the current one; called for every call."""


class Bearer:
    """Adds a token to the metadata of calls, unless others could read it on the way.

    Args:
        token: None: none.
        target: where the calls go.
        tls: None: plain text.
        allow_plaintext: send the token in plain text to other machines, too.

    Raises:
        ValueError: anybody who sees the traffic could read the token.
    """

    def __init__(self, token: Token | None, *, target: str, tls: Tls | None, allow_plaintext: bool) -> None:
        if token is not None and tls is None and not allow_plaintext and not is_local(target):
            raise ValueError(
                f"The token would be sent to `{target}` in plain text, where others may read it: use TLS, or allow it "
                "with `ChannelOptions(allow_plaintext_token=True)`."
            )
        self._token = token

    def metadata(self, *, request_id: str) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of a call.

        Raises:
            ValueError: the token is empty or has characters that a header can't hold.
        """
        from_id = (REQUEST_ID, request_id)
        if self._token is None:
            return (from_id,)
        token = self._token if isinstance(self._token, str) else self._token()
        if not (token.isascii() and token.isprintable() and token and " " not in token):
            # Without the token itself: errors are logged.
            raise ValueError("The token must be non-empty printable ASCII without spaces.")
        return (from_id, ("authorization", f"Bearer {token}"))
