"""ONNX Runtime's CUDA back ends: what was asked for is got, or refused with what was found and what to do."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import tensor_dtype_to_np_dtype

import runtime.backends.ort_cuda as ort_cuda
from runtime.backends import open_backend
from runtime.bundle.bundle import Bundle, open_bundle
from runtime.bundle.contract import graph_specs
from runtime.devices.cuda.memory import CudaMemory
from runtime.errors import BackendUnavailable, BundleError
from tests.kernels.host_device import HostDevice

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


class Binding:
    """Notes what is bound."""

    def __init__(self) -> None:
        self.bound: dict[str, tuple[Any, ...]] = {}

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: type,
        shape: tuple[int, ...],
        buffer_ptr: int,
    ) -> None:
        self.bound[name] = (device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: type | None = None,
        shape: tuple[int, ...] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        self.bound[name] = (device_type, device_id, element_type, shape, buffer_ptr)


class Session:
    """A session that opens what the test says."""

    def __init__(self, owner: Ort, data: bytes, options: Any, providers: list[Any], **rest: Any):
        self.owner, self.data, self.options, self.asked, self.rest = (
            owner,
            data,
            options,
            providers,
            rest,
        )
        self.runs: list[tuple[dict[str, Any], dict[str, str]]] = []
        owner.sessions.append(self)
        if owner.error:
            raise RuntimeError(owner.error)

    def get_providers(self) -> list[str]:
        return self.owner.opened

    def get_inputs(self) -> list[Any]:
        return self._tensors("input")

    def get_outputs(self) -> list[Any]:
        return [t for t in self._tensors("output") if t.name != self.owner.hidden]

    def _tensors(self, kind: str) -> list[Any]:
        names = {"float32": "float", "int64": "int64", "bool": "bool"}
        return [
            SimpleNamespace(
                name=tensor.name,
                shape=[d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim],
                type=f"tensor({names[tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type).name]})",
            )
            for tensor in getattr(onnx.load_model_from_string(self.data).graph, kind)
        ]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        self.runs.append((binding.bound, options.entries))


class Options:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.intra_op_num_threads = 0

    def _add(self, key: str, value: str) -> None:
        self.entries[key] = value

    add_session_config_entry = add_run_config_entry = _add


class Ort:
    """The onnxruntime module as the back end sees it."""

    __version__ = "1.31"
    SessionOptions = RunOptions = Options

    def __init__(self) -> None:
        self.available = [TENSORRT, CUDA, CPU]
        self.opened = [TENSORRT, CUDA, CPU]
        self.error = ""
        self.on_host: list[str] = []
        self.sessions: list[Session] = []
        self.num_preloads = 0
        self.hidden = ""
        owner = self

        class Inference(Session):
            def __init__(self, *arguments: Any, **rest: Any) -> None:
                super().__init__(owner, *arguments, **rest)

            def get_provider_graph_assignment_info(self) -> list[Any]:
                nodes = [SimpleNamespace(op_type=name) for name in owner.on_host]
                other = [SimpleNamespace(op_type="MatMul")]
                return [
                    SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes),
                    SimpleNamespace(ep_name=CUDA, get_nodes=lambda: other),
                ]

        self.InferenceSession = Inference

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        self.num_preloads += 1


@pytest.fixture
def bundle() -> Bundle:
    return open_bundle()


@pytest.fixture
def ort(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Ort:
    made, memory = Ort(), CudaMemory(HostDevice())
    monkeypatch.setattr(ort_cuda, "onnxruntime", made)
    monkeypatch.setattr(ort_cuda, "open_memory", lambda stream: memory)
    return made


@pytest.mark.parametrize(("name", "first"), [("ort-cuda", CUDA), ("ort-tensorrt", TENSORRT)])
def test_a_session_gets_the_provider_the_stream_and_no_other_way(
    name: str, first: str, ort: Ort, bundle: Bundle
) -> None:
    ort.opened = [first, CPU]
    backend = open_backend(name, bundle, 3)
    backend.load("memory_encoder")
    backend.load("image_encoder")
    streams: Any = backend.device_memory.streams
    for session, stream in zip(ort.sessions, (streams.step, streams.encode), strict=True):
        assert session.asked[0][0] == first and session.asked[-1][0] == CUDA
        assert all(o["user_compute_stream"] == str(stream.handle) for _, o in session.asked)
        assert session.asked[-1][1]["use_tf32"] == "0"
        assert session.rest == {"enable_fallback": 0}
        assert session.options.intra_op_num_threads == 3
    assert ort.num_preloads == 1
    assert first in backend.description


def test_tensorrts_engines_are_known_by_what_makes_them_wrong(
    ort: Ort, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(getInferLibVersion=lambda: 100301)
    monkeypatch.setattr(ort_cuda.ctypes, "CDLL", lambda name: library)
    backend = open_backend("ort-tensorrt", bundle)
    backend.load("memory_encoder")
    ((_, options), _) = ort.sessions[0].asked
    assert options["trt_engine_cache_enable"] == "True"
    prefix = options["trt_engine_cache_prefix"]
    graph = hashlib.sha256(ort.sessions[0].data).hexdigest()[:16]
    card = "a-host-that-plays-a-device-00"
    assert prefix == f"memory_encoder-{graph}-1.31-100301-{card}"
    assert b"MultiHeadAttention" not in ort.sessions[0].data


def test_no_engines_are_kept_where_nothing_is(
    ort: Ort, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAM2_RUNTIME_CACHE", "")
    open_backend("ort-tensorrt", bundle).load("memory_encoder")
    ((_, options), _) = ort.sessions[0].asked
    assert options["trt_engine_cache_enable"] == "False" and "trt_engine_cache_path" not in options


@pytest.mark.parametrize("graph", ["memory_encoder", "image_encoder"])
def test_buffers_are_bound_by_address_and_nobody_waits(
    graph: str, ort: Ort, bundle: Bundle
) -> None:
    ort.opened = [CUDA, CPU]
    backend = open_backend("ort-cuda", bundle)
    memory, spec = backend.device_memory, graph_specs(bundle.model)[graph]
    axes = {"b": 1, "n": 1}
    given, made = (
        {n: memory.put(np.zeros(each.bind(axes), each.dtype)) for n, each in tensors.items()}
        for tensors in (spec.inputs, spec.outputs)
    )
    backend.load(graph).run(given, made)
    ((bound, options),) = ort.sessions[0].runs
    assert options == {"disable_synchronize_execution_providers": "1"}
    tensors: dict[str, Any] = {**given, **made}
    assert bound == {
        name: ("cuda", 0, tensor.dtype.type, tensor.shape, tensor.address)
        for name, tensor in tensors.items()
    }


def test_without_the_provider_one_is_told_what_to_install(ort: Ort, bundle: Bundle) -> None:
    ort.available = ["AzureExecutionProvider", CPU]
    with pytest.raises(
        BackendUnavailable, match=r"only AzureExecutionProvider, .*pip install"
    ) as e:
        open_backend("ort-cuda", bundle)
    assert e.value.exit_code == 5


def test_a_silent_fallback_is_refused(ort: Ort, bundle: Bundle) -> None:
    ort.opened = [CPU]
    with pytest.raises(BackendUnavailable, match=f"asked for {CUDA}, ONNX Runtime opened .*CPU"):
        open_backend("ort-cuda", bundle).load("memory_encoder")


@pytest.mark.parametrize(("name", "first"), [("ort-cuda", CUDA), ("ort-tensorrt", TENSORRT)])
def test_a_graph_that_is_not_as_agreed_is_refused_when_it_is_opened(
    name: str, first: str, ort: Ort, bundle: Bundle
) -> None:
    ort.opened, ort.hidden = [first, CPU], "memory"
    backend = open_backend(name, bundle)
    with pytest.raises(BundleError, match=r"memory_encoder is not the graph .*outputs are \[\]"):
        backend.load("memory_encoder")
    backend.load("memory_attention")


def test_arithmetic_left_to_the_processor_is_refused_and_shapes_are_not(
    ort: Ort, bundle: Bundle
) -> None:
    ort.opened, ort.on_host = [CUDA, CPU], ["Shape", "Gather", "Concat"]
    open_backend("ort-cuda", bundle).load("memory_encoder")
    ort.on_host += ["MultiHeadAttention"]
    with pytest.raises(BackendUnavailable, match="leaves MultiHeadAttention of memory_encoder"):
        open_backend("ort-cuda", bundle).load("memory_encoder")


def test_a_release_that_cannot_tell_what_it_leaves_must_leave_nothing(
    ort: Ort, bundle: Bundle
) -> None:
    ort.opened = [CUDA, CPU]
    open_backend("ort-cuda", bundle).load("memory_encoder")
    recorded = "session.record_ep_graph_assignment_info"
    assert ort.sessions[0].options.entries == {recorded: "1"}
    del ort.InferenceSession.get_provider_graph_assignment_info
    open_backend("ort-cuda", bundle).load("memory_encoder")
    assert ort.sessions[1].options.entries == {"session.disable_cpu_ep_fallback": "1"}


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has "
            "been explicitly disabled",
            BackendUnavailable,
            "not what was asked",
        ),
        ("libcublasLt.so.13: cannot open", BackendUnavailable, "CUDA 13's libraries"),
        ("LoadLibrary failed with error 126", BackendUnavailable, "CUDA 13's libraries"),
        ("bad node", BundleError, "refuses memory_encoder: bad node"),
    ],
)
def test_each_failure_is_told_by_its_kind(
    error: str, kind: type[Exception], said: str, ort: Ort, bundle: Bundle
) -> None:
    ort.error = error
    with pytest.raises(kind, match=said):
        open_backend("ort-cuda", bundle).load("memory_encoder")
