"""Polygons by hand: corners that are needed and no others, holes, parts, borders of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.annotation.outline import closed, drawn_by_hand
from benchmarks.quality.overlap import dice

Y, X = np.mgrid[:64, :64]
DISC = (Y - 30) ** 2 + (X - 33) ** 2 < 20**2
RING = DISC & ~((Y - 30) ** 2 + (X - 33) ** 2 < 10**2)


def test_a_square_has_four_corners_and_is_drawn_as_it_is() -> None:
    square = np.zeros((20, 20), bool)
    square[3:15, 2:18] = True
    drawn, vertices = drawn_by_hand(square)
    assert vertices == 4 and (drawn == square).all()


def test_a_square_at_the_border_too() -> None:
    square = np.zeros((20, 20), bool)
    square[0:9, 12:20] = True
    drawn, vertices = drawn_by_hand(square)
    assert vertices == 4 and (drawn == square).all()


def test_a_finer_hand_needs_more_vertices_and_is_nearer() -> None:
    coarse, few = drawn_by_hand(DISC, 3.0)
    fine, many = drawn_by_hand(DISC, 0.5)
    assert few < many < 60
    assert 0.85 < dice(coarse, DISC) < dice(fine, DISC)


def test_a_hole_and_a_second_part_are_polygons_of_their_own() -> None:
    (ring, of_ring), (disc, of_disc) = drawn_by_hand(RING), drawn_by_hand(DISC)
    assert not ring[30, 33] and disc[30, 33] and of_ring > of_disc
    assert dice(ring, RING) > 0.93
    two = np.zeros((20, 20), bool)
    two[2:6, 2:6] = two[10:16, 10:16] = True
    drawn, vertices = drawn_by_hand(two)
    assert vertices == 8 and (drawn == two).all()


def test_nothing_is_drawn_without_a_vertex() -> None:
    drawn, vertices = drawn_by_hand(np.zeros((4, 4), bool))
    assert vertices == 0 and not drawn.any()


def test_a_single_pixel_is_drawn() -> None:
    pixel = np.zeros((5, 5), bool)
    pixel[2, 3] = True
    drawn, vertices = drawn_by_hand(pixel)
    assert vertices == 4 and (drawn == pixel).all()


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_no_point_of_a_line_is_further_off_than_the_tolerance(tolerance: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 200)
    line = np.stack([(30 + 5 * np.sin(5 * turn)) * np.cos(turn), 20 * np.sin(turn)], 1)
    line[-1] = line[0]
    corners = closed(line, tolerance)
    ends = np.roll(corners, -1, axis=0)
    off = []
    for point in line:
        along = ends - corners
        share = (((point - corners) * along).sum(1) / (along**2).sum(1)).clip(0, 1)
        off.append(np.linalg.norm(corners + share[:, None] * along - point, axis=1).min())
    assert max(off) <= tolerance + 1e-9
    assert len(corners) < 60
