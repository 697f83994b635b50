import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinsight_core.training.box_augment import BoxAugmentation, BoxedView, boxed_views

STILL = BoxAugmentation(
    zoom=(1.0, 1.0), aspect=1.0, shift=0.0, mirror_x=0.0, mirror_y=0.0, transpose=0.0, colour=0.0, untouched=0.0
)
# Dark pictures, each with one bright rectangle on whole pixels.
CORNERS = np.array([[4, 6, 14, 20], [10, 2, 22, 12], [20, 16, 30, 26]])


@cache
def compiled(how: BoxAugmentation) -> Callable[..., BoxedView]:
    return jax.jit(partial(boxed_views, how=how))


def pictures(size: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    images = np.full((len(CORNERS), size, size, 3), 20, np.uint8)
    for image, (x_min, y_min, x_max, y_max) in zip(images, CORNERS, strict=True):
        image[y_min:y_max, x_min:x_max] = 240
    boxes = np.zeros((len(CORNERS), 2, 4), np.float32)
    boxes[:, 0] = CORNERS / size
    return images, boxes, np.tile([True, False], (len(CORNERS), 1)), np.zeros((len(CORNERS), 2), bool)


def seen(how: BoxAugmentation, seed: int = 0) -> BoxedView:
    return compiled(how)(jax.random.key(seed), *(jnp.asarray(one) for one in pictures()))


def bright_box(image: np.ndarray) -> np.ndarray:
    """The rectangle of bright pixels, as fractions."""
    rows, columns = np.nonzero(image[:, :, 0] > 185)
    size = len(image)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / size


def test_with_every_share_at_zero_pictures_and_boxes_stay() -> None:
    images, boxes, valid, _ = pictures()
    view = seen(STILL)
    np.testing.assert_array_equal(view.images, images)
    np.testing.assert_allclose(view.boxes, boxes, atol=1e-6)
    np.testing.assert_array_equal(view.valid, valid)


def test_mirrors_and_the_exchange_of_axes_take_the_boxes_along() -> None:
    images, boxes, *_ = pictures()
    across = seen(replace(STILL, mirror_x=1.0))
    np.testing.assert_array_equal(across.images, images[:, :, ::-1])
    x_min, y_min, x_max, y_max = boxes[:, 0].T
    np.testing.assert_allclose(across.boxes[:, 0], np.stack([1 - x_max, y_min, 1 - x_min, y_max], axis=1), atol=1e-6)
    down = seen(replace(STILL, mirror_y=1.0))
    np.testing.assert_array_equal(down.images, images[:, ::-1])
    np.testing.assert_allclose(down.boxes[:, 0], np.stack([x_min, 1 - y_max, x_max, 1 - y_min], axis=1), atol=1e-6)
    exchanged = seen(replace(STILL, transpose=1.0))
    np.testing.assert_array_equal(exchanged.images, images.transpose(0, 2, 1, 3))
    np.testing.assert_allclose(exchanged.boxes[:, 0], np.stack([y_min, x_min, y_max, x_max], axis=1), atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_stay_around_what_they_mark(seed: int) -> None:
    how = replace(STILL, zoom=(0.6, 1.6), aspect=1.4, shift=0.1, mirror_x=0.5, mirror_y=0.5, transpose=0.5, visible=0.5)
    view = seen(how, seed)
    for image, boxes, valid, _ in zip(*(np.asarray(one) for one in view), strict=True):
        if valid[0]:
            # The edge of the rectangle is blurred over a pixel of the view.
            np.testing.assert_allclose(boxes[0], bright_box(image), atol=1.2 / 32)
        assert not valid[1]
        assert not boxes[1].any()


def test_a_box_of_which_too_little_is_left_does_not_count() -> None:
    # The window is the lower right quarter or the like: of some box nothing is left, of some other a part.
    shares = []
    for seed in range(20):
        strict = seen(replace(STILL, zoom=(2.0, 2.0), visible=0.9), seed)
        loose = seen(replace(STILL, zoom=(2.0, 2.0), visible=0.05), seed)
        assert (np.asarray(loose.valid) | ~np.asarray(strict.valid)).all()
        np.testing.assert_array_equal(strict.images, loose.images)
        shares.append([strict.valid[:, 0].mean(), loose.valid[:, 0].mean()])
        whole = 4 * np.prod((CORNERS[:, 2:] - CORNERS[:, :2]) / 32, axis=1)
        left = np.prod(np.asarray(strict.boxes[:, 0, 2:] - strict.boxes[:, 0, :2]), axis=1)
        kept = np.asarray(strict.valid[:, 0])
        assert (left[kept] >= 0.9 * whole[kept] - 1e-5).all()
    strict_share, loose_share = np.mean(shares, axis=0)
    assert 0.05 < strict_share < loose_share < 0.95


def test_what_is_cut_too_far_is_ignored_and_never_background() -> None:
    strict, loose = (replace(STILL, zoom=(2.0, 2.0), visible=visible) for visible in (0.9, 0.0))
    images, boxes, valid, _ = (jnp.asarray(one) for one in pictures())
    several = 0
    for seed in range(10):
        found, every = seen(strict, seed), seen(loose, seed)
        np.testing.assert_array_equal(found.valid | found.ignored, every.valid)
        np.testing.assert_array_equal(found.boxes, every.boxes)
        assert not (found.valid & found.ignored).any()
        several += int(found.ignored.sum())
        # A region to be ignored stays one however little of it is left.
        of_region = compiled(strict)(jax.random.key(seed), images, boxes, jnp.zeros_like(valid), valid)
        np.testing.assert_array_equal(of_region.ignored, every.valid)
        np.testing.assert_array_equal(of_region.boxes, every.boxes)
        assert not of_region.valid.any()
    assert several > 3


def test_what_lies_beyond_the_picture_is_grey() -> None:
    view = seen(replace(STILL, zoom=(0.5, 0.5)))
    assert {128} < set(np.unique(np.asarray(view.images)).astype(int).tolist())
    # Half of each side is left: three quarters of the view lie beyond.
    assert np.mean(np.asarray(view.images)[..., 0] == 128) == pytest.approx(0.75, abs=0.03)


def test_colours_change_by_picture_and_boxes_do_not() -> None:
    images, boxes, *_ = pictures()
    view = seen(replace(STILL, colour=1.0, strength=0.3))
    np.testing.assert_allclose(view.boxes, boxes, atol=1e-6)
    changes = np.abs(np.asarray(view.images) - images).mean(axis=(1, 2, 3))
    assert (changes > 1).all()
    assert (np.asarray(view.images) == np.round(view.images)).all()
    assert len(np.unique(changes)) == len(changes)


def test_equal_keys_give_equal_views_and_others_do_not() -> None:
    how = BoxAugmentation(untouched=0.0)
    np.testing.assert_array_equal(seen(how, 1).images, seen(how, 1).images)
    assert (np.asarray(seen(how, 1).images) != np.asarray(seen(how, 2).images)).any()


def test_untouched_pictures_keep_their_place() -> None:
    view = seen(replace(BoxAugmentation(), untouched=1.0, colour=0.0))
    np.testing.assert_array_equal(view.images, pictures()[0])


def test_axes_may_change_places_in_square_pictures_only() -> None:
    with pytest.raises(ValueError, match=re.escape("`transpose` (=0.5) must be 0: pictures of 8x16 are not square.")):
        boxed_views(
            jax.random.key(0),
            jnp.zeros((1, 8, 16, 3)),
            jnp.zeros((1, 1, 4)),
            jnp.zeros((1, 1), bool),
            jnp.zeros((1, 1), bool),
            how=replace(STILL, transpose=0.5),
        )


def test_rules_are_told() -> None:
    with pytest.raises(ValueError, match=r"^`zoom` \(=\[2\.0, 1\.0\]\) must be two rising numbers"):
        BoxAugmentation(zoom=(2.0, 1.0))
    with pytest.raises(ValueError, match=r"^`mirror_x` \(=1\.5\) must lie in 0\.\.1\.$"):
        BoxAugmentation(mirror_x=1.5)
