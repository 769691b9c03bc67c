"""ONNX Runtime on a CUDA device, through its CUDA or TensorRT provider, bound to buffers that stay there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import onnxruntime

from runtime.backends.lowering.typed_graph import PRECISIONS, typed_graph
from runtime.backends.ort import WARNINGS_AND_WORSE, spec_of_session
from runtime.backends.refusals import check_graph, read_whole_graph
from runtime.bundle.bundle import Bundle
from runtime.devices.cuda.memory import CudaMemory, open_memory
from runtime.errors import BackendUnavailable, BundleError
from runtime.files.cache import cache_folder
from runtime.steps.cuda.steps import CudaSteps

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
# TensorRT 10's, which the provider of every release so far is built for.
LIBRARY = "nvinfer_10.dll" if sys.platform == "win32" else "libnvinfer.so.10"
# Arithmetic on shapes, a few integers: providers leave it to the processor on purpose.
ON_SHAPES = {
    *("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Mul"),
    *("Range", "Reshape", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
}
HOW_TO_INSTALL = (
    "pip uninstall onnxruntime, then pip install onnxruntime-gpu: both own the same module. Its releases from 1.27 on "
    "need CUDA 13's libraries, those before CUDA 12's; pip's nvidia-* packages or torch bring them"
)


def left_to_the_host(session: Any) -> list[str]:
    """Operators of a session, other than on shapes, that run on the processor."""
    parts = session.get_provider_graph_assignment_info()
    on_host = {
        node.op_type
        for part in parts
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
    }
    return sorted(on_host - ON_SHAPES)


def tensorrt_version() -> str:
    """Version of the library that ONNX Runtime's provider loads, which Python's packages need not tell."""
    try:
        return str(ctypes.CDLL(LIBRARY).getInferLibVersion())
    except (OSError, AttributeError):
        return "unknown"


class OrtCudaEngine:
    """One session and the stream that it was made for."""

    def __init__(self, session: Any, memory: CudaMemory, stream: Any) -> None:
        self._session, self._memory, self._stream = session, memory, stream
        self._options = onnxruntime.RunOptions()
        # The runtime orders everything on streams itself; a wait after each graph would only cost.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Enqueue on the session's stream, in the order of the current one."""
        current, own = self._memory.current, self._stream
        if current is not own:
            own.wait(current.record())
        binding = self._session.io_binding()
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                bind(name, "cuda", 0, tensor.dtype.type, tensor.shape, tensor.address)
        self._session.run_with_iobinding(binding, self._options)
        if current is not own:
            current.wait(own.record())


class OrtCudaBackend:
    """Graphs of one bundle on ONNX Runtime, on a CUDA device.

    Steps are not captured: sessions allocate while they run.

    Args:
        bundle: where the graphs come from.
        threads: of the few operators that stay on the host; None leaves it to ONNX Runtime.
        hint: not used.
        provider: a key of `PROVIDERS`.
        stream: handle of the caller's own stream; None makes one.

    Raises BackendUnavailable without a device, or where ONNX Runtime opens another provider than was asked for.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        hint: str = "latency",
        provider: str = "cuda",
        stream: int | None = None,
    ) -> None:
        self._provider, self._kind = PROVIDERS[provider], provider
        if self._provider not in onnxruntime.get_available_providers():
            raise BackendUnavailable(
                f"ONNX Runtime {onnxruntime.__version__} here has no {self._provider}, only "
                f"{', '.join(onnxruntime.get_available_providers())}; {HOW_TO_INSTALL}"
            )
        self.device_memory = open_memory(stream)
        self.steps = CudaSteps(self.device_memory, bundle.model, replays=False)
        onnxruntime.preload_dlls()  # pip's NVIDIA libraries, if there are any
        self._bundle, self._threads = bundle, threads
        device = self.device_memory.device.name
        self.description = (
            f"ONNX Runtime {onnxruntime.__version__}, {self._provider}, {device}, fp32"
        )

    def load(self, graph: str) -> OrtCudaEngine:
        """Raises BundleError for a graph that it refuses or that is not as agreed, BackendUnavailable without its
        provider.
        """
        streams = self.device_memory.streams
        stream = streams.encode if graph == "image_encoder" else streams.step
        options = onnxruntime.SessionOptions()
        options.log_severity_level = WARNINGS_AND_WORSE
        # What is left to the processor is looked at below; older releases can only forbid all of it, shapes too.
        can_tell = hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")
        guard = "record_ep_graph_assignment_info" if can_tell else "disable_cpu_ep_fallback"
        options.add_session_config_entry(f"session.{guard}", "1")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        data = read_whole_graph(self._bundle, graph)
        if self._kind == "tensorrt":
            data = typed_graph(data, graph, PRECISIONS["fp32"])
        try:
            session = onnxruntime.InferenceSession(
                data,
                options,
                providers=self._with_options(int(stream.handle), graph, data),
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime's own classes share no public base
            raise self._refused(graph, error) from error
        opened = session.get_providers()
        if opened[0] != self._provider:
            raise BackendUnavailable(
                f"asked for {self._provider}, ONNX Runtime opened {opened}: its CUDA libraries are missing or of "
                f"another version; {HOW_TO_INSTALL}"
            )
        if can_tell and (left := left_to_the_host(session)):
            raise BackendUnavailable(
                f"ONNX Runtime {onnxruntime.__version__} leaves {', '.join(left)} of {graph} to the processor; "
                f"{self._provider} was asked for"
            )
        check_graph(self._bundle, graph, spec_of_session(session))
        return OrtCudaEngine(session, self.device_memory, stream)

    def close(self) -> None:
        """Wait for what is enqueued."""
        self.steps.synchronize()

    def _with_options(self, stream: int, graph: str, data: bytes) -> list[Any]:
        """Providers in order: what TensorRT does not take goes to CUDA, and nothing to the processor.

        ONNX Runtime knows its engines by their names alone, so that everything which would make one wrong is in them.
        """
        cuda = (PROVIDERS["cuda"], {"user_compute_stream": str(stream), "use_tf32": "0"})
        if self._kind == "cuda":
            return [cuda]
        # Words for what is on or off: this provider has not always taken numbers.
        options = {"user_compute_stream": str(stream), "trt_engine_cache_enable": "False"}
        folder = cache_folder("ort-tensorrt")
        if folder is not None:
            device = self.device_memory.device
            card = f"{device.name}-{device.architecture}".replace(" ", "-").replace("/", "-")
            versions = f"{onnxruntime.__version__}-{tensorrt_version()}"
            prefix = f"{graph}-{hashlib.sha256(data).hexdigest()[:16]}-{versions}-{card}"
            options |= {
                "trt_engine_cache_enable": "True",
                "trt_engine_cache_path": os.fspath(folder),
                "trt_engine_cache_prefix": prefix,
                "trt_timing_cache_enable": "True",
                "trt_timing_cache_path": os.fspath(folder),
            }
        return [(PROVIDERS["tensorrt"], options), cuda]

    def _refused(self, graph: str, error: Exception) -> BackendUnavailable | BundleError:
        text = str(error)
        version = onnxruntime.__version__
        if "fallback to CPU" in text:
            return BackendUnavailable(
                f"ONNX Runtime {version} would run a part of {graph} on the processor, which is not what was asked "
                f"for: {text}"
            )
        if "libcu" in text or "libnvinfer" in text or "LoadLibrary" in text:
            return BackendUnavailable(
                f"ONNX Runtime {version} does not open {self._provider}: {text}; {HOW_TO_INSTALL}"
            )
        return BundleError(f"{self._bundle.path}: ONNX Runtime {version} refuses {graph}: {text}")
