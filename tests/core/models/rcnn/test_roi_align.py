from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinsight_core.models.rcnn.roi_align import pyramid_level, roi_align


def reference(
    maps: Sequence[np.ndarray], boxes: np.ndarray, strides: Sequence[int], canonical_px: float, size: int
) -> np.ndarray:
    """Sample by sample, in float64, with two samples along each side of a bin."""
    result = np.zeros((*boxes.shape[:2], size, size, maps[0].shape[-1]))
    for picture, number in np.ndindex(*boxes.shape[:2]):
        x_min, y_min, x_max, y_max = boxes[picture, number].astype(np.float64)
        side = np.sqrt((x_max - x_min) * (y_max - y_min))
        level = int(np.clip(np.floor(4 + np.log2(side / canonical_px)) - np.log2(strides[0]), 0, len(strides) - 1))
        features, stride = maps[level][picture].astype(np.float64), strides[level]
        for row, column, i, j in np.ndindex(size, size, 2, 2):
            y = (y_min + (y_max - y_min) * (row + (i + 0.5) / 2) / size) / stride - 0.5
            x = (x_min + (x_max - x_min) * (column + (j + 0.5) / 2) / size) / stride - 0.5
            result[picture, number, row, column] += bilinear(features, y, x) / 4
    return result


def bilinear(features: np.ndarray, y: float, x: float) -> np.ndarray:
    rows, columns, channels = features.shape
    if not (-1 <= y <= rows and -1 <= x <= columns):
        return np.zeros(channels)
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
    top, left = int(y), int(x)
    below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
    down, across = y - top, x - left
    upper = features[top, left] * (1 - across) + features[top, right] * across
    lower = features[below, left] * (1 - across) + features[below, right] * across
    sampled: np.ndarray = upper * (1 - down) + lower * down
    return sampled


def test_a_box_over_a_ramp_reads_the_ramp_at_its_bins_centres() -> None:
    # The value of a cell is the coordinate of its centre in pixels, so a sample reads its own coordinate.
    centres = (np.arange(8) + 0.5) * 4
    x, y = np.meshgrid(centres, centres)
    ramp = jnp.asarray(np.stack([x, y], axis=-1)[None], jnp.float32)
    features = roi_align([ramp], jnp.array([[[6.0, 8.0, 20.0, 22.0]]]), strides=(4,), canonical_px=224, size=2)
    assert features.shape == (1, 1, 2, 2, 2)
    np.testing.assert_allclose(features[0, 0, :, :, 0], [[9.5, 16.5], [9.5, 16.5]], rtol=1e-6)
    np.testing.assert_allclose(features[0, 0, :, :, 1], [[11.5, 11.5], [18.5, 18.5]], rtol=1e-6)


def test_levels_are_those_of_the_paper() -> None:
    sides = np.array([10, 111.9, 112, 223.9, 224, 447.9, 448, 2000])
    boxes = jnp.asarray(np.stack([0 * sides, 0 * sides, sides, sides], axis=1), jnp.float32)
    # Levels 2 to 5 are those of strides 4 to 32; 224 px belong to level 4.
    levels = pyramid_level(boxes, strides=(4, 8, 16, 32), canonical_px=224)
    assert (levels + 2).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert pyramid_level(boxes, strides=(8, 16), canonical_px=224).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_reference_on_every_level_and_across_the_edge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(2, 12 // k, 16 // k, 3)).astype(np.float32) for k in (1, 2, 4)]
    corners = rng.uniform(-20, 100, (2, 9, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 90, (2, 9, 2))], axis=-1).astype(np.float32)
    strides, canonical = (8, 16, 32), 30.0
    assert len(np.unique(pyramid_level(jnp.asarray(boxes), strides=strides, canonical_px=canonical))) == 3
    run = jax.jit(lambda maps, boxes: roi_align(maps, boxes, strides=strides, canonical_px=canonical, size=3))
    features = run([jnp.asarray(one) for one in maps], jnp.asarray(boxes))
    np.testing.assert_allclose(features, reference(maps, boxes, strides, canonical, 3), atol=2e-4)


def test_each_value_of_a_map_gets_its_share_of_the_gradient() -> None:
    def total(features: jax.Array) -> jax.Array:
        return jnp.sum(roi_align([features], jnp.array([[[8.0, 8, 24, 24]]]), strides=(4,), canonical_px=224, size=2))

    gradient = jax.grad(total)(jnp.zeros((1, 8, 8, 1)))
    # Four bins of weight 1 each, all of it on the cells below the box and their neighbours.
    assert float(jnp.sum(gradient)) == pytest.approx(4.0)
    assert float(jnp.sum(gradient[:, 1:7, 1:7])) == pytest.approx(4.0)


def test_a_box_without_area_has_features_all_the_same() -> None:
    features = roi_align([jnp.ones((1, 4, 4, 2))], jnp.zeros((1, 1, 4)), strides=(8,), canonical_px=112)
    np.testing.assert_allclose(features, 1.0)
