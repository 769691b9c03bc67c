"""How much each record in the bank weighs in a step: weights on memory slots, whatever the policy.

Softmax attention over a slot that is repeated n times equals attention over one copy with weight n. So a draw of K
records with replacement is the vector of counts, its expectation is K p, and equal weights are SAM 2.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Weights = tuple[float, ...]
PickUp = Callable[[NDArray[np.float32], np.random.Generator], Weights]


def probabilities(similarity: NDArray[np.float32]) -> NDArray[np.float64]:
    """p_i = s_i / sum s (MedSAM-2 v2), of a slice's similarities (k,) to the records.

    A cosine below zero counts as zero; where none is above, all records count alike.
    """
    positive = similarity.astype(np.float64).clip(min=0)
    total = positive.sum()
    return positive / total if total > 0 else np.full(len(similarity), 1 / len(similarity))


def equal(similarity: NDArray[np.float32], rng: np.random.Generator) -> Weights:
    """`all`: every record once."""
    return (1.0,) * len(similarity)


def weighted(similarity: NDArray[np.float32], rng: np.random.Generator) -> Weights:
    """`weighted`: K p_i, what `resample` gives on average."""
    return tuple(float(w) for w in len(similarity) * probabilities(similarity))


def resample(similarity: NDArray[np.float32], rng: np.random.Generator) -> Weights:
    """`resample`: how often each of K records is drawn in K draws with replacement."""
    counts = rng.multinomial(len(similarity), probabilities(similarity))
    return tuple(float(count) for count in counts)


PICK_UPS: dict[str, PickUp] = {"all": equal, "weighted": weighted, "resample": resample}
