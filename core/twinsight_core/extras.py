"""How what is installed only where it is wanted is installed."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Returns how an extra of this distribution is installed, as the end of a sentence."""
    return f"Install it with: pip install '.[{extra}]' in the folder of twinsight's sources"
