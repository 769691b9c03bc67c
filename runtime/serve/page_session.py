"""One page's session: its volume, its objects with their names and colours, its work and its events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError, NoImage, NoObject
from runtime.serve.info import ObjectInfo
from runtime.serve.object_masks import ObjectMasks, extent
from runtime.serve.page_events import PageEvents, numbers
from runtime.serve.page_verb import Call
from runtime.serve.page_work import PageWork
from runtime.serve.session import InteractiveSession
from runtime.serve.shown_volume import ShownVolume

COLOURS = (
    *("#f2555a", "#3da9fc", "#f4b942", "#5fd38d"),
    *("#b98cf5", "#ff8f5c", "#42d3c8", "#f28ac0"),
)
"""Of objects whose colour nobody has chosen, in turn."""
MAX_OBJECTS = 100


@dataclass(slots=True)
class Look:
    """What an object is called and drawn in; colour is "#rrggbb"."""

    name: str
    colour: str


class PageSession:
    """What one page works on. Its calls take turns with its verbs, so that an async server runs them in threads.

    Args:
        session: the interactive session, which this is the only user of; its deadline becomes 0 s, so that a prompted
            slice is answered at once.
        hold: counts the bytes that verbs keep while they wait, in place of what was counted before.
    """

    def __init__(
        self, session: InteractiveSession, hold: Callable[[int], None] = lambda num_bytes: None
    ) -> None:
        self._session = session
        self.events = PageEvents()
        self._work = PageWork(session, self.events, hold)
        self.shown: ShownVolume | None = None
        self._looks: dict[int, Look] = {}
        session.deadline_s = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a verb, or what follows from one, is under way."""
        return self._work.is_busy

    def is_busy_with(self, object_id: int) -> bool:
        """Whether something is under way for one object, whose mask is not what it will be."""
        return self._work.is_busy_with(object_id)

    def show(self, shown: ShownVolume) -> None:
        """Take a volume in place of the one before, whose objects are forgotten. Raises InputError."""
        volume = shown.volume
        properties: dict[str, Any] = {"spacing": list(volume.spacing_mm)}
        if volume.modality is not None:
            properties["modality"] = volume.modality
        self._session.cancel()
        with self._work.turn:
            self._work.forget()
            self._session.set_image(volume.array[None], properties)
            self.shown = shown
            self._looks = {obj.id: _look(obj.id) for obj in self._session.objects}
        self.events.send("volume", id=shown.id)
        self._work.watch_encodings()

    def seed(self, object_id: int, mask: NDArray[np.uint8]) -> None:
        """Make a mask (z, y, x) an object's, without asking the network anything. Raises NoImage, NoObject."""
        self._check_object(object_id)
        with self._work.turn:
            self._session.select_object(object_id)
            self._session.add_initial_seg_interaction(mask)

    def submit(self, object_id: int, call: Call, num_bytes: int = 0) -> int:
        """Queue a verb on one object, which keeps so many bytes until its turn; what becomes of it comes as events.

        Returns its number. Raises NoImage before there is a volume, NoObject for an object that is not there, and
        TooManyRequests or OutOfMemory where too much waits already.
        """
        self._check_object(object_id)
        return self._work.submit(object_id, call, self.object, num_bytes)

    def cancel(self) -> bool:
        """End what runs and forget what waits. Returns whether there was anything."""
        return self._work.cancel()

    def add_object(self, name: str | None, colour: str | None) -> dict[str, Any]:
        """Make an empty object. Raises NoImage, and InputError for more than MAX_OBJECTS."""
        self.need_volume()
        if len(self._looks) >= MAX_OBJECTS:
            raise InputError(f"there are {MAX_OBJECTS} objects; remove one before adding another")
        object_id = self._session.add_object(name)
        self._looks[object_id] = _look(object_id, name, colour)
        return self.object(object_id)

    def change_object(self, object_id: int, name: str | None, colour: str | None) -> dict[str, Any]:
        """Give an object another name or colour. Raises NoObject."""
        self._check_object(object_id)
        look = self._looks[object_id]
        look.name, look.colour = name or look.name, colour or look.colour
        return self.object(object_id)

    def remove_object(self, object_id: int) -> None:
        """Forget an object; after the last one there is a new, empty one. Raises NoObject."""
        self._check_object(object_id)
        with self._work.turn:
            self._work.forget(object_id)
            self._session.remove_object(object_id)
            self._looks.pop(object_id, None)
            for obj in self._session.objects:
                self._looks.setdefault(obj.id, _look(obj.id))

    def object(self, object_id: int) -> dict[str, Any]:
        """What the page is told of an object. Raises NoObject."""
        self._check_object(object_id)
        return self._described(next(obj for obj in self._session.objects if obj.id == object_id))

    def objects(self) -> list[dict[str, Any]]:
        """What the page is told of all objects; there are none before there is a volume."""
        if self.shown is None:
            return []
        return [self._described(obj) for obj in self._session.objects if obj.id in self._looks]

    def mask(self, object_id: int) -> NDArray[Any]:
        """An object's mask (z, y, x), zero outside. Raises NoObject."""
        self._check_object(object_id)
        return self._session.mask_of(object_id)

    def masks(self) -> ObjectMasks:
        """All objects that have a voxel, numbered 1, 2, ... in the order of all. Raises NoImage."""
        shape, crops, names = self.need_volume().volume.shape, {}, {}
        with self._work.turn:
            for number, obj in enumerate(self._session.objects, 1):
                mask = self._session.mask_of(obj.id) != 0
                if spans := extent(mask):
                    crops[number] = spans, mask[tuple(slice(*span) for span in spans)].copy()
                    names[number] = self._looks[obj.id].name
        return ObjectMasks(shape, crops, names)

    def need_volume(self) -> ShownVolume:
        """The volume. Raises NoImage before there is one."""
        if self.shown is None:
            raise NoImage("there is no volume yet; open a file first")
        return self.shown

    def _check_object(self, object_id: int) -> None:
        self.need_volume()
        if object_id not in self._looks:
            raise NoObject(f"there is no object {object_id}; there are: {[*self._looks]}")

    def _described(self, info: ObjectInfo) -> dict[str, Any]:
        look, volume = self._looks[info.id], self.need_volume().volume
        return {
            "id": info.id,
            "name": look.name,
            "colour": look.colour,
            "voxels": info.num_voxels,
            "ml": info.num_voxels * float(np.prod(volume.spacing_mm)) / 1000,
            "axis": info.axis,
            "confidence": numbers(self._session.confidence_of(info.id)),
            "prompts": [
                {
                    "kind": interaction.kind,
                    "positive": interaction.is_positive,
                    "axis": info.axis if interaction.axis is None else interaction.axis,
                    "box": interaction.spans,
                }
                for interaction in info.interactions
            ],
            "prompted": info.prompted,
            "can_undo": info.can_undo,
            "can_redo": info.can_redo,
            "num_forgotten": info.num_forgotten,
            "num_forgotten_redo": info.num_forgotten_redo,
            "is_complete": info.is_complete,
        }


def _look(number: int, name: str | None = None, colour: str | None = None) -> Look:
    return Look(name or f"Object {number}", colour or COLOURS[(number - 1) % len(COLOURS)])
