"""One object of a video: its memory, in one crop, and the few frames that another crop would be begun with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.memory import ConditioningFrames, MemoryBank
from runtime.predictors.prompted import PromptedSlice, Tracked
from runtime.predictors.region import Region
from runtime.predictors.stop import End, StopRule, reason_of
from runtime.predictors.tracker import FORWARD
from runtime.predictors.zoom import SURE
from runtime.track import Segmented


@dataclass(frozen=True, slots=True)
class ObjectMemory:
    """What is remembered of an object: prompted frames, tracked ones, and the crop in which they were seen."""

    conditioning: ConditioningFrames
    bank: MemoryBank
    crop: Region | None


@dataclass(frozen=True, slots=True)
class SeedFrame:
    """A frame, and what was found on it."""

    pixels: NDArray[np.uint8]
    prompted: PromptedSlice


@dataclass(slots=True)
class FollowedObject:
    """One object, and what is known of it on the current frame.

    Attributes:
        memory: replaced as a whole.
        since: the frame on which it was prompted first.
        prompted, tracked: on the current frame.
        latest: frames that it was followed to since it was prompted last, as many as a stop rule looks at.
        end: where it ended by the rule.
        past: frames on which it was prompted, as long as it is seen in a crop.
        sure: the last frame on which it was surely found, and its number.
    """

    memory: ObjectMemory
    since: int
    prompted: PromptedSlice | None = None
    tracked: Tracked | None = None
    latest: list[tuple[int, Segmented]] = field(default_factory=list)
    end: End | None = None
    past: dict[int, SeedFrame] = field(default_factory=dict)
    sure: tuple[int, SeedFrame] | None = None

    @property
    def conditioning(self) -> ConditioningFrames:
        """Memories of prompted frames."""
        return self.memory.conditioning

    @property
    def bank(self) -> MemoryBank:
        """Memories of tracked frames."""
        return self.memory.bank

    @property
    def crop(self) -> Region | None:
        """The part of frames that the network is shown; None is all of them."""
        return self.memory.crop

    @property
    def seeds(self) -> dict[int, SeedFrame]:
        """Frames by number, with which another crop would be begun."""
        return self.past if self.sure is None else {self.sure[0]: self.sure[1], **self.past}

    def come_to(
        self, index: int, pixels: NDArray[np.uint8], segmented: Segmented, rule: StopRule | None
    ) -> None:
        """Take note of what was found on a frame."""
        if self.crop is None:
            self.past, self.sure = {}, None
        elif segmented.confidence >= SURE:
            self.sure = index, SeedFrame(pixels, PromptedSlice((), segmented, crop=self.crop))
        if rule is None:
            return
        self.latest = [(index, segmented), *self.latest][: rule.after]
        if rule.is_over(self.latest, FORWARD, prompted=[-1]):  # all of these are later
            self.end = End(FORWARD, index, reason_of([one for _, one in self.latest]))

    def begin_again(self, index: int, pixels: NDArray[np.uint8], prompted: PromptedSlice) -> None:
        """Follow it on from a prompt."""
        self.prompted, self.latest, self.end = prompted, [], None
        if self.crop is not None:
            self.past[index] = SeedFrame(pixels, prompted)
