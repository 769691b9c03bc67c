from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.checkpoints.checkpoint import read_checkpoint
from export.checkpoints.shapes import may_fit, shapes_of
from export.model.network import network
from export.variants import VARIANTS, Variant
from tests.variants import TOY, TOY_EDGE, TOY_LITEMEDSAM, TOY_SAM, TOY_VIT


@pytest.mark.parametrize("row", [TOY, TOY_VIT, TOY_EDGE, TOY_SAM, TOY_LITEMEDSAM])
def test_shapes_are_those_of_a_network_with_numbers(row: Variant) -> None:
    state = network(row).state_dict()
    assert shapes_of(row) == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_one_weight_rules_out_most_models_and_never_the_right_one() -> None:
    for name, row in VARIANTS.items():
        shapes = shapes_of(row)
        left = [other for other in VARIANTS if may_fit(VARIANTS[other], shapes)]
        assert name in left
        assert len(left) <= 5
    assert not any(may_fit(row, {}) for row in VARIANTS.values())
    assert not may_fit(TOY, {f"image_encoder.{TOY.trunk.stem}": ()})


def test_only_networks_that_may_fit_are_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "edgetam.pt"
    shapes = shapes_of(VARIANTS["edgetam"])
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, path)
    built: list[str] = []

    def building(row: Variant) -> object:
        built.append(row.name)
        return network(row)

    shapes_of.cache_clear()
    monkeypatch.setattr("export.checkpoints.shapes.network", building)
    assert read_checkpoint(path).variant.name == "edgetam"
    assert built == ["edgetam"]


def test_pytorchs_compiler_is_not_imported() -> None:
    code = (
        "import sys; from export.checkpoints.shapes import shapes_of; from export.variants import VARIANTS\n"
        "for row in VARIANTS.values(): shapes_of(row)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
