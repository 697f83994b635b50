"""Pictures written to files, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

_JPEG_QUALITY = 92


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture, in the format that the name's suffix stands for; a file appears once it is complete.

    Raises:
        OSError: the disk is full, or the path is not writable.
        ValueError: the suffix stands for no format, or the picture is too large for it.
    """
    suffix = path.suffix.lower()
    form = Image.registered_extensions().get(suffix)
    if form is None:
        raise ValueError(f"unknown file extension: {suffix}")
    if path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK)):
        # A device, or a file in a folder that takes no other.
        picture.save(path, format=form, quality=_JPEG_QUALITY)
        return
    # Beside the target, so that it can take its place; a short name, since the target's may be as long as names can be.
    part = path.with_name(f".twinsight-{os.getpid()}{suffix}")
    try:
        picture.save(part, format=form, quality=_JPEG_QUALITY)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
