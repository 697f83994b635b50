"""The token that says who calls: an API key or a JWT."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twinsight_client.channel import Tls, is_local
from twinsight_client.status import REQUEST_ID

Token: TypeAlias = str | Callable[[], str]
"""A token, or what returns the one of the moment, for tokens that are renewed; it is asked at every call."""


class Bearer:
    """Adds a token to the metadata of calls, where nobody else can read it.

    Args:
        token: None: there is none.
        target: where the calls go.
        tls: None: plain text.
        allow_plaintext: send it in plain text to other machines, too.

    Raises:
        ValueError: whoever sees the traffic would have the token.
    """

    def __init__(self, token: Token | None, *, target: str, tls: Tls | None, allow_plaintext: bool) -> None:
        if token is not None and tls is None and not allow_plaintext and not is_local(target):
            raise ValueError(
                f"A token is not sent to `{target}` in plain text, where others may read it: use TLS, or allow it "
                "with `ChannelOptions(allow_plaintext_token=True)`."
            )
        self._token = token

    def metadata(self, *, request_id: str) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of a call.

        Raises:
            ValueError: the token holds what a header can't.
        """
        from_id = (REQUEST_ID, request_id)
        if self._token is None:
            return (from_id,)
        token = self._token if isinstance(self._token, str) else self._token()
        if not (token.isascii() and token.isprintable() and token and " " not in token):
            # Without the token itself: errors are logged.
            raise ValueError("The token is empty or holds what no token can.")
        return (from_id, ("authorization", f"Bearer {token}"))
