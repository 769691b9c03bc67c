"""The sets of weights in what a checkpoint holds: wherever they lie, whatever their names are prefixed with.

Training scripts nest state dicts ('model', Lightning's 'state_dict', 'ema') and wrap modules ('module.', 'model.').
A set is found by one name that every network of a kind has once, so none of these words has to be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from runtime.errors import CheckpointError

# Of SAM 2, and of SAM 1, whose prompt encoder SAM 2 has under another name.
ANCHORS = ("maskmem_tpos_enc", "prompt_encoder.no_mask_embed.weight")
MAX_DEPTH = 4  # of dictionaries within each other
MAX_DICTIONARIES = 1000
MAX_LISTED = 8  # in a message
# What wrappers put between the names of modules: torch.compile, FSDP, activation checkpointing.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True, slots=True)
class WeightSet:
    """Tensors by name.

    Attributes:
        entry: where they lie, names of dictionaries and prefix joined by dots; "" for the whole of a file.
        tensors: without the prefix.
        others: how many tensors of the same dictionary are not among them.
    """

    entry: str
    tensors: dict[str, Tensor]
    others: int = 0


def choose_set(content: object, file: Path, entry: str | None) -> WeightSet:
    """The weights in a file: those of `entry`, or the only ones.

    A file without any of `ANCHORS` gives its largest dictionary of tensors, which is no network of ours, but has names
    to tell it by. Raises CheckpointError for a file without tensors, one with several sets of which none was named, or
    one without that name.
    """
    dictionaries = list(_dictionaries(content, (), set()))
    sets = [weights for path, tensors in dictionaries for weights in _sets(path, tensors, file)]
    if not sets and dictionaries:
        path, largest = max(dictionaries, key=lambda candidate: len(candidate[1]))
        sets = [WeightSet(".".join(path), largest)]
    if not sets:
        keys = list(content)[:6] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{file} holds no state dict; wanted tensors by name, found {keys!r}")
    names = ", ".join(repr(candidate.entry) for candidate in sets[:MAX_LISTED])
    if len(sets) > MAX_LISTED:
        names += f" and {len(sets) - MAX_LISTED} more"
    chosen = [candidate for candidate in sets if entry is None or candidate.entry == entry]
    if len(chosen) > 1:
        raise CheckpointError(
            f"{file} holds several sets of weights: pass --entry with one of {names}"
        )
    if not chosen:
        raise CheckpointError(f"{file} holds no weights at {entry!r}; there are: {names}")
    return chosen[0]


def all_names(content: object) -> list[str]:
    """Names of all tensors in a file."""
    return [name for _, tensors in _dictionaries(content, (), set()) for name in tensors]


def _dictionaries(
    content: object, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary that has tensors by name, with the names that lead to it; no dictionary twice."""
    if not isinstance(content, dict) or id(content) in seen or len(seen) > MAX_DICTIONARIES:
        return
    seen.add(id(content))
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield path, tensors
    if len(path) < MAX_DEPTH:
        for key, value in named.items():
            yield from _dictionaries(value, (*path, key), seen)


def _sets(path: tuple[str, ...], tensors: dict[str, Tensor], file: Path) -> Iterator[WeightSet]:
    """One set for each prefix under which the anchor is found."""
    plain = {_unwrapped(name): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise CheckpointError(
            f"{file} names a tensor twice, with and without {' or '.join(WRAPPERS)}"
        )
    for name, anchor in ((name, anchor) for name in plain for anchor in ANCHORS):
        prefix = name.removesuffix(anchor)
        if prefix != name and (not prefix or prefix.endswith(".")):
            chosen = {
                key.removeprefix(prefix): tensor
                for key, tensor in plain.items()
                if key.startswith(prefix)
            }
            entry = ".".join([*path, *prefix.split(".")[:-1]])
            yield WeightSet(entry, chosen, len(plain) - len(chosen))


def _unwrapped(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
