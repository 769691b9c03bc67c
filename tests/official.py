"""What the official `sam2` package lacks on a machine without its compiled extension."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

EIGHT_CONNECTED = np.ones((3, 3), int)


def fill_holes_on_any_machine(patch: pytest.MonkeyPatch) -> None:
    """Give upstream the connected components that it otherwise only has with its compiled CUDA extension."""
    patch.setattr("sam2.utils.misc.get_connected_components", _connected_components)


def _connected_components(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    labels, areas = (
        torch.zeros_like(masks, dtype=torch.int32),
        torch.zeros_like(masks, dtype=torch.int32),
    )
    for i, mask in enumerate(masks[:, 0].numpy()):
        found, _ = scipy.ndimage.label(mask, EIGHT_CONNECTED)
        sizes = np.bincount(found.ravel())
        sizes[0] = 0
        labels[i, 0] = torch.from_numpy(found.astype(np.int32))
        areas[i, 0] = torch.from_numpy(sizes[found].astype(np.int32))
    return labels, areas
