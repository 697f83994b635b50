"""The pictures of the demo: photographs in installed packages, or a folder of your own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

MOST = 300
"""Most pictures used from a folder."""

MOST_ORIGINALS = 12
"""Most pictures that edited copies are made of."""

_PACKAGED = {
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
    "skimage.data": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "camera.png",
        "coins.png",
        "hubble_deep_field.jpg",
        "retina.jpg",
        "ihc.png",
        "moon.png",
        "brick.png",
        "grass.png",
        "gravel.png",
        "cell.png",
        "clock_motion.png",
        "color.png",
        "horse.png",
        "page.png",
        "text.png",
        "logo.png",
        "microaneurysms.png",
    ),
}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def packaged_photos() -> dict[str, Path]:
    """Returns the photographs of scikit-learn and scikit-image by name."""
    return {
        Path(name).stem: Path(str(resources.files(package))) / name
        for package, names in _PACKAGED.items()
        for name in names
    }


def own_photos(folder: Path) -> dict[str, Path]:
    """Returns up to `MOST` pictures below a folder, by their path in it."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    return {str(path.relative_to(folder)): path for path in found[:MOST]}
