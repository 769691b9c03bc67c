from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import runtime.backends
from runtime.backends import BACKENDS, open_backend
from runtime.bundle.bundle import EMBEDDED, Bundle, open_bundle
from runtime.bundle.contract import GRAPHS, graph_specs
from runtime.bundle.manifest import MANIFEST, graph_file
from runtime.errors import BackendUnavailable, BundleError, InputError
from runtime.model import load
from tests.fake_backend import FakeBackend
from tests.fakes import FAKE_NUMBERS, fake_model

SPECS = graph_specs(FAKE_NUMBERS)
AXES = {"n": 1, "b": 2, "k": 3, "p": 4, "q": 5}


def arrays(specs, **changed: np.ndarray) -> dict[str, np.ndarray]:
    made = {name: np.zeros(spec.bind(AXES), spec.dtype) for name, spec in specs.items()}
    return {**made, **changed}


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    return open_bundle()


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**9, True, 1.5, "2", float("nan")])
@pytest.mark.parametrize("name", ["ort", "openvino", "ort-cuda"])
def test_threads_that_no_machine_has_are_refused_before_an_engine_makes_them(
    name: str, threads: Any, embedded: Bundle
) -> None:
    with pytest.raises(InputError, match=r"threads; wanted 1 to 1024") as error:
        open_backend(name, embedded, threads)
    assert error.value.exit_code == 3


def test_a_hint_that_is_none_is_refused(embedded: Bundle) -> None:
    with pytest.raises(InputError, match="no hint 'speed'; there are: latency, throughput"):
        load(embedded, "openvino", hint="speed")


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_fake_answers_every_graph_and_records_what_it_was_asked(graph: str) -> None:
    backend = FakeBackend(FAKE_NUMBERS)
    inputs, outputs = arrays(SPECS[graph].inputs), arrays(SPECS[graph].outputs)
    backend.load(graph).run(inputs, outputs)
    (call,) = backend.calls
    assert call.graph == graph
    assert call.inputs.keys() == inputs.keys()
    name = next(iter(inputs))
    inputs[name][:] = 1
    assert not call.inputs[name].any(), "the record is a copy"


def test_the_fake_finds_a_confident_square_unless_a_test_says_otherwise() -> None:
    specs = SPECS["mask_decoder"]
    outputs = arrays(specs.outputs)
    FakeBackend(FAKE_NUMBERS).load("mask_decoder").run(arrays(specs.inputs), outputs)
    assert (outputs["low_res_masks"] > 0).mean() == pytest.approx(0.25)
    assert outputs["ious"] == pytest.approx([0.9, 0.9])
    answers = {"mask_decoder": lambda inputs: {"ious": inputs["point_coords"].sum() + 0.1}}
    FakeBackend(FAKE_NUMBERS, answers).load("mask_decoder").run(arrays(specs.inputs), outputs)
    assert outputs["ious"] == pytest.approx([0.1, 0.1])
    assert (outputs["low_res_masks"] > 0).any(), "what is not overridden stays"


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("attended_features", np.zeros((2, 16, 9), np.float32), "with 8 = 8"),
        ("attended_features", np.zeros((3, 16, 8), np.float32), "with b = 3"),
        ("memory_time", np.zeros((2, 2), np.int64), "with k = 3"),
        ("memory_time", np.zeros((2, 3), np.int32), "is int32"),
        ("obj_ptrs", np.zeros((2, 4), np.float32), "contract says float32"),
    ],
)
def test_the_fake_refuses_what_does_not_fit_the_contract(
    name: str, array: np.ndarray, why: str
) -> None:
    specs = SPECS["memory_attention"]
    backend = FakeBackend(FAKE_NUMBERS)
    inputs = arrays(specs.inputs, **{name: array})
    with pytest.raises(ValueError, match=f"memory_attention: input '.*{why}"):
        backend.load("memory_attention").run(inputs, arrays(specs.outputs))
    assert backend.calls == []


def test_the_fake_refuses_missing_and_unknown_inputs_and_misshapen_outputs() -> None:
    specs = SPECS["memory_encoder"]
    engine = FakeBackend(FAKE_NUMBERS).load("memory_encoder")
    fewer = arrays(specs.inputs)
    del fewer["binarize"]
    for inputs in (fewer, arrays(specs.inputs, colour=np.zeros(2))):
        with pytest.raises(ValueError, match="memory_encoder: inputs are"):
            engine.run(inputs, arrays(specs.outputs))
    rows = np.zeros((3, FAKE_NUMBERS.num_tokens, FAKE_NUMBERS.mem_dim), np.float32)
    with pytest.raises(ValueError, match="output 'memory'"):
        engine.run(arrays(specs.inputs), {"memory": rows})


def test_a_model_loads_a_graph_when_it_is_first_called_and_only_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, backend = fake_model()
    loaded: list[str] = []
    load_graph = backend.load

    def count(graph: str):
        loaded.append(graph)
        return load_graph(graph)

    monkeypatch.setattr(backend, "load", count)
    for _ in range(2):
        model.run("memory_encoder", arrays(SPECS["memory_encoder"].inputs))
    assert loaded == ["memory_encoder"]
    with pytest.raises(ValueError, match="image_encoder: input 'image'"):
        model.encode(np.zeros((1, 1, 2, 2), np.float32))
    assert loaded == ["memory_encoder"]


def test_every_run_is_shown_to_the_observer() -> None:
    model, backend = fake_model()
    seen = []
    observed = model.observed(lambda *args: seen.append(args))
    inputs = arrays(SPECS["memory_encoder"].inputs)
    observed.run("memory_encoder", inputs)
    outputs = observed.run("memory_encoder", inputs)
    observed.encode(np.zeros((1, 3, 64, 64), np.float32))
    assert [graph for graph, *_ in seen] == ["memory_encoder", "memory_encoder", "image_encoder"]
    _, shown_inputs, shown_outputs, milliseconds = seen[1]
    assert shown_inputs["low_res_masks"] is inputs["low_res_masks"]
    assert shown_outputs["memory"] is outputs["memory"]
    assert milliseconds > 0
    assert len(backend.calls) == 3
    assert observed.backend.description == backend.description
    model.run("memory_encoder", inputs)
    assert len(seen) == 3, "the model itself stays unwatched"


@pytest.mark.parametrize("name", ["", "abacus", "ORT"])
def test_an_unknown_back_end_is_refused_with_those_there_are(name: str, embedded: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match="there are: auto, ort") as refused:
        open_backend(name, embedded)
    assert refused.value.exit_code == 5


def test_a_back_end_whose_package_is_missing_is_unavailable(
    embedded: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "runtime.backends.ort", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("auto", "ort"):
        with pytest.raises(
            BackendUnavailable,
            match=r"'ort' cannot be opened: this needs onnxruntime .*medsam2-runtime\[cpu\]",
        ):
            load(embedded, name)


def test_a_back_end_says_what_it_is(embedded: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.backends, "cores_given", lambda: None)
    assert runtime.backends.DEFAULT in BACKENDS
    assert "ONNX Runtime" in load(embedded, "auto").backend.description
    assert "3 threads" in open_backend("ort", embedded, 3).description
    assert "all threads" in open_backend("ort", embedded).description


def test_the_number_of_threads_does_not_change_the_result(embedded: Bundle) -> None:
    size = embedded.model.image_size
    image = np.random.default_rng(4).normal(size=(1, 3, size, size)).astype(np.float32)
    one, many = (load(embedded, threads=threads).encode(image) for threads in (1, 2))
    assert one.tensors.keys() == many.tensors.keys()
    for name, left in one.tensors.items():
        right = many.tensors[name]
        assert np.abs(left).max() > 0
        np.testing.assert_allclose(left, right, atol=1e-5 * np.abs(left).max())


def test_an_input_that_is_not_contiguous_is_read_as_what_it_is(embedded: Bundle) -> None:
    model = load(embedded)
    numbers = embedded.model
    rng = np.random.default_rng(4)
    grid, low = numbers.grid, numbers.low_res
    inputs = {
        "projected_features": rng.normal(size=(1, numbers.d_model, grid, grid)).astype(np.float32),
        "low_res_masks": rng.normal(size=(1, 1, low, low)).astype(np.float32),
        "object_score_logits": np.ones(1, np.float32),
        "binarize": np.zeros(1, bool),
    }
    turned = {name: np.asfortranarray(array) for name, array in inputs.items()}
    assert not turned["projected_features"].flags.c_contiguous
    np.testing.assert_array_equal(model.memorise(**turned), model.memorise(**inputs))


def test_a_graph_that_onnx_runtime_refuses_is_a_bad_bundle(tmp_path: Path) -> None:
    manifest = json.loads((EMBEDDED / MANIFEST).read_text())
    data = b"this is no graph"
    for graph in GRAPHS:
        name = graph_file(graph)
        (tmp_path / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"size_bytes": len(data), "sha256": digest}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    model = load(tmp_path)
    size = model.numbers.image_size
    with pytest.raises(BundleError, match="refuses image_encoder") as refused:
        model.encode(np.zeros((1, 3, size, size), np.float32))
    assert refused.value.exit_code == 4


def test_a_session_that_runs_elsewhere_than_asked_is_refused(
    embedded: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def elsewhere(*args, **kwargs) -> SimpleNamespace:
        return SimpleNamespace(get_providers=lambda: ["AbacusExecutionProvider"])

    backend = open_backend("ort", embedded)
    monkeypatch.setattr(onnxruntime, "InferenceSession", elsewhere)
    with pytest.raises(BackendUnavailable, match="AbacusExecutionProvider"):
        backend.load("memory_encoder")
