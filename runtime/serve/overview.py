"""What a session tells without waiting for anything that is under way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.serve.info import ObjectInfo, Progress, capabilities
from runtime.serve.state import SessionState


class Overview:
    """The part of a session that only looks.

    Attributes:
        license: of the weights, as nnInteractive's viewers show it.
    """

    def __init__(self, state: SessionState, licence: str | None) -> None:
        self._state = state
        self.license = licence

    @property
    def do_autozoom(self) -> bool:
        """Whether the network is shown the part of a slice about an object, if its bundle has chosen such a zoom."""
        return self._state.is_zoomed

    @property
    def capabilities(self) -> dict[str, Any]:
        """What nnInteractive's clients ask for first."""
        return capabilities(self.license, self.do_autozoom, self._state.model.numbers.image_size)

    @property
    def supported_interactions(self) -> dict[str, bool]:
        """Kind of prompt to whether it is taken."""
        supported: dict[str, bool] = self.capabilities["supported_interactions"]
        return supported

    @property
    def supports_undo(self) -> bool:
        """Always: as deep as there is memory for the steps."""
        return True

    @property
    def original_image_shape(self) -> tuple[int, int, int, int]:
        """(1, z, y, x). Raises NoImage."""
        return 1, *self._state.need_image().shape

    @property
    def target_buffer(self) -> NDArray[Any]:
        """Where the selected object is shown. Raises NoImage."""
        return self._state.chosen().need_canvas().buffer

    @property
    def can_undo(self) -> bool:
        """Whether the selected object has a prompt to be taken back."""
        objects = self._state.objects
        return objects is not None and bool(objects.chosen.history.past)

    @property
    def can_redo(self) -> bool:
        """Whether one that was taken back can come again."""
        objects = self._state.objects
        return objects is not None and bool(objects.chosen.history.future)

    @property
    def selected(self) -> int:
        """The number of the object that is meant. Raises NoImage."""
        return self._state.need_objects().selected

    @property
    def objects(self) -> list[ObjectInfo]:
        """All objects, lowest number first; none without an image."""
        return [] if (objects := self._state.objects) is None else objects.infos()

    def mask_of(self, object_id: int) -> NDArray[Any]:
        """Where an object is shown, (z, y, x). Raises NoImage, NoObject."""
        return self._state.need_objects()[object_id].need_canvas().buffer

    def confidence_of(self, object_id: int) -> NDArray[np.float32]:
        """What an object's masks are worth, by slice along its axis, NaN where none was computed. Errors as before."""
        return self._state.need_objects()[object_id].confidence()

    @property
    def confidence(self) -> NDArray[np.float32]:
        """That of the selected object. Raises NoImage."""
        return self._state.chosen().confidence()

    @property
    def axis(self) -> int:
        """Across whose planes the selected object is followed. Raises NoImage."""
        return self._state.chosen().axis

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be found of the selected object. Raises NoImage."""
        return self._state.chosen().is_complete

    @property
    def progress(self) -> Progress:
        """How far the selected object's prediction and the encoding have come. Raises NoImage."""
        chosen, image = self._state.chosen(), self._state.need_image()
        return Progress(
            chosen.done, chosen.planned, chosen.is_running, image.encoded, image.to_encode
        )

    @property
    def ran_prediction(self) -> bool:
        """Whether the last call that could predict, or step back, did, also where nothing changed."""
        return self._state.ran_prediction
