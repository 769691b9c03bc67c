"""Volumes: prompt any slices, then follow every object through the stack in both directions."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.arena import Arena
from runtime.errors import InputError, PromptError
from runtime.features import FeatureCache
from runtime.io.volume import Volume
from runtime.memory import MemoryBank, Templates
from runtime.model import Model
from runtime.predictors.prompted import PromptedSlice, check_prompts, prompt_slice
from runtime.prompts import Prompt
from runtime.result import MAX_OBJECT_ID, Result, SliceMask
from runtime.track import Row, Segmented, memorise_prompted, track_step
from runtime.window import Window, apply_window

FORWARD, BACKWARD = 1, -1
MAX_ROWS = 8  # larger batches cost memory and win nothing


@dataclass(slots=True)
class TrackedObject:
    """What is known about one object: its prompted slices, and what the last run found elsewhere."""

    prompted: dict[int, PromptedSlice] = field(default_factory=dict)
    tracked: dict[int, Segmented] = field(default_factory=dict)


@dataclass(slots=True)
class Chain:
    """An object on its way in one direction: the slices still to come, in order, and where results are noted."""

    object_id: int
    tracked: dict[int, Segmented]
    bank: MemoryBank
    frames: list[int]


class VolumePredictor:
    """Segments objects in a volume from prompts on some of its slices.

    Each object's two directions are chains of their own that start at its first prompted slice, share its prompted
    slices and never see each other's results, as in MedSAM2; all chains advance together as one batch. Each slice
    is encoded once, when it is first needed, and stays encoded until the volume changes.

    Example:
        predictor = VolumePredictor(load())
        predictor.set_volume(read_volume("ct.nii.gz"))
        predictor.add(Box(slice=57, y=(200, 260), x=(180, 250)))
        result = predictor.propagate()
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        numbers = model.numbers
        self._arena = Arena(model.backend, numbers.num_tokens, numbers.mem_dim, numbers.d_model)
        self._features: FeatureCache | None = None
        self._shape = (0, 0, 0)
        self._objects: dict[int, TrackedObject] = {}
        self._cancelled = threading.Event()

    def set_volume(
        self, volume: Volume | NDArray[np.generic], window: str | Window = "auto"
    ) -> Window:
        """Take a volume; objects and prompts of the one before are forgotten.

        Args:
            volume: what `read_volume` gives, or an array (z, y, x).
            window: how intensities become eight bits, see `runtime.window.apply_window`.

        Returns the window used. Raises VolumeError or InputError.
        """
        taken = volume if isinstance(volume, Volume) else Volume.from_array(volume)
        pixels, used = apply_window(taken, window)
        self._shape = taken.shape
        self._features = FeatureCache(self._model, lambda index: pixels[index])
        self._objects = {}
        return used

    def add(self, *prompts: Prompt, object_id: int = 1) -> SliceMask:
        """Prompt one object on one slice and see the result at once.

        Points join earlier ones on their slice and correct the mask that is there, also one that a run has found; a
        box (with or without points) or a mask starts the slice anew.

        Raises PromptError if the prompts do not fit the volume or each other.
        """
        features = self._need_volume()
        check_prompts(prompts, self._shape)
        if not isinstance(object_id, int | np.integer) or not 1 <= object_id <= MAX_OBJECT_ID:
            raise PromptError(
                f"object id {object_id!r} is not a whole number from 1 to {MAX_OBJECT_ID}"
            )
        known = self._objects.get(object_id, TrackedObject())
        object_id, index = int(object_id), int(prompts[0].slice)
        prompted = prompt_slice(
            self._model,
            features[index],
            self._shape[1:],
            prompts,
            known.prompted.get(index),
            known.tracked.get(index),
        )
        known.prompted[index] = prompted
        self._objects[object_id] = known
        return self._slice_mask(object_id, index, prompted.segmented)

    def reset(self, object_id: int | None = None) -> None:
        """Forget one object, or all; slices stay encoded."""
        if object_id is None:
            self._objects = {}
        elif self._objects.pop(object_id, None) is None:
            raise PromptError(f"no object {object_id}; there are: {sorted(self._objects)}")

    def cancel(self) -> None:
        """Stop the running `stream` or `propagate` after the current slice; may be called from another thread."""
        self._cancelled.set()

    def num_results(
        self,
        z_range: tuple[int, int] | None = None,
        directions: Sequence[int] = (FORWARD, BACKWARD),
    ) -> int:
        """How many slice masks `stream` will give, for progress bars."""
        return sum(
            len(known.prompted)
            + sum(len(frames) for frames in self._plan(known, z_range, directions).values())
            for known in self._objects.values()
        )

    def stream(
        self,
        z_range: tuple[int, int] | None = None,
        directions: Sequence[int] = (FORWARD, BACKWARD),
    ) -> Iterator[SliceMask]:
        """Masks as they are made: prompted slices first, then outwards from them.

        Args:
            z_range: half-open range of slices to stay within; None is the whole volume.
            directions: +1 towards higher slices, -1 towards lower ones.

        Raises PromptError without prompts or with one outside `z_range`, InputError for arguments that do not fit.
        """
        features = self._need_volume()
        if not self._objects:
            raise PromptError("no prompt yet; call add first")
        self._check_range(z_range)
        self._cancelled.clear()
        chains: list[Chain] = []
        templates: list[Templates] = []
        try:
            # Copied and planned before masks come, since the caller may add prompts between them.
            for object_id, known in list(self._objects.items()):
                known.tracked = {}
                own = Templates(self._arena)
                templates.append(own)
                for direction, frames in self._plan(known, z_range, directions).items():
                    bank = MemoryBank(
                        self._arena, own, direction, self._shape[0], self._model.numbers
                    )
                    chains.append(Chain(object_id, known.tracked, bank, frames))
                for index, prompted in sorted(known.prompted.items()):
                    found = prompted.segmented
                    memory = memorise_prompted(self._model, features[index], found)
                    own.add(index, memory, found.obj_ptr, found.confidence, found.object_score)
                    yield self._slice_mask(object_id, index, found)
            yield from self._follow(features, chains)
        finally:
            for chain in chains:
                chain.bank.clear()
            for own in templates:
                own.clear()

    def propagate(
        self,
        z_range: tuple[int, int] | None = None,
        directions: Sequence[int] = (FORWARD, BACKWARD),
    ) -> Result:
        """Follow every object through the volume; arguments and errors as for `stream`."""
        slices: dict[int, dict[int, SliceMask]] = {object_id: {} for object_id in self._objects}
        for slice_mask in self.stream(z_range, directions):
            slices[slice_mask.object_id][slice_mask.slice] = slice_mask
        return Result(self._shape, slices, not self._cancelled.is_set())

    def _follow(self, features: FeatureCache, chains: Sequence[Chain]) -> Iterator[SliceMask]:
        active = [chain for chain in chains if chain.frames]
        needed = len(active)
        memories, pointers = MemoryBank.slots_needed(self._model.numbers)
        self._arena.reserve(needed * memories, needed * pointers)
        while active:
            for start in range(0, len(active), MAX_ROWS):
                if self._cancelled.is_set():
                    return
                batch = active[start : start + MAX_ROWS]
                rows = [Row(chain.bank, chain.frames.pop(0)) for chain in batch]
                found = track_step(self._model, self._arena, features, rows)
                for chain, row, segmented in zip(batch, rows, found, strict=True):
                    chain.tracked[row.frame] = segmented
                    yield self._slice_mask(chain.object_id, row.frame, segmented)
            active = [chain for chain in active if chain.frames]

    def _plan(
        self, known: TrackedObject, z_range: tuple[int, int] | None, directions: Sequence[int]
    ) -> dict[int, list[int]]:
        """Direction to the slices to be tracked, in order; prompted ones are known already."""
        start, stop = z_range or (0, self._shape[0])
        if unknown := set(directions) - {FORWARD, BACKWARD}:
            raise InputError(f"no direction {unknown.pop()}; there are: {FORWARD}, {BACKWARD}")
        first = min(known.prompted)
        ways = {FORWARD: range(first + 1, stop), BACKWARD: range(first - 1, start - 1, -1)}
        return {
            direction: [frame for frame in ways[direction] if frame not in known.prompted]
            for direction in directions
        }

    def _check_range(self, z_range: tuple[int, int] | None) -> None:
        if z_range is None:
            return
        check_z_range(z_range, self._shape[0])
        start, stop = z_range
        for object_id, known in self._objects.items():
            outside = [index for index in known.prompted if not start <= index < stop]
            if outside:
                raise PromptError(
                    f"object {object_id} is prompted on slice {outside[0]}, outside the z-range [{start}, {stop})"
                )

    def _need_volume(self) -> FeatureCache:
        if self._features is None:
            raise PromptError("no volume yet; call set_volume first")
        return self._features

    def _slice_mask(self, object_id: int, index: int, segmented: Segmented) -> SliceMask:
        return SliceMask(index, object_id, segmented, self._shape[1:])


def check_z_range(z_range: tuple[int, int], num_slices: int) -> None:
    """Raise InputError unless a half-open range holds a slice and lies within the volume."""
    start, stop = z_range
    if not 0 <= start < stop <= num_slices:
        raise InputError(
            f"z-range [{start}, {stop}) does not fit: it must hold a slice and lie within [0, {num_slices})"
        )
