"""Help texts that keep their lines: click folds paragraphs unless they start with a backspace."""

from __future__ import annotations

KEEP = "\b\n"


def examples(*lines: str) -> str:
    """Returns the end of a command's help: its examples, one a line."""
    return KEEP + "\n".join(("Examples:", *(f"  {line}" for line in lines)))
