"""Generated pictures, to send if the user names none."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

WIDTH_PX, HEIGHT_PX = 500, 375
"""A common size in collections of photographs: the longer side of ImageNet's."""
GENERATED = 8
QUALITY = 90
"""With the noise below, files have about 80 KB, like photographs of that size."""


def generated_jpegs(*, count: int = GENERATED, seed: int = 0) -> list[bytes]:
    """Returns pictures as JPEG files, each different, and the same ones for the same seed.

    Each has a gradient with its own colours and direction, and coarse and fine noise: a smooth or blank picture would
    decode faster than a photograph.
    """
    random = np.random.default_rng(seed)
    return [_jpeg(random) for _ in range(count)]


def _jpeg(random: np.random.Generator) -> bytes:
    down, across = np.mgrid[0 : 1 : HEIGHT_PX * 1j, 0 : 1 : WIDTH_PX * 1j]
    slopes = random.uniform(-90, 90, (2, 3))
    gradient = random.uniform(80, 176, 3) + across[..., None] * slopes[0] + down[..., None] * slopes[1]
    coarse = np.kron(random.normal(0, 20, (HEIGHT_PX // 25, WIDTH_PX // 25, 3)), np.ones((25, 25, 1)))
    fine = random.normal(0, 8, (HEIGHT_PX, WIDTH_PX, 1))
    pixels = np.clip(gradient + coarse + fine, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()
