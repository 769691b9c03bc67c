"""What a session tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.serve.history import Interaction
from runtime.serve.planes import Spans
from runtime.version import __version__

SUPPORTED = {"points": True, "bbox2d": True, "bbox3d": True, "scribble": True, "lasso": True}
# Viewers index the channels of nnInteractive's network by these names; here a prompt is no channel, but who reads the
# table has to find them. The previous segmentation is channel 0 there.
CHANNELS: dict[str, Any] = {
    "prev_seg": 0,
    "bbox2d": [1, 2],
    "bbox3d": [1, 2],
    "lasso": [1, 2],
    "points": [3, 4],
    "scribble": [5, 6],
}
NUM_CHANNELS = 7
SCRIBBLE_THICKNESS = [3, 3, 3]  # voxels: a line that thin has one ridge


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object, as it was when it was asked for.

    Attributes:
        id, name: as they were given.
        axis: across whose planes it is followed.
        interactions: its prompts, in their order.
        prompted: planes across that axis that the network was given prompts on, lowest first: a box of several planes
            is one on its middle plane, and a mask stands on a few of its own.
        num_voxels: that are inside, whether they are shown yet or not.
        spans: the tight box about them; None where there are none.
        can_undo, can_redo: whether there is a step to go back or forth.
        num_forgotten, num_forgotten_redo: steps of undo and redo beyond these that were given up for their memory.
        is_running: a prediction is under way.
        is_complete: nothing is left to be found for these prompts.
        done, planned: slices of the latest prediction.
    """

    id: int
    name: str
    axis: int
    interactions: tuple[Interaction, ...]
    prompted: tuple[int, ...]
    num_voxels: int
    spans: Spans | None
    can_undo: bool
    can_redo: bool
    num_forgotten: int
    num_forgotten_redo: int
    is_running: bool
    is_complete: bool
    done: int
    planned: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a session has come.

    Attributes:
        done, planned: slices of the selected object's latest prediction.
        is_running: it is under way.
        encoded, to_encode: slices that are encoded ahead of need.
    """

    done: int
    planned: int
    is_running: bool
    encoded: int
    to_encode: int


def capabilities(licence: str | None, do_autozoom: bool, image_size: int) -> dict[str, Any]:
    """What nnInteractive's clients ask for first; all of its keys."""
    return {
        "supported_interactions": dict(SUPPORTED),
        "channel_mapping": dict(CHANNELS),
        "num_interaction_channels": NUM_CHANNELS,
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": True,
        "preferred_scribble_thickness": list(SCRIBBLE_THICKNESS),
        "interaction_decay": 1.0,  # of earlier prompts: none fades
        "inference_session_version": f"medsam2-runtime {__version__}",
        "license": licence,
        "supports_undo": True,
        "do_autozoom": do_autozoom,
        "patch_size": [1, image_size, image_size],
    }
