"""The objects of one image, and which of them is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runtime.errors import NoObject
from runtime.prompts.prompts import shown
from runtime.serve.drawing import extent
from runtime.serve.image import SessionImage
from runtime.serve.info import ObjectInfo
from runtime.serve.object import SessionObject
from runtime.serve.planes import Spans

MOST_FOUND = (
    2**14
)  # slices that the steps of an object may have found: whatever is kept is counted after each step
MIN_STEPS = 16  # that may be kept where there is memory, of however many slices
Report = Callable[[SessionObject, Spans], None]


class Objects:
    """Objects by number; one of them is always selected.

    Args:
        image: in which they are.
        report: called with an object and the box of what was found of it while nobody waited.
    """

    def __init__(self, image: SessionImage, report: Report) -> None:
        self._image, self._report = image, report
        self._max_steps = max(MIN_STEPS, MOST_FOUND // max(image.shape))
        self._objects: dict[int, SessionObject] = {}
        self._latest = 0
        self.selected = self.add(None)

    def __iter__(self) -> Iterator[SessionObject]:
        return iter([*self._objects.values()])

    def __getitem__(self, object_id: object) -> SessionObject:
        """Raises NoObject for a number that none has."""
        chosen = self._objects.get(object_id) if isinstance(object_id, int) else None
        if chosen is None:
            raise NoObject(f"no object {shown(object_id)}; there are: {sorted(self._objects)}")
        return chosen

    @property
    def chosen(self) -> SessionObject:
        """The one that is selected."""
        return self._objects[self.selected]

    def add(self, name: str | None) -> int:
        """A new one, which is not selected. Returns its number."""
        self._latest += 1
        new = SessionObject(
            self._latest,
            name or f"object {self._latest}",
            self._image,
            self._report,
            self._max_steps,
        )
        self._objects[new.id] = new
        return new.id

    def remove(self, object_id: int) -> None:
        """Forget one; if it was selected, the lowest that is left is, or a new one. Raises NoObject."""
        gone = self[object_id].id
        if gone == self.selected:  # who looks meanwhile always finds one that is there
            left = [number for number in self._objects if number != gone]
            self.selected = min(left) if left else self.add(None)
        del self._objects[gone]

    @property
    def history_bytes(self) -> int:
        """Memory that steps of undo and redo alone keep, as it was counted last."""
        return sum(obj.history.num_bytes for obj in self)

    def forget_oldest_step(self) -> bool:
        """Forget the step of undo or redo, of whatever object, that was taken first; the last one stays.

        Returns whether there was one to forget; only on the worker's thread.
        """
        first = {step.number: obj for obj in self for step in obj.history.steps}
        if len(first) < 2:
            return False
        obj = first[min(first)]
        obj.forget_oldest_step()
        obj.count_history()
        return True

    def infos(self) -> list[ObjectInfo]:
        """All, lowest number first."""
        return [_info(obj) for obj in self]


def _info(obj: SessionObject) -> ObjectInfo:
    now = obj.now
    axis = obj.axis_of(now)
    return ObjectInfo(
        obj.id,
        obj.name,
        axis,
        now.interactions,
        tuple(sorted(now.prompted)),
        sum(drawn.num_pixels for drawn in now.drawn.values()),
        extent(now.drawn, axis),
        bool(obj.history.past),
        bool(obj.history.future),
        obj.history.num_forgotten,
        obj.history.num_forgotten_redo,
        obj.is_running,
        now.is_complete,
        obj.done,
        obj.planned,
    )
