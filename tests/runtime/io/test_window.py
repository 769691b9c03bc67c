from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runtime.errors import InputError
from runtime.io.volumes.volume import Volume
from runtime.io.window import CT_PRESETS, PERCENTILES, Window, apply_window, parse_window

VOXELS = st.one_of(
    arrays(np.int16, (3, 4, 5)),
    arrays(np.int32, (3, 4, 5), elements=st.integers(-(10**6), 10**6)),
    arrays(np.int32, (3, 4, 5)),
    arrays(np.float32, (3, 4, 5), elements=st.floats(-3000, 3000, width=32)),
    arrays(np.float64, (3, 4, 5), elements=st.floats(-3000, 3000)),
)


def line(*values: float, dtype: type = np.int16, modality: str | None = None) -> Volume:
    return Volume.from_array(np.array(values, dtype).reshape(1, 1, -1), modality=modality)


def whole_volume_ct(array: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """MedSAM2's lines, in float64."""
    clipped = np.clip(array.astype(np.float64), lower, upper)
    if clipped.max() == clipped.min():
        return np.zeros(array.shape, np.uint8)
    stretched = (clipped - clipped.min()) / (clipped.max() - clipped.min()) * 255.0
    return stretched.astype(np.uint8)


def whole_volume_percentile(array: np.ndarray) -> np.ndarray:
    sample = array[array > 0] if (array > 0).any() else array
    if array.dtype.kind == "i":  # of the array's own type NumPy's differences need not fit
        sample = sample.astype(np.float64)
    lower, upper = np.percentile(sample, 0.5), np.percentile(sample, 99.5)
    mapped = whole_volume_ct(array, float(lower), float(upper))
    mapped[array == 0] = 0
    return mapped


def test_the_abdomen_window_of_a_hand_computed_line() -> None:
    # Bounds -160 and 240: the stretch is (x + 160) / 400 * 255 with the fraction dropped.
    mapped, window = apply_window(line(-1000, -160, -60, 40, 139, 240, 3000), "abdomen")
    assert mapped.ravel().tolist() == [0, 0, 63, 127, 190, 255, 255]
    assert (window.kind, window.lower, window.upper) == ("abdomen", -160.0, 240.0)


def test_the_stretch_uses_the_clipped_volumes_own_extremes() -> None:
    mapped, _ = apply_window(line(0, 50, 100), "abdomen")
    assert mapped.ravel().tolist() == [0, 127, 255]


def test_the_percentile_window_of_a_hand_computed_line() -> None:
    # Percentiles of 100, 200, 300 are 101 and 299; (200 - 101) / 198 * 255 = 127.5.
    mapped, window = apply_window(line(-50, 0, 100, 200, 300), "percentile")
    assert mapped.ravel().tolist() == [0, 0, 0, 127, 255]
    assert (window.lower, window.upper) == (101.0, 299.0)


def test_percentiles_come_from_all_voxels_when_none_is_positive() -> None:
    mapped, window = apply_window(line(-300, -200, -100), "percentile")
    assert mapped.ravel().tolist() == [0, 127, 255]
    assert (window.lower, window.upper) == (-299.0, -101.0)


def test_zero_voxels_stay_zero_even_where_the_percentiles_lie_below_zero() -> None:
    mapped, _ = apply_window(line(-300, -200, -100, 0), "percentile")
    assert mapped.ravel()[3] == 0


@pytest.mark.parametrize("name", CT_PRESETS)
def test_each_preset_is_its_width_about_its_level(name: str) -> None:
    width, level = CT_PRESETS[name]
    window = parse_window(name)
    assert (window.lower, window.upper) == (level - width / 2, level + width / 2)
    assert parse_window(f"{level:g}/{width:g}").lower == window.lower


def test_presets_are_those_of_the_slicer_plugin() -> None:
    assert CT_PRESETS["abdomen"] == (400, 40)
    assert CT_PRESETS["lung"] == (1500, -600)
    assert CT_PRESETS["brain"] == (80, 40)
    assert CT_PRESETS["mediastinum"] == (350, 50)


def test_a_typed_window_is_level_before_width() -> None:
    assert parse_window("-600/1500") == Window("-600/1500", -1350.0, 150.0)


@pytest.mark.parametrize("text", ["liver", "", "40", "40/", "40/0", "40/-5", "nan/1", "1/2/3"])
def test_a_window_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="wanted"):
        parse_window(text)


@pytest.mark.parametrize("text", ["lung", "-5/80", "percentile", "abdomen"])
def test_the_kind_of_the_used_window_asks_for_the_same_again(text: str) -> None:
    volume = line(-1000, 3, 50, 700)
    mapped, window = apply_window(volume, text)
    again, _ = apply_window(volume, window.kind)
    assert np.array_equal(mapped, again)
    assert f"{window.lower:g} to {window.upper:g}" in window.describe


def test_none_hands_back_the_array_and_refuses_other_types() -> None:
    volume = line(1, 2, 3, dtype=np.uint8)
    assert apply_window(volume, "none")[0] is volume.array
    with pytest.raises(InputError, match="int16"):
        apply_window(line(1, 2, 3), "none")


@pytest.mark.parametrize(
    ("volume", "kind"),
    [
        (line(0, 9, dtype=np.uint8, modality="CT"), "none"),
        (line(0, 9, modality="CT"), "abdomen"),
        (line(-1000, 5, 9, modality="MR"), "percentile"),
        (line(-1000, 5, 9, modality="PT"), "percentile"),
        (line(-900, 9), "abdomen"),
        (line(-899, 5, 9), "percentile"),
        (line(np.nan, -1000, dtype=np.float32), "abdomen"),
    ],
)
def test_auto_chooses_by_type_then_modality_then_air(volume: Volume, kind: str) -> None:
    assert apply_window(volume)[1].kind == kind


@pytest.mark.parametrize("text", ["abdomen", "percentile"])
@pytest.mark.parametrize("value", [-2000, 0, 7])
def test_a_constant_volume_becomes_zero(text: str, value: int) -> None:
    assert not apply_window(line(value, value, value), text)[0].any()


@pytest.mark.parametrize("text", ["abdomen", "percentile", "auto"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_is_the_lowest_value_and_infinities_are_clipped(text: str, dtype: type) -> None:
    volume = line(np.nan, 10, 100, 200, np.inf, -np.inf, dtype=dtype, modality="CT")
    mapped = apply_window(volume, text)[0].ravel()
    assert mapped[0] == 0
    assert mapped[4] == 255
    assert mapped[5] == 0
    assert mapped[1] < mapped[2] < mapped[3]


def test_a_volume_of_nothing_but_nan_becomes_zero() -> None:
    for text in ("abdomen", "percentile", "auto"):
        assert not apply_window(line(np.nan, np.nan, dtype=np.float32), text)[0].any()


@settings(max_examples=60, deadline=None)
@given(VOXELS)
def test_slice_by_slice_equals_the_whole_volume_for_ct(array: np.ndarray) -> None:
    mapped, _ = apply_window(Volume.from_array(array), "lung")
    assert np.array_equal(mapped, whole_volume_ct(array, -1350.0, 150.0))


@settings(max_examples=60, deadline=None)
@given(VOXELS)
@example(np.array([[[-(2**15), 0, 0, 0, 0, 0]]], np.int16))
@example(np.array([[[-(2**31), 0, 0, 0, 0, 0]]], np.int32))
def test_slice_by_slice_equals_the_whole_volume_for_percentiles(array: np.ndarray) -> None:
    mapped, window = apply_window(Volume.from_array(array), "percentile")
    assert np.array_equal(mapped, whole_volume_percentile(array))
    assert array.min() <= window.lower <= window.upper <= array.max()


@settings(max_examples=60, deadline=None)
@given(VOXELS, st.sampled_from([*CT_PRESETS, "percentile"]))
def test_a_brighter_voxel_never_becomes_darker(array: np.ndarray, text: str) -> None:
    array = array.copy()
    array[array == 0] = 1
    mapped, _ = apply_window(Volume.from_array(array), text)
    order = np.argsort(array, axis=None, kind="stable")
    assert (np.diff(mapped.ravel()[order].astype(int)) >= 0).all()


def test_the_volume_is_left_as_it_was() -> None:
    array = np.array([[[-1000.0, np.nan, 40.0, 0.0]]], np.float64)
    before = array.copy()
    for text in ("abdomen", "percentile"):
        apply_window(Volume.from_array(array), text)
    assert np.array_equal(array, before, equal_nan=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int16])
@given(data=st.data())
def test_counted_percentiles_are_numpys_to_the_bit(dtype: type, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    near = data.draw(st.integers(limits.min, limits.max - 9))
    some = st.integers(near, near + 9) | st.integers(limits.min, limits.max)
    array = data.draw(arrays(dtype, (2, 3, data.draw(st.integers(1, 90))), elements=some))
    sample = array[array > 0] if (array > 0).any() else array
    wanted = tuple(float(bound) for bound in np.percentile(sample, PERCENTILES))
    used = apply_window(Volume.from_array(array), "percentile")[1]
    assert (used.lower, used.upper) == wanted


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int64, np.float32])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 100), (7, 8)])
def test_an_image_of_two_values_is_not_empty_under_auto(dtype: type, low: int, high: int) -> None:
    array = np.full((3, 8, 8), low, dtype)
    array[1, 2:6, 2:6] = high
    for volume in (Volume.from_array(array), Volume.from_array(array, modality="CT")):
        mapped, used = apply_window(volume, "auto")
        assert mapped[1, 3, 3] >= 100 + mapped[0, 0, 0] or dtype is np.uint8
        assert (
            int(mapped[1, 3, 3]) - int(mapped[0, 0, 0]) >= min(high - low, 2) or used.kind == "none"
        )
        again, same = apply_window(volume, used.kind)
        np.testing.assert_array_equal(again, mapped)
        assert same == used


def test_a_volume_within_air_keeps_its_contrast_under_auto() -> None:
    mapped, used = apply_window(line(-1000, -950, -900, modality="CT"), "auto")
    assert mapped.ravel().tolist() == [0, 127, 255]
    assert used == parse_window("-950.0/100.0")
    assert apply_window(line(5, 5, 5), "auto")[0].ravel().tolist() == [0, 0, 0]
    infinite = line(-np.inf, 0, 0, np.inf, dtype=np.float32)
    assert apply_window(infinite, "auto")[0].max() in (0, 255)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, ">i2"])
@pytest.mark.parametrize("text", ["percentile", "abdomen", "40/400"])
def test_looked_up_values_are_the_computed_ones(dtype: str, text: str) -> None:
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    array = rng.integers(limits.min, limits.max, (2, 200, 200), endpoint=True).astype(dtype)
    mapped, used = apply_window(Volume.from_array(array), text)
    wanted, same = apply_window(Volume.from_array(array.astype(np.int64)), text)
    np.testing.assert_array_equal(mapped, wanted)
    assert used == same
