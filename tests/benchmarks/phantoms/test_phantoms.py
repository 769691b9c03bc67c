from __future__ import annotations

import numpy as np
import pytest

from benchmarks.phantoms.phantoms import make_flow, make_volume
from runtime.measure.phantom import NUM_OBJECTS, make_phantom


@pytest.mark.parametrize("make", [make_volume, make_flow])
def test_a_phantom_is_a_function_of_its_seed(make) -> None:
    one, same, other = make(3, 6, 64), make(3, 6, 64), make(4, 6, 64)
    np.testing.assert_array_equal(one.pixels, same.pixels)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert (one.pixels != other.pixels).any()
    assert one.pixels.dtype == one.labels.dtype == np.uint8
    assert one.pixels.shape == one.labels.shape == (6, 64, 64)


def test_objects_appear_and_vanish_within_volumes() -> None:
    ends = appears = 0
    for seed in range(6):
        labels = make_volume(seed, 24, 64).labels
        for label in np.unique(labels[labels > 0]):
            present = (labels == label).any((1, 2))
            ends += present[0] and not present[-1]
            appears += present[-1] and not present[0]
    assert ends > 3 and appears > 3


def test_every_picture_of_most_flows_holds_the_object_and_pictures_are_unrelated() -> None:
    flow = make_flow(0, 8, 96)
    present = (flow.labels == 1).any((1, 2))
    assert present.mean() > 0.5
    neighbours = np.corrcoef(flow.pixels.reshape(8, -1).astype(float))
    assert np.abs(neighbours[np.triu_indices(8, 1)]).mean() < 0.5


def test_images_use_the_whole_range() -> None:
    for seed in range(5):
        pixels = make_volume(seed, 6, 64).pixels
        assert pixels.min() < 40 and pixels.max() > 200 and pixels.std() > 8


def test_the_small_phantoms_objects_all_cross_the_middle() -> None:
    phantom = make_phantom((9, 64, 64), seed=1)
    assert set(np.unique(phantom.labels[4])) == set(range(NUM_OBJECTS + 1))
    box = phantom.box(4, 1)
    inside = phantom.labels[4, int(box.y[0]) : int(box.y[1]), int(box.x[0]) : int(box.x[1])] == 1
    assert inside.sum() == (phantom.labels[4] == 1).sum()
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
