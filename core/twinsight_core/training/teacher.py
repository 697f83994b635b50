"""The teacher of `base`: a classifier's features at full size, and the directions in which they differ."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from twinsight_core.images import Preprocessing
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.training.data import LabelledImages, PictureSource, decode_files, pixels_key
from twinsight_core.training.evaluate import in_batches


@dataclass(frozen=True)
class Projection:
    """Principal components: the linear head that an embedding starts from.

    Attributes:
        matrix: [features, dimension] float32.
        offset: [dimension] float32.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Returns [count, dimension] float32 unit vectors of [count, features] float32."""
        return unit_rows(features @ self.matrix + self.offset)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of [count, dimension] at length 1."""
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def fit_projection(features: np.ndarray, *, dimension: int) -> Projection:
    """Returns the projection on the directions in which features differ most, centred, none stretched.

    Whitening, which makes the directions' spreads equal, was tried: it does better on some sets and much worse on
    others.

    Source: Jégou and Chum, "Negative evidences and co-occurences in image retrieval: the benefit of PCA and whitening",
    ECCV 2012.

    Args:
        features: [count, features] float32.
        dimension: components to keep.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / len(features))
    matrix = directions[:, np.argsort(variance)[::-1][:dimension]]
    # One factor for all keeps the embedding's length near 1 before it is normalised.
    matrix = matrix / np.sqrt(np.square(centred @ matrix).sum(axis=1).mean())
    return Projection(matrix=matrix.astype(np.float32), offset=(-mean @ matrix).astype(np.float32))


def teacher_features(
    backbone: MobileNetV1, path: Path, pictures: LabelledImages, *, size_px: int, cache: Path
) -> np.ndarray:
    """Returns the mean features of pictures at the teacher's own size.

    Args:
        backbone: the teacher's, in evaluation mode.
        path: the source that `pictures` was read from.
        pictures: whose files are embedded, in their order.
        size_px: side of the teacher's input.
        cache: file that keeps the features; a hash of all that they depend on is put into its name.

    Returns:
        [count, channels] float32.
    """
    source = PictureSource(path)
    preprocessing = Preprocessing(height_px=size_px, width_px=size_px)
    graph, state = nnx.split(backbone)
    key = f"{pixels_key(source, pictures.files, preprocessing)}-{_weights_key(backbone)}"
    cached = cache.with_name(f"{cache.stem}-{key}.npy")
    if cached.exists():
        stored: np.ndarray = np.load(cached)
        return stored

    @jax.jit
    @in_float32
    def run(state: nnx.GraphState[jax.Array], images: jax.Array) -> jax.Array:
        return jnp.mean(nnx.merge(graph, state)(images), axis=(1, 2))

    features = np.concatenate(
        [
            in_batches(
                lambda images: run(state, images),
                decode_files(source, pictures.files[start : start + 512], preprocessing=preprocessing),
            )
            for start in range(0, len(pictures), 512)
        ]
    )
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(".partial.npy")
    np.save(partial, features)
    partial.replace(cached)
    return features


def _weights_key(backbone: MobileNetV1) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(backbone)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:8]
