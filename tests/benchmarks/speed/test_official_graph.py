"""Recording and replaying, with a graph that computes when it is replayed and gives its results in fixed tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.speed.official_graph import MODULES, Replayed, replay_modules
from export.model.sam2 import Sam2
from export.variants import VARIANTS
from runtime.errors import BackendUnavailable
from runtime.measure.phantom import make_phantom
from tests.variants import TOY

Nest = Any


class HostGraph:
    """Like a CUDA graph: recording computes nothing that counts, a replay writes into the same tensors as ever."""

    made: list[HostGraph]

    def __init__(self, call: Callable[[], Nest]) -> None:
        self._call, self.replays = call, 0
        call()  # what modules keep from their first call must not lie among the outputs
        self.outputs = call()
        for tensor in _flat(self.outputs):
            tensor.fill_(7)
        HostGraph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        for static, tensor in zip(_flat(self.outputs), _flat(self._call()), strict=True):
            static.copy_(tensor)


def _flat(value: Nest) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if not isinstance(value, dict | list | tuple):
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in _flat(part)]


@pytest.fixture(autouse=True)
def made() -> list[HostGraph]:
    """Graphs that a test has recorded."""
    HostGraph.made = []
    return HostGraph.made


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The official package's contenders; a bare CUDA machine may lack the package."""
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    return pytest.importorskip("benchmarks.speed.official").OfficialContender


def double(x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
    return x * scale


def test_a_call_is_recorded_once_and_replayed_on_new_inputs(made: list[HostGraph]) -> None:
    call = Replayed(double, HostGraph)
    for value in (1.0, 3.0, 5.0):
        assert call(torch.full((2,), value)).tolist() == [2 * value] * 2
    assert [graph.replays for graph in made] == [3]


@pytest.mark.parametrize(
    ("first", "second", "graphs"),
    [
        ((torch.ones(2),), (torch.zeros(2),), 1),
        ((torch.ones(2),), (torch.ones(3),), 2),
        ((torch.ones(2),), (torch.ones(2, dtype=torch.float64),), 2),
        ((torch.ones(2), 2.0), (torch.ones(2), 3.0), 2),
        ((torch.ones(2), True), (torch.ones(2), 1), 2),
    ],
    ids=["values", "shape", "dtype", "number", "kind of number"],
)
def test_calls_of_another_kind_get_a_graph_of_their_own(
    made: list[HostGraph], first: tuple[Any, ...], second: tuple[Any, ...], graphs: int
) -> None:
    call = Replayed(double, HostGraph)
    assert torch.equal(call(*first), double(*first))
    assert torch.equal(call(*second), double(*second))
    assert torch.equal(call(*first), double(*first))
    assert len(made) == graphs


def test_names_count_as_part_of_a_call(made: list[HostGraph]) -> None:
    call = Replayed(lambda **given: given["a"] - given["b"], HostGraph)
    x, y = torch.ones(1), torch.zeros(1)
    assert call(a=x, b=y).item() == 1
    assert call(a=y, b=x).item() == -1
    assert len(made) == 1


def test_what_was_given_back_survives_the_next_replay() -> None:
    call = Replayed(double, HostGraph)
    kept = call(torch.ones(1))
    call(torch.full((1,), 5.0))
    assert kept.item() == 2


def test_a_callers_tensors_are_only_read() -> None:
    def in_place(x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)

    x, call = torch.zeros(1), Replayed(in_place, HostGraph)
    assert [call(x).item(), call(x).item()] == [1, 1]
    assert x.item() == 0


def test_tensors_that_repeat_their_memory_are_copied_whole() -> None:
    call = Replayed(double, HostGraph)
    for value in (1.0, 2.0):
        assert call(torch.full((1, 1), value).expand(2, 3)).tolist() == [[2 * value] * 3] * 2


def test_nests_go_in_and_come_out_as_they_were() -> None:
    def nested(parts: list[torch.Tensor], more: dict[str, Any]) -> dict[str, Any]:
        return {"sum": [parts[0] + parts[1]], "pair": (more["x"], None), "n": more["n"]}

    call = Replayed(nested, HostGraph)
    x = torch.ones(1)
    found = call([x, 2 * x], {"x": 3 * x, "n": 4})
    assert found["sum"][0].item() == 3 and found["n"] == 4
    assert isinstance(found["pair"], tuple) and found["pair"][1] is None


def test_off_cuda_there_are_no_graphs() -> None:
    with pytest.raises(BackendUnavailable, match="need a CUDA device; this contender runs on cpu"):
        replay_modules(torch.nn.Module(), "cpu")


@pytest.mark.filterwarnings("ignore::UserWarning")  # upstream's, about its extension
def test_the_official_predictor_computes_the_same_with_its_modules_replayed(
    toy: Sam2, made: list[HostGraph], official: Any
) -> None:
    phantom = make_phantom((9, 64, 64))
    plain = official(toy, "eager", None, "cpu").run(phantom, 1)
    contender = official(toy, "eager", None, "cpu")
    calls = replay_modules(contender._predictor, "cpu", HostGraph)
    found = contender.run(phantom, 1)
    assert list(calls) == list(MODULES)
    assert all((found.logits[key] == plain.logits[key]).all() for key in plain.logits)
    num_graphs = len(made)
    contender.run(phantom, 1)
    assert len(made) == num_graphs, "a second pass meets nothing new"
    assert all(graph.replays >= 2 for graph in made)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cuda_graphs_compute_what_the_modules_do(
    toy: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA device here")
    phantom = make_phantom((9, 64, 64))
    plain = official(toy, "eager", torch.bfloat16, "cuda").run(phantom, 1)
    replayed = official(toy, "graph", torch.bfloat16, "cuda")
    for _ in range(2):
        found = replayed.run(phantom, 1)
        for key, right in plain.logits.items():
            assert abs(found.logits[key] - right).max() <= 0.05 * abs(right).max()
