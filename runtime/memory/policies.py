"""Which tracked frames a bank keeps: six policies, each a pure function of records and their similarities.

Prompted frames (conditioning frames) are seen by every policy and evicted by none. A policy is asked each time a frame
has been tracked; it answers with the tracked records to keep, oldest first.

Where the papers are silent the choice is a named constant here. Defects of the released code that are not
reproduced: prompted frames could be evicted; similarities were taken between vectors of different layout (tokens by
channels against channels by tokens); the capacity was checked once for each batch and overshot; the memory was
that of features already conditioned on memory; nothing was ever forgotten between patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from runtime.memory.records import Record

Similarity = NDArray[np.float32]
"""(n, n), of the records in the order given."""

# Neither paper gives its threshold. On phantoms of the embedded model masks below 0.5 had a mean Dice under 0.25.
MIN_CONFIDENCE = 0.5
# v1 asks for diversity and gives no number; neighbouring slices of phantoms lie at 0.94, one in twenty above 0.98.
MAX_SIMILARITY = 0.98
# Of image embeddings. Neighbouring slices of phantoms lie above 0.81, those three apart above 0.62 with few below 0.68;
# slices of noise, black ones and those of another volume reach 0.58 (one of a hundred 0.64).
MIN_SIMILARITY = 0.65
MAX_SKIPPED = 3  # frames in a row: what stays unlike for longer is how things look now
RELEASED_CAPACITY = 16  # Medical-SAM2 cfg.py memory_bank_size
RELEASED_MARGIN = 0.1  # how much less confident a newcomer may be, func_2d/function.py


@dataclass(frozen=True, slots=True)
class PolicyLimits:
    """What a policy goes by.

    Attributes:
        capacity: tracked records kept, conditioning frames not counted.
        min_confidence: a frame below it does not enter.
        max_similarity: a frame more alike than this takes the other's place.
        min_similarity: an unsure frame that is less alike than this to all others is an outlier.
    """

    capacity: int
    min_confidence: float
    max_similarity: float
    min_similarity: float = MIN_SIMILARITY


Keep = Callable[[Sequence[Record], Similarity, PolicyLimits], list[Record]]


def keep_latest(
    records: Sequence[Record], similarity: Similarity, limits: PolicyLimits
) -> list[Record]:
    """`fifo`, SAM 2's own: the latest tracked frames, whatever they are worth."""
    return _tracked(records)[-limits.capacity :]


def keep_confident(
    records: Sequence[Record], similarity: Similarity, limits: PolicyLimits
) -> list[Record]:
    """`confidence` (MedSAM-2 v1, section 2.3): the latest of the confident frames that differ from each other.

    A newcomer at or above the confidence threshold enters. One that is more alike to a tracked frame than
    `max_similarity` takes the place of the one it is most alike to, so that the bank stays diverse and up to date.
    """
    *_, new = records
    staying = _tracked(records)[:-1]
    if not new.confidence >= limits.min_confidence:
        return staying
    index = {record: i for i, record in enumerate(records)}
    alike = [float(similarity[index[record], -1]) for record in staying]
    if alike and max(alike) > limits.max_similarity:
        staying.pop(int(np.argmax(alike)))
    return [*staying, new][-limits.capacity :]


def keep_dissimilar(
    records: Sequence[Record], similarity: Similarity, limits: PolicyLimits
) -> list[Record]:
    """`self_sorting` (MedSAM-2 v2): of bank and confident newcomer, the records of largest total dissimilarity.

    D_i is the sum over all others, conditioning frames included, of 1 - similarity. Of equals the older one goes.
    """
    tracked = _tracked(records)
    if not records[-1].confidence >= limits.min_confidence:
        return tracked[:-1]
    total = (1.0 - similarity).sum(1) - (1.0 - similarity.diagonal())
    by_value = sorted(
        (i for i, record in enumerate(records) if not record.is_prompted),
        key=lambda i: (float(total[i]), i),
    )
    best = set(by_value[-limits.capacity :])
    return [record for i, record in enumerate(records) if i in best]


def keep_as_released(
    records: Sequence[Record], similarity: Similarity, limits: PolicyLimits
) -> list[Record]:
    """`self_sorting_released` (Medical-SAM2 func_2d/function.py): all until full, then one for one.

    With i the record least alike to the newcomer and j the one most alike to i, the newcomer replaces j if it is
    less alike to i than j is and not more than RELEASED_MARGIN less confident than j.
    """
    tracked = _tracked(records)
    if len(tracked) <= limits.capacity:
        return tracked
    *bank, new = records
    alike = similarity[:-1, -1]
    among = similarity[:-1, :-1].astype(np.float64)
    np.fill_diagonal(among, -np.inf)
    least = int(np.argmin(alike))
    row = np.where([record.is_prompted for record in bank], -np.inf, among[least])
    most = int(np.argmax(row))
    out = bank[most]
    is_worth_it = alike[least] < row[most] and new.confidence > out.confidence - RELEASED_MARGIN
    dropped = out if is_worth_it else new
    return [record for record in tracked if record is not dropped]


def keep_confident_and_latest(
    records: Sequence[Record], similarity: Similarity, limits: PolicyLimits
) -> list[Record]:
    """`confident_and_latest`: the latest confident frames, and the latest of all whatever it is worth.

    Of confident frames alone the network only learns where the object is, and goes on drawing it where it has ended;
    the frame before, unsure as it may be, tells it how things go on. Unless that one is an outlier: unsure, and its
    image unlike all that are remembered, as noise, a lost slice or another scene is. It is left out then.
    """
    bank, confident, new = _parted(records, limits)
    if _is_outlier(records, similarity, limits):
        return bank
    return [*confident[max(len(confident) - limits.capacity + 1, 0) :], new]


def keep_dissimilar_and_latest(
    records: Sequence[Record], similarity: Similarity, limits: PolicyLimits
) -> list[Record]:
    """`self_sorting_and_latest`: the same, but of the confident frames those of largest total dissimilarity.

    D_i is the sum over conditioning frames, confident ones and the latest of 1 - similarity. Of equals the older one
    goes.
    """
    bank, confident, new = _parted(records, limits)
    if _is_outlier(records, similarity, limits):
        return bank
    index = {record: i for i, record in enumerate(records)}
    compared = [i for record, i in index.items() if record.is_prompted or record is new]
    compared += [index[record] for record in confident]
    apart = 1.0 - similarity[:, compared]
    by_value = sorted(confident, key=lambda r: (float(apart[index[r]].sum()), index[r]))
    best = set(by_value[max(len(by_value) - limits.capacity + 1, 0) :])
    return [*(record for record in confident if record in best), new]


def _parted(
    records: Sequence[Record], limits: PolicyLimits
) -> tuple[list[Record], list[Record], Record]:
    """The bank, its confident frames, and the newcomer."""
    *bank, new = _tracked(records)
    return bank, [r for r in bank if r.confidence >= limits.min_confidence], new


def _is_outlier(records: Sequence[Record], similarity: Similarity, limits: PolicyLimits) -> bool:
    """Whether the newcomer is unsure and unlike all others, for a few frames at the most."""
    *others, new = records
    if new.confidence >= limits.min_confidence or not others:
        return False
    is_near = min(abs(new.frame - record.frame) for record in others) <= MAX_SKIPPED
    return is_near and not float(similarity[:-1, -1].max()) >= limits.min_similarity


@dataclass(frozen=True, slots=True)
class Policy:
    """A row of the table.

    Attributes:
        keep: the rule.
        compares: which tensors' similarity it looks at, if any.
        is_recency: it keeps an unbroken run of frames, so that each has SAM 2's own temporal code.
        reads_pointers: object pointers are read beside the memories.
        capacity: default; None is one less than the model's `num_maskmem`.
    """

    keep: Keep
    compares: Literal["memory", "image"] | None = None
    is_recency: bool = False
    reads_pointers: bool = True
    capacity: int | None = None


POLICIES = {
    "fifo": Policy(keep_latest, is_recency=True),
    "confidence": Policy(keep_confident, "image"),
    # v2 does not say which embedding; the released code compares memories.
    "self_sorting": Policy(keep_dissimilar, "memory"),
    "self_sorting_released": Policy(
        keep_as_released, "memory", reads_pointers=False, capacity=RELEASED_CAPACITY
    ),
    "confident_and_latest": Policy(keep_confident_and_latest, "image"),
    "self_sorting_and_latest": Policy(keep_dissimilar_and_latest, "image"),
}


def _tracked(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if not record.is_prompted]
