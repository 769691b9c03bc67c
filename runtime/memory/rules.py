"""What a user chooses about memory: policy, pick-up and their parameters, checked."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.bundle.confidence import MEASURES
from runtime.bundle.contract import ModelNumbers
from runtime.errors import InputError
from runtime.memory.pick_up import PICK_UPS
from runtime.memory.policies import (
    MAX_SIMILARITY,
    MIN_CONFIDENCE,
    MIN_SIMILARITY,
    POLICIES,
    Policy,
    PolicyLimits,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRules:
    """How a predictor remembers.

    Attributes:
        policy: a key of `POLICIES`; "fifo" is SAM 2 to the letter.
        pick_up: a key of `PICK_UPS`; "all" is SAM 2.
        capacity: tracked frames kept, prompted ones not counted; None is the policy's own default. More than
            SAM 2's six is only for policies that do not go by recency.
        min_confidence: 0 to 1; a less confident frame does not enter ("confidence" and "self_sorting"), or stays
            until the next one comes ("confident_and_latest" and "self_sorting_and_latest").
        max_similarity: -1 to 1; a frame more alike replaces the one it is most alike to ("confidence").
        min_similarity: -1 to 1; an unsure frame whose image is less alike to all that are remembered does not enter
            (the two of "_and_latest"); -1 lets every one in.
        confidence: a key of `MEASURES`, what confidence is.
        seed: of "resample"; the same seed draws the same, slice by slice.

    Raises InputError for values out of range.
    """

    policy: str = "fifo"
    pick_up: str = "all"
    capacity: int | None = None
    min_confidence: float = MIN_CONFIDENCE
    max_similarity: float = MAX_SIMILARITY
    min_similarity: float = MIN_SIMILARITY
    confidence: str = "iou"
    seed: int = 0

    def __post_init__(self) -> None:
        for what, chosen, table in (
            ("memory policy", self.policy, POLICIES),
            ("pick-up", self.pick_up, PICK_UPS),
            ("measure of confidence", self.confidence, MEASURES),
        ):
            if chosen not in table:
                raise InputError(f"no {what} '{chosen}'; there are: {', '.join(table)}")
        for what, number in (("capacity", self.capacity), ("seed", self.seed)):
            if number is not None and not isinstance(number, int):
                raise InputError(f"{what} {number!r} is not a whole number")
        if self.capacity is not None and self.capacity < 1:
            raise InputError(
                f"a memory of capacity {self.capacity} holds nothing; wanted 1 or more"
            )
        if not 0 <= self.min_confidence <= 1:
            raise InputError(f"min_confidence {self.min_confidence:g} is not within 0 to 1")
        for what, cosine in (("max", self.max_similarity), ("min", self.min_similarity)):
            if not -1 <= cosine <= 1:
                raise InputError(f"{what}_similarity {cosine:g} is no cosine, -1 to 1")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is below zero; wanted 0 or more")

    @property
    def row(self) -> Policy:
        """The policy's row of the table."""
        return POLICIES[self.policy]

    @property
    def compares_images(self) -> bool:
        """Whether image embeddings have to be kept beside the memories."""
        return self.row.compares == "image" or self.pick_up != "all"

    def limits(self, model: ModelNumbers) -> PolicyLimits:
        """The limits for a model. Raises InputError for a capacity beyond the temporal code of a recency policy."""
        span = model.num_maskmem - 1
        capacity = self.capacity or self.row.capacity or span
        if self.row.is_recency and capacity > span:
            raise InputError(
                f"{self.policy} has temporal codes for {span} tracked frames, found capacity {capacity}; "
                "choose a smaller capacity or another policy"
            )
        return PolicyLimits(capacity, self.min_confidence, self.max_similarity, self.min_similarity)
