import numpy as np

from twinsight_core.models.rcnn.anchors import anchor_shapes, level_anchors, map_sizes


def test_shapes_have_the_area_of_their_scale_and_the_ratio_of_height_to_width() -> None:
    shapes = anchor_shapes(10, scales=(1, 2), ratios=(0.25, 1, 4))
    np.testing.assert_allclose(shapes, [[20, 5], [10, 10], [5, 20], [40, 10], [20, 20], [10, 40]])


def test_maps_are_rounded_up() -> None:
    assert map_sizes(240, 320, strides=(8, 16, 32)) == ((30, 40), (15, 20), (8, 10))


def test_anchors_stand_around_the_centres_of_the_places() -> None:
    anchors = level_anchors(2, 2, stride=8, shapes=anchor_shapes(4, scales=(1,), ratios=(1, 4)))
    assert anchors.shape == (8, 4)
    assert anchors.dtype == np.float32
    np.testing.assert_allclose(anchors[0], [2, 2, 6, 6])  # row 0, column 0: around (4, 4)
    np.testing.assert_allclose(anchors[1], [3, 0, 5, 8])  # the same place, twice as high and half as wide
    np.testing.assert_allclose(anchors[2], [10, 2, 14, 6])  # row 0, column 1: around (12, 4)
    np.testing.assert_allclose(anchors[4], [2, 10, 6, 14])  # row 1, column 0: around (4, 12)
