"""An interactive session: nnInteractive's verbs and their meanings, in this process, without HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from runtime.model import Model, check_model
from runtime.serve.image import taken
from runtime.serve.markings import check_buffer, marking, whole_mask
from runtime.serve.overview import Overview
from runtime.serve.planes import Box3, Position, as_lists, position_of, spans_of
from runtime.serve.state import Ask, OnSlices, Read, SessionState
from runtime.serve.undo_memory import UndoMemory
from runtime.serve.worker import Worker
from runtime.steps.encodings import Encodings

DEADLINE_S = 20.0


class InteractiveSession(Overview):
    """Segments objects in one image at a time, prompt by prompt.

    Every method may be called from any thread. Calls take turns; `cancel` and what only looks wait for nobody. A prompt
    that comes while another thread waits for a prediction ends that wait: what is there by then is its answer.

    Example:
        with InteractiveSession(load()) as session:
            session.set_image(image[None])                        # (1, z, y, x), raw intensities
            session.set_target_buffer(mask)                       # uint8 (z, y, x), written in place
            changed = session.add_point_interaction((57, 230, 214), True)

    Args:
        model: what `load` gives.
        encodings: of slices, to be shared by sessions of this model; None makes some for this one alone.
        worker: runs the network, to be shared by all sessions; None makes one for this one alone.
        deadline_s: after that long a prediction is answered with what there is, and goes on in the background.
        licence: of the weights, for viewers to show.
        window: how intensities become eight bits, a name of `runtime.io.window`.
        clock: tells seconds.
        undo_memory: of steps of undo, to be shared by sessions of one worker; None is 1 GiB for this one alone.
    """

    def __init__(
        self,
        model: Model,
        encodings: Encodings | None = None,
        worker: Worker | None = None,
        deadline_s: float = DEADLINE_S,
        licence: str | None = None,
        window: str = "auto",
        clock: Callable[[], float] = time.monotonic,
        undo_memory: UndoMemory | None = None,
    ) -> None:
        check_model(model)
        model.check_memory()
        shared = encodings or Encodings(model)
        self._owns_worker = worker is None
        worker = worker or Worker()
        undo_memory = undo_memory or UndoMemory()
        super().__init__(SessionState(model, shared, worker, undo_memory, window, clock), licence)
        if self._owns_worker:  # its thread would outlive a session that is dropped unclosed
            finalize(self, worker.close, wait=False)
        self.deadline_s = deadline_s

    def set_image(
        self, image: NDArray[np.generic], image_properties: Mapping[str, Any] | None = None
    ) -> None:
        """Take an image; objects, prompts and history of the one before are forgotten. Encoding begins at once.

        Args:
            image: (1, z, y, x) or (z, y, x), raw intensities; a picture is (1, 1, y, x). It is not kept.
            image_properties: `spacing` (k, j, i) in mm; `modality` as DICOM's word, for the window.

        Raises VolumeError, and InputError for a window that does not fit, in which case there is no image.
        """
        volume = taken(image, image_properties)
        with self._state.turn():
            self._state.set_image(volume)

    def set_target_buffer(self, target_buffer: NDArray[Any]) -> None:
        """Show the selected object in this array (z, y, x) of bools or integers, which is written in place.

        It is taken as it is; what has been found already is written with the next answer, or by `collect`. Raises
        NoImage, and InputError for an array that does not fit.
        """
        with self._state.turn():
            chosen = self._state.chosen()
            check_buffer(target_buffer, self._state.need_image().shape)
            chosen.show_in(target_buffer)

    def set_do_autozoom(self, do_autozoom: bool) -> None:
        """Whether the network is shown the part of a slice about an object, if its bundle has chosen such a zoom.

        Objects that have prompts already stay as they are.
        """
        with self._state.turn(is_urging=False):
            self._state.set_zoom(bool(do_autozoom))

    def add_point_interaction(
        self,
        coordinates: Sequence[float],
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
    ) -> Box3 | None:
        """A click on a voxel (k, j, i), rounded. Raises NoImage, PromptError.

        All of these verbs give the box of the target buffer that has changed, or None if none has. Without
        `run_prediction` the prompt is taken, and shows with the next answer. `override_capability_checks` is taken
        and changes nothing: there are none.
        """

        def read(shape: Position) -> Ask:
            position = position_of(coordinates, shape)
            return lambda scene: scene.point(position, bool(include_interaction))

        return self._prompt(read, run_prediction)

    def add_bbox_interaction(
        self,
        bbox_coords: Sequence[Sequence[float]],
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
    ) -> Box3 | None:
        """A half-open box [[k0, k1], [j0, j1], [i0, i1]], rounded, then cut to the image. Errors as for points.

        One axis of one voxel makes it a box in a plane; otherwise it is one on its middle slice, and the object stays
        within its slices.
        """

        def read(shape: Position) -> Ask:
            spans = spans_of(bbox_coords, shape)
            return lambda scene: scene.box(spans, bool(include_interaction))

        return self._prompt(read, run_prediction)

    def add_scribble_interaction(
        self,
        scribble_image: NDArray[np.generic],
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
        interaction_bbox: Sequence[Sequence[float]] | None = None,
    ) -> Box3 | None:
        """A stroke: not zero where it is, in a box of the image or, without one, in all of it. Errors as for points."""

        def read(shape: Position) -> Ask:
            marked, spans = marking(scribble_image, interaction_bbox, shape)
            return lambda scene: scene.scribble(marked, spans, bool(include_interaction))

        return self._prompt(read, run_prediction)

    def add_lasso_interaction(
        self,
        lasso_image: NDArray[np.generic],
        include_interaction: bool,
        run_prediction: bool = True,
        override_capability_checks: bool = False,
        interaction_bbox: Sequence[Sequence[float]] | None = None,
    ) -> Box3 | None:
        """A closed line, or what it encloses; arrays and errors as for scribbles."""

        def read(shape: Position) -> Ask:
            marked, spans = marking(lasso_image, interaction_bbox, shape)
            return lambda scene: scene.lasso(marked, spans, bool(include_interaction))

        return self._prompt(read, run_prediction)

    def add_initial_seg_interaction(
        self,
        initial_seg: NDArray[np.generic],
        run_prediction: bool = False,
        override_capability_checks: bool = False,
    ) -> Box3 | None:
        """The object itself, a mask (z, y, x), in place of all prompts before; `undo` brings them back.

        The buffer becomes this mask at once, whatever is predicted from it afterwards. Errors as for points.
        """

        def read(shape: Position) -> Ask:
            mask = whole_mask(initial_seg, shape)
            return lambda scene: scene.seed(mask)

        return self._prompt(read, run_prediction, is_shown=True)

    def predict(self, force_full_refine: bool = False) -> Box3 | None:
        """Show what has been found meanwhile, and go on with what is missing.

        Raises NoImage, and what the network raises.

        `force_full_refine` is taken and changes nothing: every answer is as fine as it gets.
        """
        return self._state.go_on(self.deadline_s)

    _predict = predict  # as nnInteractive's own viewers call it

    def collect(self) -> Box3 | None:
        """Show what the background has found of the selected object by now; nothing is computed. Raises NoImage."""
        with self._state.turn(is_urging=False):
            return as_lists(self._state.chosen().show())

    def undo(self) -> Box3 | None:
        """Take back the selected object's last prompt, and all that was found since. Raises NoImage.

        The object is as it was before, memory and all. Without a prompt nothing happens.
        """
        return self._state.step_back(is_undo=True)

    def redo(self) -> Box3 | None:
        """Bring back what `undo` took, with what had been found by then. Raises NoImage."""
        return self._state.step_back(is_undo=False)

    def reset_interactions(self) -> None:
        """Forget the selected object's prompts and history, and zero its buffer; the image stays, encodings and all.

        Without an image there is nothing to forget.
        """
        with self._state.turn():
            if self._state.objects is not None:
                chosen = self._state.chosen()
                chosen.stop()
                chosen.forget()
                chosen.need_canvas().wipe()

    def cancel(self) -> None:
        """End predictions that are under way, soon; what was found stays. It waits for nobody."""
        for obj in self._state.objects or ():
            obj.stop(wait=False)

    def close(self) -> None:
        """Give back the image and everything else; later calls raise SessionClosed. May be called twice."""
        self.cancel()
        self._state.close()
        if self._owns_worker:
            self._state.worker.close()

    def add_object(self, name: str | None = None) -> int:
        """Another object in this image, which is not selected yet. Returns its number. Raises NoImage."""
        with self._state.turn(is_urging=False):
            return self._state.need_objects().add(name)

    def select_object(self, object_id: int) -> None:
        """Mean this object from now on; predictions of others go on. Raises NoImage, NoObject."""
        with self._state.turn(is_urging=False):
            objects = self._state.need_objects()
            objects.selected = objects[object_id].id

    def remove_object(self, object_id: int) -> None:
        """Forget an object; if it was selected, the lowest that is left is, or a new one. Raises NoImage, NoObject."""
        with self._state.turn():
            objects = self._state.need_objects()
            objects[object_id].stop()
            objects.remove(object_id)

    @property
    def on_slices(self) -> OnSlices | None:
        """Called with an object's number and a box: in the calling thread once that has been written to its buffer, in
        the worker's when the background has found something there for `collect`; the session may not be called then."""
        return self._state.on_slices

    @on_slices.setter
    def on_slices(self, on_slices: OnSlices | None) -> None:
        self._state.on_slices = on_slices

    def _prompt(self, read: Read, runs: bool, is_shown: bool = False) -> Box3 | None:
        return self._state.prompt(read, self.deadline_s, runs, is_shown)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
