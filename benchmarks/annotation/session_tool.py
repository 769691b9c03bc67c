"""The server's session as somebody at a viewer uses it for one object."""

from __future__ import annotations

import numpy as np

from benchmarks.annotation.attempt import Voxel
from benchmarks.quality.overlap import Mask
from runtime.serve.session import InteractiveSession


class SessionTool:
    """A new object of a session; every verb is waited for until nothing is left to be found.

    Args:
        session: with an image, and a deadline that no prediction meets.
        seed: a mask (z, y, x) to begin with, as the page's review does.
    """

    def __init__(self, session: InteractiveSession, seed: Mask | None = None) -> None:
        self._session = session
        self._object_id = session.add_object()
        session.select_object(self._object_id)
        session.set_target_buffer(np.zeros(session.original_image_shape[1:], np.uint8))
        if seed is not None and seed.any():
            session.add_initial_seg_interaction(seed.astype(np.uint8))

    @property
    def mask(self) -> Mask:
        """What is on the screen, (z, y, x)."""
        return self._session.mask_of(self._object_id) != 0

    def box(self, key: int, y: tuple[int, int], x: tuple[int, int]) -> None:
        """A half-open box on a slice."""
        self._session.add_bbox_interaction([[key, key + 1], [*y], [*x]], True)

    def click(self, at: Voxel, is_inside: bool) -> None:
        """A point."""
        self._session.add_point_interaction(at, is_inside)

    def undo(self) -> None:
        """Back to before the last prompt."""
        self._session.undo()

    def close(self) -> None:
        """Forget the object."""
        self._session.remove_object(self._object_id)
