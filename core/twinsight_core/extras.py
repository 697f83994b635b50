"""How what is installed only where it is wanted is installed."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Returns the sentence that says how an extra of this distribution is installed, without its full stop."""
    return f"Install it with: pip install '.[{extra}]' in the folder of twinsight's sources"
