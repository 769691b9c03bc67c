from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from export.checkpoints.weight_sets import MAX_DEPTH, choose_set
from runtime.errors import CheckpointError

FILE = Path("weights.pt")
STATE = {"maskmem_tpos_enc": torch.ones(7, 1), "no_obj_ptr": torch.zeros(1, 8)}


def prefixed(prefix: str) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in STATE.items()}


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else STATE


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        (STATE, ""),
        ({**STATE, "epoch": 3, "name": "best"}, ""),
        ({"model": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "model"),
        ({"state_dict": prefixed("model.")}, "state_dict.model"),
        (prefixed("module."), "module"),
        (prefixed("module.model."), "module.model"),
        (prefixed("_orig_mod."), ""),
        (prefixed("module._orig_mod."), "module"),
        ({"ema": {"module": STATE}}, "ema.module"),
        (nested(MAX_DEPTH), ".".join("a" * MAX_DEPTH)),
    ],
)
def test_one_set_is_found_wherever_it_lies(content: Any, entry: str) -> None:
    for asked in (None, entry):
        chosen = choose_set(content, FILE, asked)
        assert chosen.entry == entry
        assert chosen.tensors.keys() == STATE.keys()
        assert all(chosen.tensors[name] is tensor for name, tensor in STATE.items())


def test_tensors_beside_the_prefix_are_counted() -> None:
    chosen = choose_set({**prefixed("model."), "loss.weight": torch.ones(2)}, FILE, None)
    assert (chosen.tensors.keys(), chosen.others) == (STATE.keys(), 1)


def test_two_sets_in_one_dictionary_are_told_by_prefix() -> None:
    content = {"state_dict": {**prefixed("model."), **prefixed("ema_model.module.")}}
    with pytest.raises(
        CheckpointError, match=r"'state_dict\.model', 'state_dict\.ema_model\.module'"
    ):
        choose_set(content, FILE, None)
    assert choose_set(content, FILE, "state_dict.model").tensors.keys() == STATE.keys()


def test_of_very_many_sets_a_few_are_named() -> None:
    content = {f"set {number}": STATE | {"other": torch.ones(number)} for number in range(100)}
    with pytest.raises(CheckpointError, match=r"'set 0', .*'set 7' and 92 more$"):
        choose_set(content, FILE, None)


def test_without_the_telling_name_the_largest_dictionary_is_taken() -> None:
    content = {"small": {"a": torch.ones(1)}, "large": {"b": torch.ones(1), "c": torch.ones(1)}}
    assert choose_set(content, FILE, None).entry == "large"


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"model": {}},
        {"model": [torch.ones(1)]},
        {1: torch.ones(1)},
        nested(MAX_DEPTH + 1),
    ],
    ids=lambda content: repr(content)[:30],
)
def test_a_file_without_tensors_by_name_says_what_it_holds(content: Any) -> None:
    with pytest.raises(CheckpointError, match="holds no state dict"):
        choose_set(content, FILE, None)


def test_dictionaries_that_hold_each_other_come_to_an_end() -> None:
    content: dict[str, Any] = {"model": STATE}
    content["self"] = content
    for number in range(2000):
        content[f"further {number}"] = {"content": content}
    assert choose_set(content, FILE, None).entry == "model"


def test_a_name_that_is_there_with_and_without_a_wrapper_is_refused() -> None:
    with pytest.raises(CheckpointError, match="twice"):
        choose_set({**STATE, **prefixed("_orig_mod.")}, FILE, None)
