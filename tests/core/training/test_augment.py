from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from twinsight_core.training.augment import Augmentation, views

STILL = Augmentation(
    area=(1.0, 1.0),
    aspect=1.0,
    mirror=0.0,
    turn=0.0,
    rotate=0.0,
    colour=0.0,
    grey=0.0,
    blur=0.0,
    jpeg=0.0,
    untouched=0.0,
)


def pictures(count: int = 2) -> np.ndarray:
    y, x = np.mgrid[0:16, 0:16]
    ramp = np.stack([12 * x, 12 * y, 6 * (x + y)], axis=-1)
    return (ramp[None] + np.arange(count)[:, None, None, None]).astype(np.uint8)


@cache
def compiled(how: Augmentation) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return jax.jit(partial(views, how=how))


def seen(how: Augmentation, images: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.asarray(compiled(how)(jax.random.key(seed), jnp.asarray(images)))


def test_with_every_share_at_zero_the_picture_stays() -> None:
    np.testing.assert_array_equal(seen(STILL, pictures()), pictures())


def test_each_change_does_what_it_says() -> None:
    images = pictures()
    np.testing.assert_array_equal(seen(replace(STILL, mirror=1.0), images), images[:, :, ::-1])
    turned = seen(replace(STILL, turn=1.0), images)
    for picture, view in zip(images, turned, strict=True):
        assert min(np.abs(np.rot90(picture, quarters).astype(float) - view).max() for quarters in (1, 2, 3)) <= 1
    grey = seen(replace(STILL, grey=1.0), images)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    np.testing.assert_allclose(grey[..., 0], images @ [0.299, 0.587, 0.114], atol=1)
    edge = np.zeros((1, 128, 128, 3), np.uint8)
    edge[:, :, 64:] = 255
    blurred = seen(replace(STILL, blur=1.0), edge)
    assert 0 < blurred[0, 0, 63, 0] < 128 < blurred[0, 0, 64, 0] < 255
    compressed = seen(replace(STILL, jpeg=1.0), images)
    assert 0 < np.abs(compressed - images.astype(float)).mean() < 20
    cropped = seen(replace(STILL, area=(0.3, 0.3)), images)
    assert np.ptp(cropped[0, :, :, 0]) < 0.7 * np.ptp(images[0, :, :, 0])


def test_views_are_pixels_depend_on_the_key_and_leave_some_pictures_untouched() -> None:
    how, images = Augmentation(), pictures(16)
    first = seen(how, images)
    np.testing.assert_array_equal(first, seen(how, images))
    assert (first != seen(how, images, seed=1)).any()
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 255
    np.testing.assert_array_equal(first, np.round(first))
    same = (first == images).all(axis=(1, 2, 3)).mean()
    assert 0.1 < same < 0.6
