"""Help texts with fixed lines: click rewraps paragraphs unless they start with a backspace."""

from __future__ import annotations

KEEP = "\b\n"


def examples(*lines: str) -> str:
    """Returns the epilog of a command's help: its examples, one per line."""
    return KEEP + "\n".join(("Examples:", *(f"  {line}" for line in lines)))
