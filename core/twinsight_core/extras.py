"""How to install optional dependencies."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Returns the sentence that says how to install an extra of this distribution, without its full stop."""
    return f"Install it with: pip install '.[{extra}]' in the folder of twinsight's sources"
