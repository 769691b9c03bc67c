"""Segment an object of a synthetic volume by clicks, as a program with a window of its own would, in this process."""

import numpy as np

from runtime import InteractiveSession, load
from runtime.measure.phantom import make_phantom

phantom = make_phantom((24, 128, 128), seed=3)
truth = phantom.labels == 1
mask = np.zeros(truth.shape, np.uint8)  # ours; the session writes into it


def dice() -> float:
    """How well the mask agrees with the truth."""
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


with InteractiveSession(load()) as session:
    session.set_image(phantom.pixels[None], {"spacing": (2.5, 0.8, 0.8)})  # encoding begins
    session.set_target_buffer(mask)
    session.on_slices = lambda object_id, box: print(f"  object {object_id}: redraw {box}")

    k = len(truth) // 2
    j, i = np.argwhere(truth[k]).mean(0)
    session.add_point_interaction((k, j, i), include_interaction=True)
    print(f"a click: Dice {dice():.3f}")

    session.undo()
    print(f"taken back: {mask.sum()} voxels")

    box = phantom.box(k, 1)
    session.add_bbox_interaction([[k, k + 1], box.y, box.x], include_interaction=True)
    print(f"a box instead: Dice {dice():.3f}")
    unsure = int(np.where(session.confidence > 0, session.confidence, np.inf).argmin())
    print(f"least sure of slice {unsure}: look there next")
