"""Clicks where a mask is wrong."""

import numpy as np
import pytest
import torch

from benchmarks.training.corrections import COUNTS, draw_corrections

SIDE, SIZE = 16, 64


def logits_of(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(mask, 3.0, -3.0).astype(np.float32))[None]


def at_full_size(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask.repeat(SIZE // SIDE, 0).repeat(SIZE // SIDE, 1))[None].float()


def square(start: int, stop: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[start:stop, start:stop] = True
    return mask


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("found", "true"),
    [
        (square(2, 8), square(2, 12)),
        (square(2, 12), square(2, 8)),
        (square(0, 0), square(3, 9)),
        (square(3, 9), square(0, 0)),
        (square(3, 9), square(3, 9)),
        (square(0, 0), square(0, 0)),
    ],
    ids=["too small", "too large", "missed", "absent", "right", "nothing"],
)
def test_clicks_say_what_is_true_where_they_lie(found: np.ndarray, true: np.ndarray, seed: int):
    rng = np.random.default_rng(seed)
    coords, labels = draw_corrections(rng, logits_of(found), at_full_size(true), SIZE)
    assert coords.shape == (1, labels.shape[1], 2) and labels.shape[1] in COUNTS
    columns, rows = (coords[0].round().long() // (SIZE // SIDE)).T.numpy()
    assert (labels[0].numpy() == true[rows, columns]).all()
    if (wrong := found != true).any():  # the first click is about the error
        assert wrong[rows[0], columns[0]]


def test_every_mask_of_a_batch_gets_as_many() -> None:
    found = torch.cat([logits_of(square(2, 8)), logits_of(square(0, 0))])
    true = torch.cat([at_full_size(square(2, 12)), at_full_size(square(3, 9))])
    counts = set()
    for seed in range(40):
        coords, labels = draw_corrections(np.random.default_rng(seed), found, true, SIZE)
        assert coords.shape[:2] == labels.shape and len(coords) == 2
        counts.add(labels.shape[1])
    assert counts == set(COUNTS)
